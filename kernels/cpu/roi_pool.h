// What the host and the instruction sets' kernels of the RoI pooling share.
#pragma once

#include <cstddef>

#include "../roi_pool.h"
#include "types.h"

namespace seg {

// Pointers to dense tensors; those of positions have the computing type.
struct RoiPoolTask {
  RoiPool pool;
  const void* maps;
  const int64_t* image;  // [boxes]
  const void* first;     // [boxes, classes, rows, columns, 2], (y, x)
  const void* step;      // [boxes, 2]
  const int32_t* count;  // [boxes, rows, columns, 2]
  const void* mask;      // [boxes, classes, rows, columns], or null
  bool channels_last;    // of the output
  void* output;
  const void* grad;    // [boxes, rows, columns, outputs] of the computing type
  void* grad_maps;     // as maps, of the computing type
  void* grad_first;    // as first
  void* grad_mask;     // as mask
};

// Channels of the input's gradient that one task sums up. Boxes are added in order, whatever the number of threads.
constexpr int64_t kRoiBlock = 128;

// The kernels of one instruction set and one element type; any split of the tasks gives the same bits.
struct RoiKernels {
  size_t (*scratch)(const RoiPool&);
  void (*forward)(const RoiPoolTask&, int64_t begin, int64_t end, void* scratch);             // tasks: boxes
  void (*backward_maps)(const RoiPoolTask&, int64_t begin, int64_t end, void* scratch);       // images * blocks
  void (*backward_positions)(const RoiPoolTask&, int64_t begin, int64_t end, void* scratch);  // boxes
};

const RoiKernels& roi_kernels_portable(Type type);
#if defined(__x86_64__)
const RoiKernels& roi_kernels_avx2(Type type);
const RoiKernels& roi_kernels_avx512(Type type);
#endif

}  // namespace seg
