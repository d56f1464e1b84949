#include <new>

#include "cuda/common.cuh"
#include "cuda/memory.h"
#include "cuda/stream.h"

namespace fr::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that does not stick is ours alone
  int driver = 0;
  if (status == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
    throw NoDevice("no CUDA driver on this machine");
  if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver || status == cudaErrorStubLibrary ||
      status == cudaErrorSystemDriverMismatch || status == cudaErrorNoKernelImageForDevice)
    throw NoDevice(cudaGetErrorString(status));
  throw CudaError(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

Device current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    return value;
  };
  return {10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor),
          attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

int device_count() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  if (count == 0) throw NoDevice("the driver knows of no device");
  return count;
}

DeviceMemory::DeviceMemory(int64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw std::bad_alloc();
  }
  check(status, "cudaMalloc");
  data_ = static_cast<uint8_t*>(data);
}

DeviceMemory::~DeviceMemory() { cudaFree(data_); }

void copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes, int64_t rows,
          Stream stream) {
  check(cudaMemcpy2DAsync(to, static_cast<size_t>(to_pitch), from, static_cast<size_t>(from_pitch),
                          static_cast<size_t>(row_bytes), static_cast<size_t>(rows), cudaMemcpyDefault,
                          static_cast<cudaStream_t>(stream)),
        "cudaMemcpy2DAsync");
}

void clear(void* to, int64_t bytes, Stream stream) {
  check(cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
}

void wait(Stream stream) { check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "cudaStreamSynchronize"); }

void release_stream(void* stream) { cudaStreamDestroy(static_cast<cudaStream_t>(stream)); }
void release_event(void* event) { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }
void release_launches(void* launches) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(launches)); }
void release_host_memory(void* data) { cudaFreeHost(data); }

OwnStream make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return OwnStream(stream);
}

Event make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  return Event(event);
}

HostMemory make_host_memory(int64_t bytes) {
  void* data = nullptr;
  const cudaError_t status = cudaMallocHost(&data, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw std::bad_alloc();
  }
  check(status, "cudaMallocHost");
  return HostMemory(data);
}

void record(const Event& event, Stream stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(event.get()), static_cast<cudaStream_t>(stream)), "cudaEventRecord");
}

void wait_for(Stream stream, const Event& event) {
  check(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event.get()), 0),
        "cudaStreamWaitEvent");
}

void wait(const Event& event) {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(event.get())), "cudaEventSynchronize");
}

Launches record_launches(Stream stream, const std::function<void()>& launch) {
  const auto recording = static_cast<cudaStream_t>(stream);
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(recording, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  try {
    launch();
  } catch (...) {
    cudaStreamEndCapture(recording, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(recording, &graph), "cudaStreamEndCapture");
  cudaGraphExec_t launches = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&launches, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
  return Launches(launches);
}

void launch(const Launches& launches, Stream stream) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(launches.get()), static_cast<cudaStream_t>(stream)),
        "cudaGraphLaunch");
}

bool on_device(const void* data) {
  cudaPointerAttributes about{};
  check(cudaPointerGetAttributes(&about, data), "cudaPointerGetAttributes");
  return about.type == cudaMemoryTypeDevice || about.type == cudaMemoryTypeManaged;
}

}  // namespace fr::cuda
