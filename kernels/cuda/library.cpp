// Registration with torch. Shapes, gradients and autocast are registered in Python, beside the reference.
#include "operators.h"

namespace seg::cuda {

namespace {

bool is_label(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Byte || tensor.scalar_type() == ScalarType::Long;
}

}  // namespace

Tensor confusion(const Tensor& truth, const Tensor& prediction, int64_t classes, int64_t ignore) {
  STD_TORCH_CHECK(classes > 0 && classes < (int64_t{1} << 30), "classes must be positive, got ", classes);
  STD_TORCH_CHECK(is_label(truth) && is_label(prediction), "truth and prediction must be uint8 or int64");
  STD_TORCH_CHECK(truth.numel() == prediction.numel() && truth.get_device_index() == prediction.get_device_index(),
                  "truth and prediction must have the same shape and device");
  const Current current(truth);
  const Tensor truths = torch::stable::contiguous(truth), predictions = torch::stable::contiguous(prediction);
  const int64_t pairs = classes * (classes + 1);
  Tensor counts = zeros(truth, {pairs + 1}, ScalarType::Long);
  int64_t* found = static_cast<int64_t*>(counts.mutable_data_ptr());
  const Labels labels{truths.const_data_ptr(), predictions.const_data_ptr(),
                      truth.scalar_type() == ScalarType::Byte, prediction.scalar_type() == ScalarType::Byte,
                      truth.numel(), classes, ignore};
  STD_CUDA_CHECK(launch_confusion(labels, found, current.stream()));
  int64_t invalid = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(&invalid, found + pairs, sizeof invalid, cudaMemcpyDeviceToHost, current.stream()));
  STD_CUDA_CHECK(cudaStreamSynchronize(current.stream()));
  STD_TORCH_CHECK(invalid == 0, "truth holds ", invalid, " labels that are neither 0 to ", classes - 1, " nor ", ignore);
  return torch::stable::view(torch::stable::narrow(counts, 0, 0, pairs), {classes, classes + 1});
}

}  // namespace seg::cuda

STABLE_TORCH_LIBRARY(seg_cuda, m) {
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

STABLE_TORCH_LIBRARY_IMPL(seg_cuda, CUDA, m) {
  m.impl("deform_conv2d", TORCH_BOX(&seg::cuda::deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&seg::cuda::deform_conv2d_backward));
  m.impl("confusion", TORCH_BOX(&seg::cuda::confusion));
}
