// Memory, queues, copies and recorded work of NVIDIA GPUs.
#include <cstring>
#include <mutex>

#include "kernels/core/driver.h"
#include "kernels/gpu/blas.h"
#include "kernels/gpu/device/chain.cuh"
#include "kernels/gpu/launch.cuh"

namespace mneme {
namespace gpu {
namespace {

// What cuBLASLt asks for on Hopper.
constexpr size_t kBlasWorkspace = size_t{32} << 20;

constexpr int kMessageThreads = 256;

Queue& Of(void* queue) { return *static_cast<Queue*>(queue); }

void* Allocate(int device, int64_t bytes) {
  Check(cudaSetDevice(device));
  void* block = nullptr;
  const cudaError_t error = cudaMalloc(&block, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  Check(error);
  return block;
}

void Release(void* block) { Check(cudaFree(block)); }

// Whatever of the kernels the device has an image of, it has of this one.
__global__ void Probe() {}

// urgent: what it is given goes before the work of ordinary queues that wait for the device too.
void* Open(int device, bool urgent) {
  auto* queue = new Queue;
  queue->device = device;
  Check(cudaSetDevice(device));
  Check(cudaDeviceGetAttribute(&queue->multiprocessors, cudaDevAttrMultiProcessorCount, device));
  Check(cudaDeviceGetAttribute(&queue->major, cudaDevAttrComputeCapabilityMajor, device));
  Check(cudaDeviceGetAttribute(&queue->minor, cudaDevAttrComputeCapabilityMinor, device));
  Check(cudaDeviceGetAttribute(&queue->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                               device));
  cudaFuncAttributes image = {};
  Check(cudaFuncGetAttributes(&image, reinterpret_cast<const void*>(Probe)));
  queue->chains = image.ptxVersion >= 90;
  int least = 0;
  int greatest = 0;
  Check(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  Check(cudaStreamCreateWithPriority(&queue->stream, cudaStreamNonBlocking,
                                     urgent ? greatest : least));
  Check(cudaMalloc(&queue->blas_workspace, kBlasWorkspace));
  queue->blas_workspace_bytes = kBlasWorkspace;
  CheckBlas(cublasLtCreate(&queue->blas));
  return queue;
}

void* OpenQueue(int device) { return Open(device, false); }
void* OpenSide(int device) { return Open(device, true); }

// Where bytes on their way to the host arrive.
struct Message {
  void* host = nullptr;  // pinned, kMostSent bytes
  cudaEvent_t arrived = nullptr;
};

void FreeMessages(Queue& q) {
  for (void* idle : q.idle_messages) {
    auto* message = static_cast<Message*>(idle);
    Check(cudaEventDestroy(message->arrived));
    Check(cudaFreeHost(message->host));
    delete message;
  }
}

void CloseQueue(void* queue) {
  Queue& q = Of(queue);
  Check(cudaStreamSynchronize(q.stream));
  FreeMessages(q);
  for (const cudaEvent_t mark : q.idle_marks) Check(cudaEventDestroy(mark));
  q.attention_plans.reset();
  q.matmul_plans.reset();
  CheckBlas(cublasLtDestroy(q.blas));
  Check(cudaFree(q.blas_workspace));
  Check(cudaStreamDestroy(q.stream));
  delete &q;
}

void Synchronize(void* queue) { Check(cudaStreamSynchronize(Of(queue).stream)); }

void Zero(void* queue, void* to, int64_t bytes) {
  Check(cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), Of(queue).stream));
}

// Pageable memory is staged by the driver before the call returns.
void Upload(void* queue, const void* host, void* to, int64_t bytes) {
  Check(cudaMemcpyAsync(to, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice,
                        Of(queue).stream));
}

void Download(void* queue, const void* from, void* host, int64_t bytes) {
  Check(cudaMemcpyAsync(host, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost,
                        Of(queue).stream));
  Synchronize(queue);
}

// A kernel writes them and not a copy, which would hand over to a copy engine and back: what stands
// behind it in the queue waits some 2 µs less on either side.
__global__ void WriteMessage(const unsigned char* from, int bytes, unsigned char* host) {
  LetTheNextStart();
  for (int i = static_cast<int>(threadIdx.x); i < bytes; i += kMessageThreads) {
    host[i] = from[i];
  }
}

// Messages are made once and used again: to pin memory may wait for the device.
void* Send(void* queue, const void* from, int64_t bytes) {
  CHECK_LE(bytes, Driver::kMostSent);
  Queue& q = Of(queue);
  Message* message = nullptr;
  if (q.idle_messages.empty()) {
    message = new Message;
    Check(cudaSetDevice(q.device));
    Check(cudaMallocHost(&message->host, Driver::kMostSent));
    Check(cudaEventCreateWithFlags(&message->arrived, cudaEventDisableTiming));
  } else {
    message = static_cast<Message*>(q.idle_messages.back());
    q.idle_messages.pop_back();
  }
  WriteMessage<<<1, kMessageThreads, 0, q.stream>>>(static_cast<const unsigned char*>(from),
                                                    static_cast<int>(bytes),
                                                    static_cast<unsigned char*>(message->host));
  Check(cudaGetLastError());
  Check(cudaEventRecord(message->arrived, q.stream));
  return message;
}

void Receive(void* queue, void* sent, void* host, int64_t bytes) {
  auto* message = static_cast<Message*>(sent);
  Check(cudaEventSynchronize(message->arrived));
  if (bytes > 0) std::memcpy(host, message->host, static_cast<size_t>(bytes));
  Of(queue).idle_messages.push_back(message);
}

// A mark goes over to the queue that has awaited it.
void* Mark(void* queue) {
  Queue& q = Of(queue);
  cudaEvent_t mark = nullptr;
  if (q.idle_marks.empty()) {
    Check(cudaSetDevice(q.device));
    Check(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming));
  } else {
    mark = q.idle_marks.back();
    q.idle_marks.pop_back();
  }
  Check(cudaEventRecord(mark, q.stream));
  return mark;
}

void Await(void* queue, void* mark) {
  Queue& q = Of(queue);
  const auto event = static_cast<cudaEvent_t>(mark);
  Check(cudaStreamWaitEvent(q.stream, event, 0));
  q.idle_marks.push_back(event);
}

void* Stamp(void* queue, void* stamp) {
  Queue& q = Of(queue);
  auto event = static_cast<cudaEvent_t>(stamp);
  if (event == nullptr) {
    Check(cudaSetDevice(q.device));
    Check(cudaEventCreate(&event));
  }
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  Check(cudaStreamIsCapturing(q.stream, &status));
  const bool recording = status == cudaStreamCaptureStatusActive;
  Check(cudaEventRecordWithFlags(event, q.stream,
                                 recording ? cudaEventRecordExternal : cudaEventRecordDefault));
  return event;
}

double Seconds(void* from, void* to) {
  float milliseconds = 0.0F;
  Check(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(from),
                             static_cast<cudaEvent_t>(to)));
  return static_cast<double>(milliseconds) * 1e-3;
}

void ReleaseStamp(void* stamp) { Check(cudaEventDestroy(static_cast<cudaEvent_t>(stamp))); }

// Held from the beginning of a recording until the device has it. Runs side by side in one process
// that recorded at once were seen to stand still there for ever, two of four.
std::mutex& Recording() {
  static std::mutex& mutex = *new std::mutex;
  return mutex;
}

void BeginRecord(void* queue) {
  Of(queue).recording = std::unique_lock<std::mutex>(Recording());
  Check(cudaStreamBeginCapture(Of(queue).stream, cudaStreamCaptureModeThreadLocal));
}

void* EndRecord(void* queue) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t record = nullptr;
  Check(cudaStreamEndCapture(Of(queue).stream, &graph));
  Check(cudaGraphInstantiate(&record, graph, 0));
  Check(cudaGraphDestroy(graph));
  Check(cudaGraphUpload(record, Of(queue).stream));
  Check(cudaStreamSynchronize(Of(queue).stream));
  Of(queue).recording.unlock();
  return record;
}

void Replay(void* queue, void* record) {
  Check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(record), Of(queue).stream));
}

void ReleaseRecord(void* record) {
  Check(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(record)));
}

int Count(std::string* why) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  *why = error == cudaSuccess ? "no GPU is visible" : cudaGetErrorString(error);
  return 0;
}

GpuInfo Info(int device) {
  cudaDeviceProp properties = {};
  Check(cudaGetDeviceProperties(&properties, device));
  GpuInfo info;
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  char id[32] = {};
  Check(cudaDeviceGetPCIBusId(id, sizeof id, device));
  info.id = id;
  size_t free = 0;
  size_t total = 0;
  Check(cudaSetDevice(device));
  Check(cudaMemGetInfo(&free, &total));
  info.free_bytes = static_cast<int64_t>(free);
  info.total_bytes = static_cast<int64_t>(total);
  return info;
}

// Generic kernels carry PTX for compute_80, the least that they are written for; a build for one
// kind of GPU alone has no image for others.
std::string Unsupported(int device) {
  Check(cudaSetDevice(device));
  cudaFuncAttributes attributes = {};
  const cudaError_t error =
      cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(Probe));
  if (error == cudaSuccess) return "";
  cudaGetLastError();
  const GpuInfo info = Info(device);
  return NoCodeFor(info);
}

constexpr Driver kDriver = {
    .allocate = Allocate,
    .release = Release,
    .open_queue = OpenQueue,
    .open_side = OpenSide,
    .close_queue = CloseQueue,
    .synchronize = Synchronize,
    .zero = Zero,
    .upload = Upload,
    .download = Download,
    .send = Send,
    .receive = Receive,
    .mark = Mark,
    .await = Await,
    .stamp = Stamp,
    .seconds = Seconds,
    .release_stamp = ReleaseStamp,
    .begin_record = BeginRecord,
    .end_record = EndRecord,
    .replay = Replay,
    .release_record = ReleaseRecord,
    .count = Count,
    .info = Info,
    .unsupported = Unsupported,
};

}  // namespace
}  // namespace gpu

const Driver* GpuDriver() { return &gpu::kDriver; }

}  // namespace mneme
