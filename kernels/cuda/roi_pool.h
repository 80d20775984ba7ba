// What the RoI pooling's operators ask of its kernels, without torch. Every launch returns its error.
#pragma once

#include "../roi_pool.h"
#include "kernels.h"

namespace seg::cuda {

// Pointers to dense tensors; those of positions have the computing type.
struct RoiPoolTask {
  RoiPool pool;
  const void* maps;      // [images, groups, height, width, outputs]
  const int64_t* image;  // [boxes]
  const void* first;     // [boxes, classes, rows, columns, 2], (y, x)
  const void* step;      // [boxes, 2]
  const int32_t* count;  // [boxes, rows, columns, 2]
  const void* mask;      // [boxes, classes, rows, columns], or null
};

// Writes the pooled boxes, [boxes, rows, columns, outputs], in the maps' type.
cudaError_t launch_roi_pool(const RoiPoolTask& task, Type type, void* output, cudaStream_t stream);

// Adds to the maps' gradient, of the computing type as is `grad` [boxes, rows, columns, outputs]: by atomic operations,
// or one thread for each output of an image, slow and with the same bits in every run.
cudaError_t launch_roi_pool_to_maps(const RoiPoolTask& task, Type type, const void* grad, void* grad_maps,
                                    bool in_order, cudaStream_t stream);

// Writes the gradients by `first` and by the mask, in the computing type.
cudaError_t launch_roi_pool_to_positions(const RoiPoolTask& task, Type type, const void* grad, void* grad_first,
                                         void* grad_mask, cudaStream_t stream);

}  // namespace seg::cuda
