#include "tests/device_under_test.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <string_view>

#include "kernels/core/driver.h"

namespace mneme::test {
namespace {

class Chosen : public testing::Environment {
 public:
  void SetUp() override {
    if (!TestingGpu()) return;
    if (GpuDriver() == nullptr) {
      std::cout << "MNEME_TEST_DEVICE=gpu: this program was built without a GPU" << std::endl;
      std::exit(1);
    }
    std::string why;
    if (GpuDriver()->count(&why) > 0) return;
    std::cout << "skipped: no GPU on this machine (" << why << ")" << std::endl;
    std::exit(kSkippedExitCode);
  }
};
const testing::Environment* const kChosen = testing::AddGlobalTestEnvironment(new Chosen);

}  // namespace

bool TestingGpu() {
  static const char* const name = std::getenv("MNEME_TEST_DEVICE");
  return name != nullptr && std::string_view(name) == "gpu";
}

Stream& GpuStream() {
  static const Device gpu{.kind = Device::Kind::kGpu, .index = 0};
  static auto* const pool = new Allocator(gpu);
  static auto* const stream = new Stream(gpu, *pool);
  return *stream;
}

std::string Bytes(const Tensor& t) {
  std::string bytes(static_cast<size_t>(t.bytes()), '\0');
  if (t.device().is_cpu()) {
    bytes.assign(static_cast<const char*>(t.raw()), bytes.size());
  } else {
    Download(GpuStream(), t, bytes.data(), t.bytes());
  }
  return bytes;
}

}  // namespace mneme::test
