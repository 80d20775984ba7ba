// The operators of the CUDA sources, registered for tensors of the CPU, beside a device that is none.
#include <operators.h>

// Stands for libtorch's, which asks the driver.
extern "C" AOTITorchError torch_c10_cuda_check_msg(int32_t error, const char*, const char*, uint32_t, bool, char** text) {
  *text = nullptr;
  return error == 0 ? AOTI_TORCH_SUCCESS : AOTI_TORCH_FAILURE;
}

extern "C" void torch_c10_cuda_free_error_msg(char*) {}

// Whether the kernels run backwards from now on; see device.h.
extern "C" __attribute__((visibility("default"))) void seg_run_backwards(int64_t backwards) {
  host::machine.backwards = backwards != 0;
}

// The device that the kernels find from now on.
extern "C" __attribute__((visibility("default"))) void seg_use_device(int64_t multiprocessors, int64_t shared_bytes,
                                                                      int64_t major) {
  seg::cuda::device = {int(multiprocessors), int(shared_bytes), int(major)};
}

namespace seg::cuda {

bool is_on_gpu(const Tensor&) { return true; }
Current::Current(const Tensor&) {}

Tensor count_labels(const Tensor& truth, const Tensor& prediction, int64_t classes, int64_t ignore) {
  Tensor counts = zeros(truth, {classes * (classes + 1) + 1}, ScalarType::Long);
  const Labels labels{truth.const_data_ptr(),
                      prediction.const_data_ptr(),
                      truth.scalar_type() == ScalarType::Byte,
                      prediction.scalar_type() == ScalarType::Byte,
                      truth.numel(),
                      classes,
                      ignore};
  launch_confusion(labels, static_cast<int64_t*>(counts.mutable_data_ptr()), nullptr);
  return counts;
}

}  // namespace seg::cuda

STABLE_TORCH_LIBRARY(seg_cuda_on_host, m) {
  m.def(
      "deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, int stride_h, int stride_w, "
      "int padding_h, int padding_w, int dilation_h, int dilation_w, bool fused=False, bool tf32=False) -> Tensor");
  m.def(
      "deform_conv2d_backward(Tensor grad, Tensor input, Tensor offset, Tensor weight, Tensor? mask, int stride_h, "
      "int stride_w, int padding_h, int padding_w, int dilation_h, int dilation_w, bool need_input, bool need_offset, "
      "bool need_weight, bool need_mask, bool deterministic=False, bool fused=False, bool tf32=False) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def("confusion(Tensor truth, Tensor prediction, int classes, int ignore) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(seg_cuda_on_host, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&seg::cuda::deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&seg::cuda::deform_conv2d_backward));
  m.impl("confusion", TORCH_BOX(&seg::cuda::count_labels));
}
