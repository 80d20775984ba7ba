// What the operators ask of the kernels: plain structs and launches, without torch. Every launch returns its error.
#pragma once

#include <cuda_runtime_api.h>

#include "../field.h"
#include "plain.h"

namespace seg::cuda {

// The samples of `count` pixels of the output from `first` on, counted through the batch.
struct Samples {
  Conv conv;
  const void* input;  // [batch, height, width, channels]
  Type type;          // of the input
  Field offset, mask;
  int64_t first, count;
};

// Where the gradients of the samples go; the null ones are not asked for. All are of the computing type.
struct Gradients {
  const void* columns;  // of the samples, of the input's type; as launch_sample writes them
  void* input;          // [batch, height, width, channels], added to
  void* offset;         // [batch, 2 * offset groups * taps, rows, columns]
  void* mask;           // [batch, offset groups * taps, rows, columns]
};

// Writes the samples, [group][pixel][tap][channel of the group], in the input's type.
cudaError_t launch_sample(const Samples& samples, void* columns, cudaStream_t stream);

// Adds to the input's gradient by atomic operations: its last bits depend on their order.
cudaError_t launch_scatter(const Samples& samples, const Gradients& gradients, cudaStream_t stream);

// The same sums in a fixed order, one thread for each channel of an image: slow, and the same bits in every run.
cudaError_t launch_scatter_in_order(const Samples& samples, const Gradients& gradients, cudaStream_t stream);

// rows [count, outputs] += bias, in the computing type.
cudaError_t launch_add_bias(Type type, void* rows, const void* bias, int64_t count, int64_t outputs,
                            cudaStream_t stream);

// sums += values, whose type is `type` and that of the sums the computing type.
cudaError_t launch_accumulate(Type type, const void* values, void* sums, int64_t count, cudaStream_t stream);

// Counts of pairs of truth and prediction [classes][classes + 1], and behind them the truths that are no class.
struct Labels {
  const void* truth;
  const void* prediction;
  bool truth_bytes, prediction_bytes;  // uint8_t, else int64_t
  int64_t count, classes, ignore;
};
cudaError_t launch_confusion(const Labels& labels, int64_t* counts, cudaStream_t stream);

}  // namespace seg::cuda
