// Rearranges a weight into the panels that the micro-kernel reads in one stream.
// Include inside namespace seg::SEG_ISA only.

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Panels of the forward: [group][panel][tap][words of a group's channels][panel width].
template <typename Product>
struct ForwardPanels {
  static constexpr int64_t width = kPanel<typename Product::Sum>;
  int64_t count, taps, words;

  explicit ForwardPanels(const Conv& conv)
      : count(divide_up(conv.group_outputs(), width)),
        taps(conv.taps()),
        words(divide_up(conv.group_channels(), Product::depth)) {}

  int64_t stride() const { return taps * words * width; }
  int64_t at(int64_t group, int64_t panel, int64_t tap, int64_t word) const {
    return (group * count + panel) * stride() + (tap * words + word) * width;
  }
};

// Steps through a weight's row in the order in which it is stored.
struct Cursor {
  int64_t taps, channels;
  bool taps_first;
  int64_t tap = 0, channel = 0;

  SEG_HD void next() {
    int64_t& inner = taps_first ? channel : tap;
    int64_t& outer = taps_first ? tap : channel;
    if (++inner == (taps_first ? channels : taps)) {
      inner = 0;
      ++outer;
    }
  }
};

// Puts the weights of one (channel, tap) for a vector of outputs in place.
template <typename Product>
SEG_HD void put(V<typename Product::Word> value, const ForwardPanels<Product>& panels, const Cursor& at,
                typename Product::Word* out) {
  store<typename Product::Word>(value, out + panels.at(0, 0, at.tap, at.channel));
}

#if defined(__AVX512BF16__)
// Neighbouring channels share a word; in either order of storage the even one comes first, and clears the word.
SEG_HD void put(V<float> value, const ForwardPanels<Pairs>& panels, const Cursor& at, uint32_t* out) {
  uint32_t* word = out + panels.at(0, 0, at.tap, at.channel / 2);
  const V<uint32_t> bits = reinterpret_cast<V<uint32_t>>(value);
  store<uint32_t>(at.channel % 2 == 0 ? bits >> 16 : load(word) | bits, word);
}
#endif

// One vector of outputs: rows `first` to `first + lanes` of the weight, each of `cursor`'s taps x channels; those past
// `last` repeat the last one, and fill columns that nobody reads.
template <typename From, typename Product>
void pack_outputs(const From* data, Cursor cursor, int64_t first, int64_t last, ForwardPanels<Product> panels,
                  typename Product::Word* out) {
  using S = Compute<From>;
  constexpr int lanes = kLanes<S>;
  const int64_t length = cursor.taps * cursor.channels;
  const From* row[lanes];
  for (int i = 0; i < lanes; ++i) row[i] = data + (first + i < last ? first + i : last) * length;
  V<S> values[lanes] = {};
  int64_t at = 0;
  for (; at + lanes <= length; at += lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      values[i] = load(row[i] + at);
      __builtin_prefetch(row[i] + at + 4 * lanes);  // more streams than the processor follows by itself
    }
    transpose<S>(values);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i, cursor.next()) put(values[i], panels, cursor, out);
  }
  for (; at < length; ++at, cursor.next()) {
    for (int i = 0; i < lanes; ++i) values[0][i] = widen(load_one(row[i] + at));
    put(values[0], panels, cursor, out);
  }
}

template <typename Product>
int64_t pack_forward_tasks(const Conv& conv) {
  return conv.groups * ForwardPanels<Product>(conv).count * 2;
}

template <typename Product>
size_t packed_forward_bytes(const Conv& conv) {
  const ForwardPanels<Product> panels(conv);
  return static_cast<size_t>(conv.groups * panels.count * panels.stride()) * sizeof(typename Product::Word);
}

// A task is half a panel: one vector of outputs.
template <typename T, typename Product>
void pack_forward(const Conv& conv, const Weight& weight, void* packed, int64_t begin, int64_t end) {
  using Word = typename Product::Word;
  const ForwardPanels<Product> panels(conv);
  const int64_t lanes = panels.width / 2, channels = conv.group_channels();
  for (int64_t task = begin; task < end; ++task) {
    const int64_t group = task / (2 * panels.count), panel = task / 2 % panels.count, half = task % 2;
    const int64_t first = group * conv.group_outputs() + panel * panels.width + half * lanes;
    const int64_t last = (group + 1) * conv.group_outputs() - 1;
    Word* out = static_cast<Word*>(packed) + panels.at(group, panel, 0, 0) + half * lanes;
    if (Product::depth == 2 && weight.taps_first && channels % 2 == 0) {  // the panel's words, as they are
      const Cursor words{conv.taps(), channels / 2, true};
      pack_outputs<Word, Product>(static_cast<const Word*>(weight.data), words, first, last, panels, out);
    } else {
      const Cursor elements{conv.taps(), channels, weight.taps_first};
      pack_outputs<T, Product>(static_cast<const T*>(weight.data), elements, first, last, panels, out);
    }
  }
}

// Panels of the backward: [block][tap][panel][words of a group's outputs][panel width], a column for each channel of the
// block.
template <typename Product>
struct BackwardPanels {
  static constexpr int64_t width = kPanel<typename Product::Sum>;
  int64_t count, taps, words;

  BackwardPanels(const Conv& conv, const Block* blocks, int64_t block_count)
      : count(0), taps(conv.taps()), words(divide_up(conv.group_outputs(), Product::depth)) {
    for (int64_t i = 0; i < block_count; ++i) {
      const int64_t panels = divide_up(blocks[i].end - blocks[i].begin, width);
      if (panels > count) count = panels;
    }
  }

  int64_t stride() const { return words * width; }
  int64_t at(int64_t block, int64_t tap) const { return (block * taps + tap) * count * stride(); }
};

template <typename Product>
size_t packed_backward_bytes(const Conv& conv, const Block* blocks, int64_t block_count) {
  const BackwardPanels<Product> panels(conv, blocks, block_count);
  return static_cast<size_t>(panels.at(block_count, 0)) * sizeof(typename Product::Word);
}

// One row of a panel: the weights of one tap for up to a panel's width of channels, of one output or of two. `next` is
// the second one's row, or null where there is none.
template <typename Product, typename T>
SEG_HD void pack_row(const T* from, const T* next, int64_t stride, int64_t count, typename Product::Word* to) {
  if constexpr (Product::depth == 2) {
    const auto second = [&](int64_t at) { return next == nullptr ? T{} : next[at]; };
    if (stride == 1) {
      for (int64_t i = 0; i < count; ++i) to[i] = join(from[i], second(i));
    } else {
      for (int64_t i = 0; i < count; ++i) to[i] = join(from[i * stride], second(i * stride));
    }
  } else if (stride == 1) {
    convert(from, count, to);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = widen(from[i * stride]);
  }
}

template <typename Product, typename T>
void pack_block(const Conv& conv, const Weight& weight, const Block& block, const BackwardPanels<Product>& panels,
                typename Product::Word* packed) {
  const int64_t channels = conv.group_channels(), taps = conv.taps(), outputs = conv.group_outputs();
  const int64_t tap_stride = weight.taps_first ? channels : 1, channel_stride = weight.taps_first ? 1 : taps;
  const int64_t first = block.begin - block.group * channels, count = block.end - block.begin;
  const T* rows = static_cast<const T*>(weight.data) + block.group * outputs * channels * taps;
  for (int64_t output = 0; output < outputs; output += Product::depth) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      const T* from = rows + output * channels * taps + tap * tap_stride + first * channel_stride;
      const T* next = output + 1 < outputs ? from + channels * taps : nullptr;
      typename Product::Word* to = packed + panels.at(0, tap) + output / Product::depth * panels.width;
      for (int64_t done = 0; done < count; done += panels.width, to += panels.stride()) {
        const int64_t width = count - done < panels.width ? count - done : panels.width, at = done * channel_stride;
        pack_row<Product>(from + at, next == nullptr ? next : next + at, channel_stride, width, to);
      }
    }
  }
}

template <typename T, typename Product>
void pack_backward(const Backward& args, const Weight& weight, void* packed, int64_t begin, int64_t end) {
  const BackwardPanels<Product> panels(args.conv, args.blocks, args.block_count);
  for (int64_t block = begin; block < end; ++block) {
    pack_block<Product, T>(args.conv, weight, args.blocks[block], panels,
                           static_cast<typename Product::Word*>(packed) + panels.at(block, 0));
  }
}
