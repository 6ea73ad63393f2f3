#include "tests/engine/convert/weights_fuzz.h"

#include <string_view>

#include "configs/json_text.h"
#include "engine/convert/foreign_config.h"
#include "engine/convert/safetensors.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

// What was accepted must be what a header may be: reading ranges of it stays inside the file.
void CheckHeader(std::string_view text, int64_t data_bytes) {
  const int64_t begin = 8 + static_cast<int64_t>(text.size());
  const auto header = ParseSafetensorsHeader(text, begin + data_bytes, "input");
  if (!header.ok()) return;
  int64_t at = begin;
  for (const StoredTensor& tensor : header->tensors) {
    CHECK_EQ(tensor.begin, at);
    CHECK_EQ(ShapeElements(tensor.shape), tensor.elements());
    at = tensor.end;
  }
  CHECK_EQ(at, begin + data_bytes);
}

}  // namespace

void FuzzWeights(const uint8_t* data, size_t size) {
  if (size < 3) return;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  CheckHeader(text, data[0] | data[1] << 8);
  const auto json = ParseJson(text);
  if (!json.ok()) return;
  CHECK(ParseJson(JsonText(*json)).ok());
  const std::string dense = DenseJson(*json);
  CHECK_EQ(DenseJson(ParseJson(dense).value_or(Json())), dense);
  (void)ReadForeignConfig(*json, "input");
}

}  // namespace mneme

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mneme::FuzzWeights(data, size);
  return 0;
}
