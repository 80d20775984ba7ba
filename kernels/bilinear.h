// Bilinear sampling of a map that is surrounded by one ring of zeros (the boundary rule of DCNv2).
#pragma once

#include <cstdint>

#include "geometry.h"

namespace seg {

// Corner index of the ring of zeros: nothing to read there, nothing to write.
constexpr int32_t kRing = -1;

// The square of four cells that a position falls into.
template <typename T>
struct Square {
  int32_t top, left;  // the upper left cell; -1 is the ring
  int32_t inside;     // 1 or 0
  T down, right;      // how far the position lies below and right of it, in [0, 1)
  T presence;         // 1 inside, 0 outside, NaN where the position is NaN: a factor of every weight
};

// Largest integer that is not above `value`, without a call that would keep a loop from being vectorised.
template <typename T>
SEG_HD int32_t floor_to_int(T value) {
  const int32_t truncated = static_cast<int32_t>(value);
  return truncated - static_cast<int32_t>(static_cast<T>(truncated) > value);
}

// The nearest number in [low, high]; NaN stays NaN.
template <typename T>
SEG_HD T clamp(T value, T low, T high) {
  const T raised = value < low ? low : value;
  return raised > high ? high : raised;
}

// A position is inside iff -1 <= y < height and -1 <= x < width; then its square touches the map or its ring.
// It is clamped before it is converted to an integer: no offset, however large, can lead to an address outside the map.
// Free of branches, so that a loop over positions is vectorised.
template <typename T>
SEG_HD Square<T> square_at(T y, T x, int32_t height, int32_t width) {
  const T y_near = clamp(y, T(-1), T(height)), x_near = clamp(x, T(-1), T(width));
  const T y_safe = y_near > T(-1) ? y_near : T(-1), x_safe = x_near > T(-1) ? x_near : T(-1);
  Square<T> square;
  square.top = floor_to_int(y_safe);
  square.left = floor_to_int(x_safe);
  square.down = y_safe - T(square.top);
  square.right = x_safe - T(square.left);
  square.inside = int32_t(y >= T(-1)) & int32_t(y < T(height)) & int32_t(x >= T(-1)) & int32_t(x < T(width));
  square.presence = T(square.inside) + (y_near - y_near) + (x_near - x_near);  // adds 0, or NaN
  return square;
}

// Corners in the order upper left, upper right, lower left, lower right.
template <typename T>
SEG_HD int32_t corner_index(const Square<T>& square, int corner, int32_t height, int32_t width) {
  const int32_t y = square.top + (corner >> 1), x = square.left + (corner & 1);
  // a position outside lies on the rim of the ring, where two of its corners would touch the map
  const int32_t valid =
      square.inside & int32_t(y >= 0) & int32_t(y < height) & int32_t(x >= 0) & int32_t(x < width);
  return valid ? y * width + x : kRing;
}

template <typename T>
SEG_HD T corner_weight(T down, T right, int corner) {
  const T vertical = (corner >> 1) ? down : T(1) - down;
  const T horizontal = (corner & 1) ? right : T(1) - right;
  return vertical * horizontal;
}

// Derivative of the weights by y and by x. At integer positions this is the difference to the lower or right
// neighbour, because the square's upper left cell is the floor of the position.
template <typename T>
SEG_HD T corner_weight_dy(T right, int corner) {
  const T horizontal = (corner & 1) ? right : T(1) - right;
  return (corner >> 1) ? horizontal : -horizontal;
}

template <typename T>
SEG_HD T corner_weight_dx(T down, int corner) {
  const T vertical = (corner >> 1) ? down : T(1) - down;
  return (corner & 1) ? vertical : -vertical;
}

}  // namespace seg
