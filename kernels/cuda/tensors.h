// Between torch's tensors and the plain structs of the kernels.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <memory>
#include <optional>
#include <vector>

#include "../arguments.h"
#include "kernels.h"

namespace seg::cuda {

using torch::headeronly::MemoryFormat;

Tensor empty(const Tensor& like, std::vector<int64_t> sizes, ScalarType type);
Tensor zeros(const Tensor& like, std::vector<int64_t> sizes, ScalarType type);

// The channels of every pixel of a map [batch, channels, rows, columns]: dense rows [batch * rows * columns, channels].
Tensor to_rows(const Tensor& map);

// Rows seen as the map [batch, channels, rows, columns] that they belong to; channels-last in memory.
Tensor to_map(const Tensor& rows, int64_t batch, int64_t height, int64_t width);

// A weight [outputs, channels, kernel_h, kernel_w] as matrices [groups, outputs of a group, taps * channels].
Tensor to_matrices(const Tensor& weight, const Conv& conv);
Tensor to_weight(const Tensor& matrices, const Conv& conv);

// out = a x b, for a batch of matrices with any strides, by torch's library of matrix products.
void multiply(const Tensor& a, const Tensor& b, Tensor& out);

// `count` rows from `first` on, by groups of their channels: [groups, count, channels of a group]. No copy.
Tensor by_group(const Tensor& rows, int64_t first, int64_t count, int64_t groups);

bool is_on_gpu(const Tensor& tensor);

// What check_arguments asks, and that the input is on a GPU and channels and outputs fit into 31 bits.
Conv check_on_gpu(const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& mask,
                  const Window& window);

// Makes the tensor's device current while it lives, and knows the stream that torch works on there.
class Current {
 public:
  explicit Current(const Tensor& tensor);
  cudaStream_t stream() const { return stream_; }

 private:
  std::shared_ptr<void> guard_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace seg::cuda
