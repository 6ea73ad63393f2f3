// The reading half of a safetensors header. Its text comes from anywhere: nothing in it is believed
// before it is checked.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "configs/json_text.h"
#include "engine/convert/safetensors.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr size_t kMostDims = 32;

// Fills a header event by event: a document tree of 100 MB of text would take a gigabyte. Stops at
// the first thing that no header has, with `fault` saying what.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader header;
  std::string fault;

  bool key(string_t& name) override {
    if (depth_ == 1) return BeginEntry(name);
    if (metadata_) {
      key_ = name;
      return true;
    }
    field_ = name == "dtype" ? kDtype : name == "shape" ? kShape : kOffsets;
    if (field_ == kOffsets && name != "data_offsets") {
      return Fail("has a field '" + name.substr(0, 40) + "', which safetensors does not know");
    }
    if ((seen_ & field_) != 0) return Fail("states " + name + " twice");
    seen_ |= field_;
    return true;
  }
  bool string(string_t& text) override {
    if (depth_ != 2 || in_array_) return Fail("has a text where none belongs");
    if (metadata_) {
      header.metadata[key_] = text;
      return true;
    }
    if (field_ != kDtype) return Fail("has a text where numbers belong");
    if (!ParseElement(text, tensor_.element)) {
      return Fail("has dtype '" + text.substr(0, 40) + "', which this program does not read");
    }
    return true;
  }
  bool start_object(size_t) override {
    if (in_array_ || ++depth_ > 2) return Fail("is nested deeper than a header is");
    return true;
  }
  bool end_object() override {
    if (depth_-- == 1 || metadata_) return true;
    if (seen_ != (kDtype | kShape | kOffsets)) {
      return Fail("lacks one of dtype, shape and data_offsets");
    }
    header.tensors.push_back(std::move(tensor_));
    return true;
  }
  bool start_array(size_t) override {
    if (depth_ != 2 || in_array_ || metadata_ || field_ == kDtype) {
      return Fail("has a list where none belongs");
    }
    in_array_ = true;
    numbers_ = 0;
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    return field_ != kOffsets || numbers_ == 2 || Fail("has data_offsets that are not two numbers");
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) return Fail("has a number where none belongs");
    if (value > static_cast<number_unsigned_t>(INT64_MAX)) return Fail("has a number beyond 2^63");
    if (++numbers_ > (field_ == kShape ? kMostDims : 2)) return Fail("has a list that is too long");
    const int64_t number = static_cast<int64_t>(value);
    if (field_ == kShape) {
      tensor_.shape.push_back(number);
    } else {
      (numbers_ == 1 ? tensor_.begin : tensor_.end) = number;
    }
    return true;
  }
  bool number_integer(number_integer_t) override { return Fail("has a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return Fail("has a number that is no integer");
  }
  bool null() override { return Fail("has a null"); }
  bool boolean(bool) override { return Fail("has a truth value"); }
  bool binary(binary_t&) override { return Fail("has binary data"); }
  bool parse_error(size_t at, const std::string&, const nlohmann::detail::exception&) override {
    if (fault.empty()) fault = "its header is not JSON (byte " + std::to_string(at) + ")";
    return false;
  }

 private:
  enum Field : unsigned { kDtype = 1, kShape = 2, kOffsets = 4 };

  bool BeginEntry(const std::string& name) {
    metadata_ = name == "__metadata__";
    tensor_ = StoredTensor{name, Element::kF32, {}, 0, 0};
    seen_ = 0;
    if (!names_.insert(name).second) return Fail("is there twice");
    return true;
  }
  bool Fail(const std::string& what) {
    if (fault.empty()) {
      fault = depth_ < 1 || tensor_.name.empty()
                  ? "its header " + what
                  : "tensor '" + ShownKey(tensor_.name) + "' " + what;
    }
    return false;
  }

  int depth_ = 0;
  bool metadata_ = false;
  bool in_array_ = false;
  size_t numbers_ = 0;
  unsigned seen_ = 0;
  Field field_ = kDtype;
  std::string key_;
  StoredTensor tensor_;
  std::set<std::string> names_;
};

// Offsets are relative to the data; makes them absolute. "": sound.
std::string PlaceTensors(std::vector<StoredTensor>& tensors, int64_t data_begin,
                         int64_t file_bytes) {
  std::sort(tensors.begin(), tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  const int64_t data_bytes = file_bytes - data_begin;
  int64_t expected = 0;
  for (StoredTensor& tensor : tensors) {
    const std::string name = "tensor '" + ShownKey(tensor.name) + "' ";
    const int64_t elements = ShapeElements(tensor.shape);
    const int64_t size = BytesOf(tensor.element);
    if (tensor.begin > tensor.end) return name + "ends before it begins";
    if (tensor.end > data_bytes) {
      return name + "ends at byte " + std::to_string(tensor.end) + " of " +
             std::to_string(data_bytes) + ": the file is truncated; get it again";
    }
    if (elements < 0 || elements > INT64_MAX / size ||
        elements * size != tensor.end - tensor.begin) {
      return name + "has " + std::to_string(tensor.end - tensor.begin) +
             " bytes, which its shape and dtype do not make";
    }
    if (tensor.begin < expected) return name + "overlaps the one before it";
    if (tensor.begin > expected) {
      return name + "leaves " + std::to_string(tensor.begin - expected) +
             " bytes before it that belong to nothing";
    }
    expected = tensor.end;
    tensor.begin += data_begin;
    tensor.end += data_begin;
  }
  if (expected != data_bytes) {
    return std::to_string(data_bytes - expected) + " bytes at its end belong to no tensor";
  }
  return "";
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view text, int64_t file_bytes,
                                                         const std::string& path) {
  HeaderReader reader;
  if (text.empty() || text.front() != '{') {
    return absl::DataLossError(path + ": its header does not begin with '{': no safetensors file");
  }
  const bool whole = nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  std::string fault = whole ? "" : reader.fault;
  if (whole) {
    const int64_t data_begin = 8 + static_cast<int64_t>(text.size());
    fault = PlaceTensors(reader.header.tensors, data_begin, file_bytes);
  }
  if (whole && fault.empty()) return std::move(reader.header);
  return absl::DataLossError(path + ": " + (fault.empty() ? "its header is not JSON" : fault));
}

}  // namespace mneme
