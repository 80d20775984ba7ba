// The RoI pooling's operators of the library seg_cuda.
#pragma once

#include <tuple>

#include "tensors.h"

namespace seg::cuda {

// Arguments as of the operators of seg_cpu; sizes, types and devices are checked here, the boxes' images in Python.
Tensor roi_pool(const Tensor& maps, const Tensor& image, const Tensor& first, const Tensor& step, const Tensor& count,
                const std::optional<Tensor>& mask, int64_t group_rows, int64_t group_columns, int64_t border,
                bool channels_last);

// Gradients of maps, first and mask, in the computing type; an empty tensor for each that is not asked for.
// `deterministic`: the same bits in every run.
std::tuple<Tensor, Tensor, Tensor> roi_pool_backward(
    const Tensor& grad, const Tensor& maps, const Tensor& image, const Tensor& first, const Tensor& step,
    const Tensor& count, const std::optional<Tensor>& mask, int64_t group_rows, int64_t group_columns, int64_t border,
    bool need_maps, bool need_first, bool need_mask, bool deterministic);

}  // namespace seg::cuda
