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

// One element of memory that may have been written as another type.
template <typename T>
SEG_HD T load_one(const T* from) {
  T value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
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

// 32 neighbouring bfloat16 (with AVX-512) are 16 words. A bfloat16 is the upper half of a float, so the even and the odd
// ones cost one operation each: a third of what widening them in order costs.
SEG_HD void load_halves(const BF16* from, V<float>& even, V<float>& odd) {
  const V<uint32_t> words = load(reinterpret_cast<const uint32_t*>(from));
  even = reinterpret_cast<V<float>>(words << 16);
  odd = reinterpret_cast<V<float>>(words & 0xffff0000);
}

// Interleaves the lower (upper) halves: a0 b0 a1 b1 ...
template <typename T, int... lane>
SEG_HD V<T> interleave(V<T> a, V<T> b, int from, std::integer_sequence<int, lane...>) {
#if defined(__clang__)
  return from == 0 ? __builtin_shufflevector(a, b, (lane / 2 + lane % 2 * kLanes<T>)...)
                   : __builtin_shufflevector(a, b, (lane / 2 + lane % 2 * kLanes<T> + kLanes<T> / 2)...);
#else
  using I = typename Simd<T>::I;
  using Index = decltype(I{}[0] + 0);
  const I low{static_cast<Index>(lane / 2 + lane % 2 * kLanes<T>)...};
  const I high{static_cast<Index>(lane / 2 + lane % 2 * kLanes<T> + kLanes<T> / 2)...};
  return from == 0 ? __builtin_shuffle(a, b, low) : __builtin_shuffle(a, b, high);
#endif
}

template <typename T>
SEG_HD V<T> interleave_low(V<T> a, V<T> b) {
  return interleave<T>(a, b, 0, std::make_integer_sequence<int, kLanes<T>>{});
}

template <typename T>
SEG_HD V<T> interleave_high(V<T> a, V<T> b) {
  return interleave<T>(a, b, 1, std::make_integer_sequence<int, kLanes<T>>{});
}

SEG_HD void store_halves(V<float> even, V<float> odd, float* to) {
  store<float>(interleave_low<float>(even, odd), to);
  store<float>(interleave_high<float>(even, odd), to + kFloats);
}

#if defined(__AVX512BF16__)
// Words whose lower and upper halves are the two vectors' lanes.
SEG_HD V<uint32_t> join(V<float> lower, V<float> upper) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)upper, (__m512)lower);  // the upper ones after the lower ones
  const __m512i order = (__m512i)(V<uint32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 0x10001 + 0x100000);
  return (V<uint32_t>)_mm512_permutexvar_epi16(order, both);
}

SEG_HD void store_halves(V<float> even, V<float> odd, BF16* to) {
  store<uint32_t>(join(even, odd), reinterpret_cast<uint32_t*>(to));
}
#endif

// Transposes a square of lanes in place. Each round rotates the bits of (row, lane) by one; log2(lanes) rounds swap them.
template <typename T>
SEG_HD void transpose(V<T> (&rows)[kLanes<T>]) {
  constexpr int lanes = kLanes<T>;
#pragma GCC unroll 4
  for (int round = 1; round < lanes; round *= 2) {
    V<T> next[lanes];
#pragma GCC unroll 8
    for (int i = 0; i < lanes / 2; ++i) {
      next[2 * i] = interleave_low<T>(rows[i], rows[i + lanes / 2]);
      next[2 * i + 1] = interleave_high<T>(rows[i], rows[i + lanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) rows[i] = next[i];
  }
}

// The sums of four vectors' lanes, all four at once: each round adds the halves of two vectors into one.
template <typename T>
SEG_HD void sum_lanes(const V<T> (&values)[4], T* sums) {
  if constexpr (kLanes<T> >= 4) {
    typedef T Quad __attribute__((vector_size(4 * sizeof(T))));
    const auto pair = [](V<T> a, V<T> b) { return interleave_low<T>(a, b) + interleave_high<T>(a, b); };
    const V<T> all = pair(pair(values[0], values[2]), pair(values[1], values[3]));
    Quad quads[kLanes<T> / 4];
    __builtin_memcpy(quads, &all, sizeof all);
    for (int i = 1; i < kLanes<T> / 4; ++i) quads[0] += quads[i];
    __builtin_memcpy(sums, quads, sizeof(Quad));
  } else {
    for (int i = 0; i < 4; ++i) sums[i] = values[i][0] + values[i][1];
  }
}
