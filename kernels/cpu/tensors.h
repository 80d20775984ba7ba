// Between torch's tensors and the plain structs of the kernels. For files that are compiled without special flags.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../arguments.h"
#include "kernels.h"

namespace seg {

using torch::headeronly::MemoryFormat;

// Laid out channels-last, and not contiguous as well (as maps of one channel or one pixel are).
bool is_channels_last(const Tensor& tensor);

Tensor empty_like(const Tensor& like, std::vector<int64_t> sizes, ScalarType type, bool channels_last = false);
Tensor zeros_like(const Tensor& like, std::vector<int64_t> sizes, ScalarType type, bool channels_last = false);
Tensor to_channels_last(const Tensor& tensor);

// A tensor with the same elements that is dense, channels-last or contiguous.
Tensor to_dense(const Tensor& tensor);

Layout layout_of(const Tensor& dense);
Weight weight_of(const Tensor& dense);

// The kernels of this processor for an element type; `conv` may rule out a faster set.
const Kernels& kernels_for(Type type, const Conv& conv);

// Runs tasks [0, count) on torch's threads.
template <typename F>
void parallel(int64_t count, const F& run) {
  if (count > 0) torch::stable::parallel_for(0, count, 1, run);
}

// Memory of a thread that outlives the call: fresh pages for every call would cost as much as packing the weights.
enum class Scratch : int { tiles, panels };
void* scratch(Scratch purpose, size_t bytes);

// Runs tasks that work in private memory: run(begin, end, memory).
template <typename F>
void parallel_with_scratch(int64_t count, size_t bytes, const F& run) {
  parallel(count, [&](int64_t begin, int64_t end) { run(begin, end, scratch(Scratch::tiles, bytes)); });
}

}  // namespace seg
