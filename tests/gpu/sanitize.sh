#!/bin/sh
# The kernels under NVIDIA's compute-sanitizer, on small cases, on this machine's GPU; stops at the first fault.
set -e
cd "$(dirname "$0")/../.."
KERNELS="tests/gpu/test_fused.py tests/gpu/test_convolution.py tests/gpu/test_window_attention.py"

check() {
  tool=$1
  shift
  echo "$tool: $*"
  compute-sanitizer --tool "$tool" --error-exitcode 1 "${PYTHON:-python}" -m pytest -q -x "$@" --device cuda
}

# memcheck and initcheck see global memory, racecheck shared memory, of which these kernels make use.
check memcheck $KERNELS tests/gpu/test_pixels.py tests/gpu/test_values.py
check racecheck $KERNELS -k "not wide"
check initcheck tests/gpu/test_fused.py tests/gpu/test_values.py
