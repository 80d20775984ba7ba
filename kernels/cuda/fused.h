// What the operators ask of the fused kernels; plain structs and launches, without torch.
#pragma once

#include <cstddef>

#include "kernels.h"
#include "weight_division.h"

namespace seg::cuda {

// How a fused forward is laid out; `possible` is false where the plain path has to do it.
struct ForwardPlan {
  bool possible;
  int block_outputs;  // 128 or 256
  Division division;
  size_t packed_bytes;   // of the weights
  size_t partial_bytes;  // of the sums that splits leave, [split][pixel][output] float; 0 without splits
};

// Reads the device's limits. `tf32`: float32 may be rounded to TF32. The other types are half precision's.
cudaError_t plan_forward(const Conv& conv, Type type, bool tf32, const void* input, ForwardPlan& plan);

struct FusedForward {
  Samples samples;      // of all pixels
  const void* weight;   // [outputs, taps, channels of a group]
  const void* bias;     // [outputs] or null
  void* packed;         // packed_bytes
  float* partial;       // partial_bytes, or null
  void* output;         // [pixels, outputs]
};
cudaError_t launch_fused_forward(const FusedForward& args, const ForwardPlan& plan, cudaStream_t stream);

// How a fused backward of the input, the offset and the mask is laid out.
struct BackwardPlan {
  bool possible;
  BackwardDivision division;
  size_t packed_bytes;  // of the weights
  size_t share_bytes;   // of the blocks' shares of the gradients of offset and mask
};

// `input` and `grad` are rows of pixels: [batch * height * width, channels] and [batch * rows * columns, outputs].
cudaError_t plan_backward(const Conv& conv, Type type, bool tf32, const void* input, const void* grad,
                          BackwardPlan& plan);

struct FusedBackward {
  Samples samples;       // of all pixels
  const void* grad;      // [pixels, outputs]
  const void* weight;    // [outputs, taps, channels of a group]
  void* packed;          // packed_bytes
  float* shares;         // share_bytes, or null where neither offset nor mask is asked for
  Gradients gradients;   // its columns are not read
};

// Adds to the input's gradient by atomic operations; the others have the same bits in every run.
cudaError_t launch_fused_backward(const FusedBackward& args, const BackwardPlan& plan, cudaStream_t stream);

// How a fused gradient of the weight is laid out.
struct WeightPlan {
  bool possible;
  int block_outputs;  // 128 or 256
  WeightDivision division;
  size_t turn_bytes;  // of the sums that the blocks leave
};

// `input` and `grad` as for the backward.
cudaError_t plan_weight(const Conv& conv, Type type, bool tf32, const void* input, const void* grad, WeightPlan& plan);

struct FusedWeight {
  Samples samples;   // of all pixels
  const void* grad;  // [pixels, outputs]
  float* turns;      // turn_bytes
  float* weight;     // [outputs, taps, channels of a group], its gradient
};

// Sums in a fixed order, which depends on the number of multiprocessors alone: the same bits in every run.
cudaError_t launch_fused_weight(const FusedWeight& args, const WeightPlan& plan, cudaStream_t stream);

}  // namespace seg::cuda
