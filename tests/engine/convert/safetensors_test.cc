#include "engine/convert/safetensors.h"

#include <gmock/gmock.h>

#include <vector>

#include "engine/convert/weight_folder.h"
#include "tests/data/scratch.h"

namespace mneme {
namespace {

using testing::HasSubstr;

// A file of a header as written and so many bytes of data.
std::string File(const std::string& header, size_t data, int64_t length = -1) {
  const uint64_t n = length < 0 ? header.size() : static_cast<uint64_t>(length);
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(n >> (8 * i) & 0xff);
  return bytes + header + std::string(data, '\x01');
}

std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

class Safetensors : public Scratch {
 protected:
  absl::Status Write(const std::string& name, const std::vector<PlannedTensor>& tensors) {
    auto writer = SafetensorsWriter::Create(Path(name), tensors, {{"format", "pt"}});
    if (!writer.ok()) return writer.status();
    for (const PlannedTensor& tensor : tensors) {
      std::vector<double> values(static_cast<size_t>(ShapeElements(tensor.shape)));
      for (size_t i = 0; i < values.size(); ++i) values[i] = 0.5 * static_cast<double>(i) - 1.0;
      const absl::Span<const double> all(values);
      const size_t half = values.size() / 2;
      if (absl::Status s = (*writer)->Append(all.subspan(0, half)); !s.ok()) return s;
      if (absl::Status s = (*writer)->Append(all.subspan(half)); !s.ok()) return s;
    }
    return (*writer)->Close();
  }
  void ExpectRefused(const std::string& bytes, const std::string& why) {
    const auto file = SafetensorsFile::Open(Put("broken.safetensors", bytes));
    ASSERT_FALSE(file.ok()) << why;
    EXPECT_EQ(file.status().code(), absl::StatusCode::kDataLoss);
    const std::string message(file.status().message());
    EXPECT_THAT(message, HasSubstr(why));
    EXPECT_THAT(message, HasSubstr("broken.safetensors: "));
    EXPECT_THAT(message, testing::Not(HasSubstr("\n")));
  }
};

TEST_F(Safetensors, WhatIsWrittenIsRead) {
  ASSERT_TRUE(Write("w.safetensors", {{"a", Element::kF32, {3, 4}},
                                      {"none", Element::kF32, {0, 4}},
                                      {"b", Element::kBf16, {5}},
                                      {"c", Element::kI32, {}}})
                  .ok());
  const auto file = SafetensorsFile::Open(Path("w.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->header().metadata.at("format"), "pt");
  const std::vector<StoredTensor>& tensors = (*file)->header().tensors;
  ASSERT_EQ(tensors.size(), 4u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].shape, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(tensors[0].begin % 8, 0);
  std::vector<double> some(5);
  ASSERT_TRUE((*file)->Read(tensors[0], 4, absl::MakeSpan(some)).ok());
  EXPECT_EQ(some, (std::vector<double>{1.0, 1.5, 2.0, 2.5, 3.0}));
  EXPECT_FALSE(std::filesystem::exists(Path("w.safetensors.part")));
}

// The first bytes of a file as the format's own writer makes them: length, JSON, spaces to 8.
TEST_F(Safetensors, HeaderIsTheFormats) {
  const std::string header = MakeSafetensorsHeader({{"x", Element::kF32, {2}}}, {});
  const std::string json = R"({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0,8]}})";
  EXPECT_EQ(header.substr(0, 8), std::string("\x40\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(header.substr(8), json + std::string(64 - json.size(), ' '));
}

TEST_F(Safetensors, GivenUpLeavesNothing) {
  {
    const auto writer =
        SafetensorsWriter::Create(Path("x.safetensors"), {{"a", Element::kF32, {9}}}, {});
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(Safetensors, DamageIsOneClearMessage) {
  const std::string good = Entry("a", "F32", "[2]", "[0,8]");
  ExpectRefused("", "no safetensors file is so short");
  ExpectRefused(std::string("\x10\0\0\0\0\0\0\0{", 9), "truncated");
  ExpectRefused(File("{" + good + "}", 8, int64_t{200} << 20), "more than the 100000000");
  ExpectRefused(std::string(8, '\xff') + "{}", "more than the 100000000");
  ExpectRefused(File("x" + good, 8), "does not begin with '{'");
  ExpectRefused(File("{" + good, 8), "not JSON");
  ExpectRefused(File("{" + good + "}", 7), "truncated");
  ExpectRefused(File("{" + good + "}", 9), "1 bytes at its end belong to no tensor");
  ExpectRefused(File("{" + good + "," + good + "}", 8), "'a' is there twice");
  ExpectRefused(File("{" + Entry("a", "F31", "[2]", "[0,8]") + "}", 8), "dtype 'F31'");
  ExpectRefused(File("{" + Entry("a", "F32", "[3]", "[0,8]") + "}", 8), "its shape and dtype");
  ExpectRefused(File("{" + Entry("a", "F32", "[-2]", "[0,8]") + "}", 8), "negative");
  ExpectRefused(File("{" + Entry("a", "F32", "[2.0]", "[0,8]") + "}", 8), "no integer");
  ExpectRefused(File("{" + Entry("a", "F32", "[4294967296,4294967296,4]", "[0,8]") + "}", 8),
                "its shape and dtype");
  ExpectRefused(File("{" + Entry("a", "F32", "[2]", "[8,0]") + "}", 8), "ends before it begins");
  ExpectRefused(File("{" + Entry("a", "F32", "[2]", "[0,8,9]") + "}", 8), "too long");
  ExpectRefused(File("{" + Entry("a", "F32", "[2]", "[0]") + "}", 8), "not two numbers");
  ExpectRefused(File("{" + good + "," + Entry("b", "F32", "[2]", "[4,12]") + "}", 12), "overlaps");
  ExpectRefused(File("{" + good + "," + Entry("b", "F32", "[2]", "[12,20]") + "}", 20),
                "4 bytes before it that belong to nothing");
  ExpectRefused(File(R"({"a":{"dtype":"F32","shape":[2]}})", 8), "lacks one of");
  ExpectRefused(File(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2]}})", 8), "dtype twice");
  ExpectRefused(File(R"({"a":{"dtype":"F32","shape":[2],"stride":[1]}})", 8), "'stride'");
  ExpectRefused(File(R"({"a":[1]})", 8), "list where none belongs");
  ExpectRefused(File(R"({"a":{"dtype":{"x":1}}})", 8), "nested deeper");
  ExpectRefused(File(R"({"a":null})", 8), "null");
}

TEST_F(Safetensors, FolderAgreesWithItsIndex) {
  ASSERT_TRUE(Write("one.safetensors", {{"a", Element::kF32, {2}}}).ok());
  ASSERT_TRUE(Write("two.safetensors", {{"b", Element::kF32, {2}}}).ok());
  const auto open = [&](const std::string& index) {
    Put(kIndexName, index);
    return WeightFolder::Open(folder_.string());
  };
  const auto refused = [&](const std::string& index, const std::string& why) {
    const auto folder = open(index);
    ASSERT_FALSE(folder.ok()) << why;
    EXPECT_THAT(std::string(folder.status().message()), HasSubstr(why));
  };
  const auto folder = open(R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ((*folder)->tensors().size(), 2u);
  EXPECT_NE((*folder)->Find("b"), nullptr);
  EXPECT_EQ((*folder)->Find("c"), nullptr);
  refused(R"({"weight_map":{"a":"one.safetensors","b":"three.safetensors"}})",
          "three.safetensors: is missing");
  refused(R"({"weight_map":{"a":"two.safetensors","b":"two.safetensors"}})",
          "lacks the tensor 'a'");
  refused(R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors"}})",
          "lacks the tensor 'b'");
  refused(R"({"weight_map":{"a":"../one.safetensors"}})", "no plain file name");
  refused(R"({"weight_map":{}})", "no weight_map");
  refused(R"({"weight_map":)", "not JSON");
  ASSERT_TRUE(
      Write("two.safetensors", {{"b", Element::kF32, {2}}, {"x", Element::kF32, {2}}}).ok());
  refused(R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})", "a tensor 'x' that");
  ASSERT_TRUE(
      Write("two.safetensors", {{"a", Element::kF32, {2}}, {"b", Element::kF32, {2}}}).ok());
  refused(R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})", "is also in");
  const auto none = WeightFolder::Open(Path("nowhere"));
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace mneme
