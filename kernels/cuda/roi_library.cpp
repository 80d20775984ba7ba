// Registration of the RoI pooling's operators.
#include "roi_pool_operators.h"

STABLE_TORCH_LIBRARY_FRAGMENT(seg_cuda, m) {
  m.def(
      "roi_pool(Tensor maps, Tensor image, Tensor first, Tensor step, Tensor count, Tensor? mask, int group_rows, "
      "int group_columns, int border, bool channels_last) -> Tensor");
  m.def(
      "roi_pool_backward(Tensor grad, Tensor maps, Tensor image, Tensor first, Tensor step, Tensor count, "
      "Tensor? mask, int group_rows, int group_columns, int border, bool need_maps, bool need_first, bool need_mask, "
      "bool deterministic=False) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(seg_cuda, CUDA, m) {
  m.impl("roi_pool", TORCH_BOX(&seg::cuda::roi_pool));
  m.impl("roi_pool_backward", TORCH_BOX(&seg::cuda::roi_pool_backward));
}
