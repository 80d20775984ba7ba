// All kernels of one instruction set: a file that defines SEG_ISA and is compiled with that set's flags includes this.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <type_traits>
#include <utility>

// Without this gcc keeps branches around comparisons, in case one should raise a floating point exception that somebody
// listens for, and then does not vectorise them. Results are the same.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")
#endif

#include "../bilinear.h"
#include "kernels.h"

namespace seg::SEG_ISA {

#include "simd.h"
#include "gemm.h"
#include "plan.h"
#include "gather.h"
#include "matrix.h"
#include "pack.h"
#include "forward.h"
#include "backward_data.h"
#include "backward_weight.h"

template <typename T, typename Product = Plain<Compute<T>>>
constexpr Kernels make_kernels() {
  Kernels kernels{};
  kernels.forward_tasks = forward_tasks;
  kernels.forward_scratch = ForwardTile<T, Product>::scratch_bytes;
  kernels.forward = forward<T, Product>;
  kernels.pack_forward_tasks = pack_forward_tasks<Product>;
  kernels.packed_forward_bytes = packed_forward_bytes<Product>;
  kernels.pack_forward = pack_forward<T, Product>;
  kernels.packed_backward_bytes = packed_backward_bytes<Product>;
  kernels.pack_backward = pack_backward<T, Product>;
  kernels.backward_data_scratch = BackwardDataBlock<T, Product>::scratch_bytes;
  kernels.backward_data = backward_data<T, Product>;
  kernels.transpose_grad_tasks = transpose_grad_tasks;
  kernels.grad_transposed_bytes = grad_transposed_bytes<Product>;
  kernels.transpose_grad = transpose_grad<T, Product>;
  kernels.backward_weight_scratch = BackwardWeightBlock<T, Product>::scratch_bytes;
  kernels.backward_weight = backward_weight<T, Product>;
  return kernels;
}

// The element types in the order of `Type`.
template <typename... T>
const Kernels& kernels_of(Type type) {
  static constexpr Kernels table[] = {make_kernels<T>()...};
  return table[static_cast<int>(type)];
}

}  // namespace seg::SEG_ISA
