// Samples channels of the map at the positions of a plan.
// Include inside namespace seg::SEG_ISA only.

// Channels of one image that are read pixel by pixel; corners on the ring read `zeros`, so that nothing stored in the
// map (an infinity, say) can leak into a sample that does not touch it.
template <typename T>
struct Source {
  const T* image;  // already moved to the first channel
  const T* zeros;
  int64_t pixel_stride;

  SEG_HD const T* cell(int32_t index) const { return index == kRing ? zeros : image + index * pixel_stride; }
};

// Where samples go: chunks of a panel's width, `chunk_stride` apart, in rows `row_stride` apart.
template <typename T>
struct Target {
  T* data;
  int64_t row_stride, chunk_stride;
};

// One sample: four corners and their weights.
template <typename T>
struct Blend {
  using S = Compute<T>;
  const T* cell[4];
  V<S> weight[4];

  SEG_HD Blend(const Plan<S>& plan, int64_t i, const Source<T>& source) {
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {
      cell[corner] = source.cell(plan.corner[corner][i]);
      weight[corner] = splat(plan.weight[corner][i]);
    }
  }

  SEG_HD V<S> lanes(int64_t channel) const {
    V<S> sample = weight[0] * load(cell[0] + channel);
#pragma GCC unroll 4
    for (int corner = 1; corner < 4; ++corner) sample = weight[corner] * load(cell[corner] + channel) + sample;
    return sample;
  }

  // The even and the odd ones of the 2 * kLanes channels of a chunk.
  SEG_HD void halves(int64_t channel, V<S>& even, V<S>& odd) const {
    even = odd = V<S>{};
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {
      V<S> even_cell, odd_cell;
      load_halves(cell[corner] + channel, even_cell, odd_cell);
      even = weight[corner] * even_cell + even;
      odd = weight[corner] * odd_cell + odd;
    }
  }

  // The channels of a chunk in their order.
  template <typename Out>
  SEG_HD void chunk(int64_t channel, Out* out) const {
    if constexpr (std::is_same_v<T, BF16>) {
      V<S> even, odd;
      halves(channel, even, odd);
      store_halves(even, odd, out);
    } else {
      store(lanes(channel), out);
      store(lanes(channel + kLanes<S>), out + kLanes<S>);
    }
  }

  SEG_HD S one(int64_t channel) const {
    S sample = weight[0][0] * widen(cell[0][channel]);
    for (int corner = 1; corner < 4; ++corner) sample += weight[corner][0] * widen(cell[corner][channel]);
    return sample;
  }
};

// The channels after the last whole chunk.
template <typename T, typename Out>
void blend_rest(const Blend<T>& blend, int64_t channel, int64_t channels, Out* out) {
  constexpr int64_t lanes = kLanes<Compute<T>>;
  if (channel + lanes <= channels) {
    store(blend.lanes(channel), out);
    channel += lanes;
    out += lanes;
  }
  for (; channel < channels; ++channel, ++out) narrow(blend.one(channel), *out);
}

#if defined(__AVX512BF16__)
// Neighbouring pixels share words here, the even one in the lower half: rows are pairs of pixels. What an odd number of
// pixels leaves over must be blank in the plan.
inline void gather_pairs(const Plan<float>& plan, int64_t count, const Source<BF16>& source, int64_t channels,
                         const Target<uint32_t>& target) {
  constexpr int64_t lanes = kLanes<float>;
  for (int64_t i = 0; i < count; i += 2) {
    const Blend<BF16> lower(plan, i, source), upper(plan, i + 1, source);
    uint32_t* out = target.data + i / 2 * target.row_stride;
    int64_t channel = 0;
    for (; channel + 2 * lanes <= channels; channel += 2 * lanes, out += target.chunk_stride) {
      V<float> even[2], odd[2];
      lower.halves(channel, even[0], odd[0]);
      upper.halves(channel, even[1], odd[1]);
      const V<uint32_t> evens = join(even[0], even[1]), odds = join(odd[0], odd[1]);
      store<uint32_t>(interleave_low<uint32_t>(evens, odds), out);
      store<uint32_t>(interleave_high<uint32_t>(evens, odds), out + lanes);
    }
    if (channel + lanes <= channels) {
      store<uint32_t>(join(lower.lanes(channel), upper.lanes(channel)), out);
      channel += lanes;
      out += lanes;
    }
    for (; channel < channels; ++channel, ++out) {
      BF16 pair[2];
      narrow(lower.one(channel), pair[0]);
      narrow(upper.one(channel), pair[1]);
      *out = join(pair[0], pair[1]);
    }
  }
}
#endif

// Samples of the pixels [first, first + count) of a plan.
template <typename T, typename Out>
void gather(const Plan<Compute<T>>& plan, int64_t first, int64_t count, const Source<T>& source, int64_t channels,
            const Target<Out>& target) {
  constexpr int64_t chunk = kPanel<Compute<T>>;
  for (int64_t i = 0; i < count; ++i) {
    const Blend<T> blend(plan, first + i, source);
    Out* out = target.data + i * target.row_stride;
    int64_t channel = 0;
    for (; channel + chunk <= channels; channel += chunk, out += target.chunk_stride) blend.chunk(channel, out);
    if (channel < channels) blend_rest(blend, channel, channels, out);
  }
}
