// Element types of the CPU kernels. The 16-bit ones are storage only: all arithmetic is in float.
#pragma once

#include <cstdint>

#include "../field.h"
#include "../geometry.h"

namespace seg {

struct BF16 {
  uint16_t bits;
};

struct F16 {
  uint16_t bits;
};

SEG_HD uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

SEG_HD float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// The type a value is computed in.
template <typename T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <>
struct ComputeOf<uint32_t> {  // words that are moved, not computed with
  using type = uint32_t;
};
template <typename T>
using Compute = typename ComputeOf<T>::type;

SEG_HD float widen(float value) { return value; }
SEG_HD uint32_t widen(uint32_t word) { return word; }
SEG_HD double widen(double value) { return value; }
SEG_HD float widen(BF16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

// A word of two: the first in its lower half, as in memory.
SEG_HD uint32_t join(BF16 lower, BF16 upper) { return lower.bits | static_cast<uint32_t>(upper.bits) << 16; }

SEG_HD float widen(F16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fff) << 13;
  // multiplying by 2^112 moves the exponent's bias from 15 to 127, subnormal numbers included
  const float scaled = float_of(magnitude) * float_of(0x77800000);
  const bool special = magnitude >= 0x0f800000;  // infinity or NaN
  return float_of(sign | (special ? magnitude | 0x7f800000 : bits_of(scaled)));
}

SEG_HD void narrow(float value, float& out) { out = value; }
SEG_HD void narrow(double value, double& out) { out = value; }

SEG_HD void narrow(float value, BF16& out) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  out.bits = static_cast<uint16_t>(value != value ? (bits >> 16) | 0x40 : rounded);
}

SEG_HD void narrow(float value, F16& out) {
  const uint32_t bits = bits_of(value);
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // rounds to 65536 or more
    half = 0x7c00;
  } else if (magnitude < 0x38800000) {  // subnormal: adding 0.5 leaves 2^-24 as the unit in the last place
    half = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
  } else {
    half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  out.bits = static_cast<uint16_t>(half | ((bits >> 16) & 0x8000));
}

}  // namespace seg
