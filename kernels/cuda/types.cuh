// From the type of a tensor to the type of an element.
#pragma once

#include "field.cuh"

namespace seg::cuda {

template <typename T>
struct Element {
  using type = T;
};

// Calls run(Element<T>{}) with the element type T.
template <typename F>
cudaError_t with_type(Type type, const F& run) {
  switch (type) {
    case Type::f32: return run(Element<float>{});
    case Type::f64: return run(Element<double>{});
    case Type::bf16: return run(Element<__nv_bfloat16>{});
    default: return run(Element<__half>{});
  }
}

template <int N>
struct Width {
  static constexpr int value = N;
};

// Calls run(Element<T>{}, Width<N>{}), N being the channels that a thread reads at once: 16 bytes, or 1 where the groups
// or the addresses allow less.
template <typename F>
cudaError_t with_type_and_width(const Samples& samples, const void* other, const F& run) {
  return with_type(samples.type, [&](auto element) {
    using T = typename decltype(element)::type;
    constexpr int full = 16 / sizeof(T);
    const uint64_t addresses = reinterpret_cast<uint64_t>(samples.input) | reinterpret_cast<uint64_t>(other);
    return vector_channels(samples.conv, sizeof(T), addresses) == full ? run(element, Width<full>{})
                                                                      : run(element, Width<1>{});
  });
}

inline int64_t all_samples(const Samples& samples) {
  return sample_count(samples.conv, samples.conv.batch * samples.conv.pixels());
}

}  // namespace seg::cuda
