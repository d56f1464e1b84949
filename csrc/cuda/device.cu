#include "cuda/common.cuh"

namespace fr::cuda {

#ifdef FR_EMULATE

Device current_device() {
  const Machine& machine = Machine::get();
  return {machine.capability, machine.processors, machine.shared_limit};
}
int device_count() { return 1; }

#else

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

#endif

}  // namespace fr::cuda
