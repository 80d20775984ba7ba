// Registration with torch. Shapes, gradients and autocast are registered in Python, beside the reference.
#include "operators.h"

STABLE_TORCH_LIBRARY(seg_cpu, m) {
  m.def(
      "deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, int stride_h, int stride_w, "
      "int padding_h, int padding_w, int dilation_h, int dilation_w) -> Tensor");
  m.def(
      "deform_conv2d_backward(Tensor grad, Tensor input, Tensor offset, Tensor weight, Tensor? mask, int stride_h, "
      "int stride_w, int padding_h, int padding_w, int dilation_h, int dilation_w, bool need_input, bool need_offset, "
      "bool need_weight, bool need_mask) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("confusion(Tensor truth, Tensor prediction, int classes, int ignore) -> Tensor");
  m.def("isa() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(seg_cpu, CPU, m) {
  m.impl("deform_conv2d", TORCH_BOX(&seg::deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&seg::deform_conv2d_backward));
  m.impl("confusion", TORCH_BOX(&seg::confusion));
}

STABLE_TORCH_LIBRARY_IMPL(seg_cpu, CompositeExplicitAutograd, m) { m.impl("isa", TORCH_BOX(&seg::isa)); }
