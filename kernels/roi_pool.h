// RoI pooling as the mean of a map over a grid of positions for each bin: shared by the CPU and the CUDA sources.
#pragma once

#include <cstdint>

#include "bilinear.h"

namespace seg {

// What is read outside the map: zeros; nothing, and it does not count (half a cell and more outside); the edge, then
// zeros (more than a cell outside). The numbers are those of seg/ops/roi_geometry.py.
enum class Border : int { ring, kept, edge };

// One pooling: maps [images, group_rows * group_columns, height, width, outputs] -> [boxes, outputs, rows, columns].
// Class k moves outputs [k * outputs / classes, (k + 1) * outputs / classes).
struct RoiPool {
  int64_t images, outputs, height, width;
  int64_t boxes, classes, rows, columns;
  int64_t group_rows, group_columns;
  Border border;

  SEG_HD int64_t bins() const { return rows * columns; }
  SEG_HD int64_t cells() const { return height * width; }
  SEG_HD int64_t class_outputs() const { return outputs / classes; }

  // Which of an image's maps a bin reads.
  SEG_HD int64_t group(int64_t bin) const {
    const int64_t i = bin / columns * group_rows / rows, j = bin % columns * group_columns / columns;
    return i * group_columns + j;
  }
};

// One position along an axis: the cell before it, its distance from there, 1 where the distance varies with it.
template <typename T>
struct Neighbours {
  int32_t low;
  T share, slope;
  bool read;
};

// Position `number` of a grid. Rounded twice on every device, so that all agree on what lies on a border.
template <typename T>
SEG_HD T grid_position(T first, T step, int32_t number) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 8) {
    return __dadd_rn(first, __dmul_rn(T(number), step));
  } else {
    return __fadd_rn(first, __fmul_rn(T(number), step));
  }
#else
  T offset = T(number) * step;
#if defined(__GNUC__)
  asm volatile("" : "+m"(offset));  // keeps the compiler from fusing the two
#endif
  return first + offset;
#endif
}

template <typename T>
SEG_HD Neighbours<T> neighbours_at(T position, int32_t size, Border border) {
  Neighbours<T> out{0, T(0), T(0), false};
  if (border == Border::ring) {
    out.read = position >= T(-1) && position < T(size);
    if (!out.read) return out;
    out.low = floor_to_int(position);
    out.slope = T(1);
    out.share = position - T(out.low);
    return out;
  }
  const T outside = border == Border::kept ? T(0.5) : T(1);
  out.read = position >= -outside && position <= T(size - 1) + outside;
  if (!out.read) return out;
  const T near = clamp(position, T(0), T(size - 1));
  const int32_t last = size > 1 ? size - 2 : 0;
  out.low = floor_to_int(near);
  out.low = out.low < last ? out.low : last;
  out.slope = size > 1 && near == position ? T(1) : T(0);
  out.share = near - T(out.low);
  return out;
}

}  // namespace seg
