// Shapes of a deformable convolution and where its taps look: shared by the CPU and the CUDA sources.
#pragma once

#include <cstdint>

// Always inlined on the host: translation units compiled for different instruction sets include this header, and an
// out-of-line copy of one of them must never stand in for another's.
#if defined(__CUDACC__)
#define SEG_HD __host__ __device__ __forceinline__
#else
#define SEG_HD inline __attribute__((always_inline))
#endif

namespace seg {

// One deformable convolution: map read [batch, channels, height, width], map written [batch, outputs, rows, columns].
struct Conv {
  int64_t batch, channels, height, width;
  int64_t outputs, rows, columns;
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w;
  int64_t padding_h, padding_w;
  int64_t dilation_h, dilation_w;
  int64_t groups, offset_groups;

  SEG_HD int64_t taps() const { return kernel_h * kernel_w; }
  SEG_HD int64_t cells() const { return height * width; }
  SEG_HD int64_t pixels() const { return rows * columns; }
  SEG_HD int64_t group_channels() const { return channels / groups; }
  SEG_HD int64_t group_outputs() const { return outputs / groups; }
  SEG_HD int64_t offset_group_channels() const { return channels / offset_groups; }

  // Where the undeformed tap looks: row `y` of the output through row `i` of the kernel, in cells of the map read.
  SEG_HD int64_t tap_row(int64_t y, int64_t i) const { return y * stride_h - padding_h + i * dilation_h; }
  SEG_HD int64_t tap_column(int64_t x, int64_t j) const { return x * stride_w - padding_w + j * dilation_w; }
};

}  // namespace seg
