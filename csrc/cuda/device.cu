#include <new>

#include "cuda/common.cuh"
#include "cuda/memory.h"

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

void copy_to_device(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes, int64_t rows,
                    Stream stream) {
  check(cudaMemcpy2DAsync(to, static_cast<size_t>(to_pitch), from, static_cast<size_t>(from_pitch),
                          static_cast<size_t>(row_bytes), static_cast<size_t>(rows), cudaMemcpyHostToDevice,
                          static_cast<cudaStream_t>(stream)),
        "cudaMemcpy2DAsync");
}

void copy_to_host(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t row_bytes, int64_t rows,
                  Stream stream) {
  check(cudaMemcpy2DAsync(to, static_cast<size_t>(to_pitch), from, static_cast<size_t>(from_pitch),
                          static_cast<size_t>(row_bytes), static_cast<size_t>(rows), cudaMemcpyDeviceToHost,
                          static_cast<cudaStream_t>(stream)),
        "cudaMemcpy2DAsync");
}

void clear(void* to, int64_t bytes, Stream stream) {
  check(cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
}

void wait(Stream stream) { check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "cudaStreamSynchronize"); }

}  // namespace fr::cuda
