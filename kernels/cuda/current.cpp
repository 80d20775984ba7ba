// The current device and its stream.
#include <torch/csrc/stable/accelerator.h>

#include "tensors.h"

namespace seg::cuda {

bool is_on_gpu(const Tensor& tensor) { return tensor.is_cuda(); }

Current::Current(const Tensor& tensor)
    : guard_(std::make_shared<torch::stable::accelerator::DeviceGuard>(tensor.get_device_index())) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  stream_ = static_cast<cudaStream_t>(stream);
}

}  // namespace seg::cuda
