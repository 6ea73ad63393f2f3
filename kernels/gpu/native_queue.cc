#include "kernels/core/native_queue.h"

#include "kernels/core/check.h"
#include "kernels/gpu/queue.h"

namespace mneme {

void* NativeQueue(const Stream& stream) {
  CHECK(!stream.device().is_cpu());
  return static_cast<const gpu::Queue*>(stream.queue())->stream;
}

}  // namespace mneme
