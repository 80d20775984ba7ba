// Tensors as the kernels see them: shared by the CPU and the CUDA sources.
#pragma once

#include <cstdint>

namespace seg {

enum class Type : int { f32, f64, bf16, f16 };

// A tensor [batch, channels, rows, columns] with any strides (in elements) and any element type. Without data it is 1
// everywhere.
struct Field {
  const void* data;
  Type type;
  int64_t stride[4];
};

}  // namespace seg
