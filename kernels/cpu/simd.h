// Vectors of the instruction set that a file is compiled for, on the compilers' vector extension.
// Include inside namespace seg::SEG_ISA only: one name must not mean two instruction sets.
// No include guard: a file that is included once per instruction set.

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct Simd;

template <>
struct Simd<float> {
  typedef float V __attribute__((vector_size(kVectorBytes)));
  typedef int32_t I __attribute__((vector_size(kVectorBytes)));
};

template <>
struct Simd<double> {
  typedef double V __attribute__((vector_size(kVectorBytes)));
  typedef int64_t I __attribute__((vector_size(kVectorBytes)));
};

template <>
struct Simd<uint32_t> {
  typedef uint32_t V __attribute__((vector_size(kVectorBytes)));
  typedef int32_t I __attribute__((vector_size(kVectorBytes)));
};

template <typename T>
using V = typename Simd<T>::V;

template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

constexpr int kFloats = kLanes<float>;
typedef uint16_t HalfBits __attribute__((vector_size(kVectorBytes / 2)));

template <typename T>
SEG_HD V<T> splat(T value) {
  return value - V<T>{};  // unlike 0 + value, this is value itself for every value
}

template <typename T>
SEG_HD V<T> load(const T* from) {
  V<T> value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

template <typename T>
SEG_HD void store(V<T> value, T* to) {
  __builtin_memcpy(to, &value, sizeof value);
}

SEG_HD V<float> load(const BF16* from) {
  HalfBits bits;
  __builtin_memcpy(&bits, from, sizeof bits);
  return reinterpret_cast<V<float>>(__builtin_convertvector(bits, V<uint32_t>) << 16);
}

SEG_HD void store(V<float> value, BF16* to) {
#if defined(__AVX512BF16__)
  const __m256bh bits = _mm512_cvtneps_pbh((__m512)value);
#else
  const V<uint32_t> wide = reinterpret_cast<V<uint32_t>>(value);
  const V<uint32_t> rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
  const V<uint32_t> is_nan = reinterpret_cast<V<uint32_t>>(value != value);
  const HalfBits bits = __builtin_convertvector((is_nan & ((wide >> 16) | 0x40)) | (~is_nan & rounded), HalfBits);
#endif
  __builtin_memcpy(to, &bits, sizeof bits);
}

SEG_HD V<float> load(const F16* from) {
#if defined(__AVX512F__)
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return (V<float>)_mm512_maskz_cvtph_ps(0xffff, bits);  // gcc 12 warns of the form without a mask
#elif defined(__AVX2__)
  return (V<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  V<float> value;
  for (int i = 0; i < kFloats; ++i) value[i] = widen(from[i]);
  return value;
#endif
}

SEG_HD void store(V<float> value, F16* to) {
#if defined(__AVX512F__)
  const __m256i bits = _mm512_maskz_cvtps_ph(0xffff, (__m512)value, _MM_FROUND_TO_NEAREST_INT);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bits);
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kFloats; ++i) narrow(value[i], to[i]);
#endif
}

// Interleaves the lower (upper) halves: a0 b0 a1 b1 ...
template <typename T, int... lane>
SEG_HD V<T> interleave(V<T> a, V<T> b, int from, std::integer_sequence<int, lane...>) {
  using I = typename Simd<T>::I;
  using Index = decltype(I{}[0] + 0);
#if defined(__clang__)
  return from == 0 ? __builtin_shufflevector(a, b, (lane / 2 + lane % 2 * kLanes<T>)...)
                   : __builtin_shufflevector(a, b, (lane / 2 + lane % 2 * kLanes<T> + kLanes<T> / 2)...);
#else
  const I low{static_cast<Index>(lane / 2 + lane % 2 * kLanes<T>)...};
  const I high{static_cast<Index>(lane / 2 + lane % 2 * kLanes<T> + kLanes<T> / 2)...};
  return from == 0 ? __builtin_shuffle(a, b, low) : __builtin_shuffle(a, b, high);
#endif
}

// Transposes a square of lanes in place. Each round rotates the bits of (row, lane) by one; log2(lanes) rounds swap them.
template <typename T>
SEG_HD void transpose(V<T> (&rows)[kLanes<T>]) {
  constexpr int lanes = kLanes<T>;
  constexpr auto sequence = std::make_integer_sequence<int, lanes>{};
#pragma GCC unroll 4
  for (int round = 1; round < lanes; round *= 2) {
    V<T> next[lanes];
#pragma GCC unroll 8
    for (int i = 0; i < lanes / 2; ++i) {
      next[2 * i] = interleave<T>(rows[i], rows[i + lanes / 2], 0, sequence);
      next[2 * i + 1] = interleave<T>(rows[i], rows[i + lanes / 2], 1, sequence);
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) rows[i] = next[i];
  }
}

template <typename T>
SEG_HD T sum(V<T> value) {
  T total = 0;
  for (int i = 0; i < kLanes<T>; ++i) total += value[i];
  return total;
}
