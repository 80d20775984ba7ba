// What the operators ask of the kernels of one instruction set: plain structs and function pointers, so that files
// compiled for different processors share no inline code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../geometry.h"
#include "types.h"

namespace seg {

// A weight [outputs, channels of a group, taps], dense; `taps_first` when it is stored [outputs, taps, channels].
struct Weight {
  const void* data;
  Type type;
  bool taps_first;
};

// A dense map of one image: element (channel, pixel) is at channel * channel_stride + pixel * pixel_stride, and one of
// the two strides is 1.
struct Layout {
  int64_t image_stride, channel_stride, pixel_stride;
};

struct Forward {
  Conv conv;
  const void* input;  // [batch, height, width, channels]
  Field offset, mask;  // mask.data may be null
  const void* bias;    // [outputs] or null, in the element type of the input
  const void* packed;  // weight panels, see pack_forward
  void* output;
  Layout output_layout;
};

// Channels [begin, end) of the input that share an offset group and a weight group: a unit of work of the backward.
struct Block {
  int64_t begin, end;
  int64_t group, offset_group;
};

struct Backward {
  Conv conv;
  const Block* blocks;
  int64_t block_count;
  const void* input;  // [batch, height, width, channels]
  Field offset, mask;
  const void* grad;  // gradient of the output
  Layout grad_layout;
  const void* packed;     // weight panels of the blocks, see pack_backward
  void* grad_transposed;  // see transpose_grad
  void* grad_input;       // [batch, height, width, channels] of the computing type, or null where it is not asked for
  void* grad_position;    // [blocks, batch, taps, 3, pixels]: by y, by x, by the mask; or null
  void* grad_weight;      // [outputs, taps, group channels] of the computing type
};

// Channels of a block of the backward at most.
constexpr int64_t kWideBlock = 128, kNarrowBlock = 64;

// The kernels of one instruction set and one element type. Work is split into tasks [begin, end); what a task computes
// does not depend on the others, so any split gives the same bits. `scratch` points to private memory of a thread.
struct Kernels {
  int64_t (*forward_tasks)(const Conv&);
  size_t (*forward_scratch)(const Conv&);
  void (*forward)(const Forward&, int64_t begin, int64_t end, void* scratch);

  int64_t (*pack_forward_tasks)(const Conv&);
  size_t (*packed_forward_bytes)(const Conv&);
  void (*pack_forward)(const Conv&, const Weight&, void* packed, int64_t begin, int64_t end);

  size_t (*packed_backward_bytes)(const Conv&, const Block*, int64_t blocks);  // tasks: blocks
  void (*pack_backward)(const Backward&, const Weight&, void* packed, int64_t begin, int64_t end);

  size_t (*backward_data_scratch)(const Conv&);  // tasks: batch * blocks
  void (*backward_data)(const Backward&, int64_t begin, int64_t end, void* scratch);

  int64_t (*transpose_grad_tasks)(const Conv&);
  size_t (*grad_transposed_bytes)(const Conv&);
  void (*transpose_grad)(const Backward&, int64_t begin, int64_t end);

  size_t (*backward_weight_scratch)(const Conv&);  // tasks: blocks * taps
  void (*backward_weight)(const Backward&, int64_t begin, int64_t end, void* scratch);
};

const Kernels& kernels_portable(Type type);
#if defined(__x86_64__)
const Kernels& kernels_avx2(Type type);
const Kernels& kernels_avx512(Type type);
const Kernels& kernels_avx512_bf16();  // bfloat16 alone; the other types are kernels_avx512's
#endif

}  // namespace seg
