// The forward: sample a tile of pixels through one tap, multiply by that tap's weights, add up; no column buffer.
// Include inside namespace seg::SEG_ISA only.

// Pixels of a tile at most: its sums, the map around it and a tap's weights share the second-level cache.
constexpr int64_t kTileRows = 200 / kRows * kRows;

template <typename T, typename Product>
class ForwardTile {
  using Sum = typename Product::Sum;
  using Element = typename Product::Element;
  using Word = typename Product::Word;

 public:
  ForwardTile(const Forward& args, void* scratch) : ForwardTile(args.conv, Arena(scratch)) {
    args_ = &args;
    if (scratch == nullptr) return;
    __builtin_memset(zeros_, 0, static_cast<size_t>(block_channels()) * sizeof(T));
  }

  static size_t scratch_bytes(const Conv& conv) { return ForwardTile(conv, Arena(nullptr)).used_; }

  // Units of kRows pixels that a tile has at most; fewer where the sums of many groups would not fit into the cache.
  static int64_t units(const Conv& conv) {
    constexpr int64_t most = kTileRows / kRows, sums = (1 << 20) / static_cast<int64_t>(sizeof(Sum));
    const int64_t fitting = sums / (kRows * stride(conv));
    return fitting < 1 ? 1 : fitting > most ? most : fitting;
  }

  void compute(const Run& run) {
    run_ = run;
    start();
    for (int64_t tap = 0; tap < args_->conv.taps(); ++tap) add_tap(tap);
    finish();
  }

 private:
  ForwardTile(const Conv& conv, Arena arena) : panels_(conv), stride_(stride(conv)) {
    plans_ = arena.take<Plan<Sum>>(conv.offset_groups);
    zeros_ = arena.take<T>(block_channels());
    samples_ = arena.take<Word>(kRows * kStride);
    sums_ = arena.take<Sum>(units(conv) * kRows * stride_);
    used_ = arena.used();
  }

  static constexpr int64_t block_channels() { return kSteps * Product::depth; }

  static int64_t stride(const Conv& conv) {
    return conv.groups * ForwardPanels<Product>(conv).count * ForwardPanels<Product>::width;
  }

  int64_t group_column(int64_t group) const { return group * panels_.count * panels_.width; }

  // The sums start at the bias.
  void start() {
    const Conv& conv = args_->conv;
    __builtin_memset(sums_, 0, static_cast<size_t>(run_.count * stride_) * sizeof(Sum));
    if (args_->bias == nullptr) return;
    const T* bias = static_cast<const T*>(args_->bias);
    for (int64_t row = 0; row < run_.count; ++row) {
      for (int64_t group = 0; group < conv.groups; ++group) {
        convert(bias + group * conv.group_outputs(), conv.group_outputs(), sums_ + row * stride_ + group_column(group));
      }
    }
  }

  void add_tap(int64_t tap) {
    const Conv& conv = args_->conv;
    for (int64_t group = 0; group < conv.offset_groups; ++group) {
      make_plan(conv, args_->offset, args_->mask, run_, group, tap, plans_[group]);
    }
    for (int64_t begin = 0; begin < conv.channels; begin += block_channels()) {
      const int64_t rest = conv.channels - begin;
      const int64_t end = begin + (rest < block_channels() ? rest : block_channels());
      for (int64_t first = 0; first < run_.count; first += kRows) {
        const int64_t count = run_.count - first < kRows ? run_.count - first : kRows;
        sample(begin, end, first, count);
        multiply_groups(tap, begin, end, first, count);
      }
    }
  }

  // Channels [begin, end) of `count` pixels from `first` on.
  void sample(int64_t begin, int64_t end, int64_t first, int64_t count) {
    const Conv& conv = args_->conv;
    const T* image = static_cast<const T*>(args_->input) + run_.image * conv.cells() * conv.channels;
    for (int64_t channel = begin; channel < end;) {
      const int64_t group = channel / conv.offset_group_channels();
      const int64_t group_end = (group + 1) * conv.offset_group_channels();
      const int64_t stop = group_end < end ? group_end : end;
      Element* out = reinterpret_cast<Element*>(samples_) + (channel - begin);
      gather(plans_[group], first, count, Source<T>{image + channel, zeros_, conv.channels}, stop - channel,
             Target<Element>{out, kStride * Product::depth, kPanel<Sum>});
      channel = stop;
    }
  }

  void multiply_groups(int64_t tap, int64_t begin, int64_t end, int64_t first, int64_t count) {
    const int64_t channels = args_->conv.group_channels();
    for (int64_t channel = begin; channel < end;) {
      const int64_t group = channel / channels, group_end = (group + 1) * channels;
      const int64_t stop = group_end < end ? group_end : end;
      const int64_t word = (channel - group * channels) / Product::depth;
      const Word* weights = static_cast<const Word*>(args_->packed) + panels_.at(group, 0, tap, word);
      const Operands<Product> operands{samples_ + (channel - begin) / Product::depth, weights, panels_.stride(),
                                       (stop - channel) / Product::depth};
      multiply(operands, count, panels_.count, sums_ + first * stride_ + group_column(group), stride_, true);
      channel = stop;
    }
  }

  void finish() {
    const Conv& conv = args_->conv;
    const Layout& layout = args_->output_layout;
    T* image = static_cast<T*>(args_->output) + run_.image * layout.image_stride + run_.first * layout.pixel_stride;
    for (int64_t group = 0; group < conv.groups; ++group) {
      T* out = image + group * conv.group_outputs() * layout.channel_stride;
      copy_matrix(Matrix<const Sum>{sums_ + group_column(group), stride_, 1},
                  Matrix<T>{out, layout.pixel_stride, layout.channel_stride}, run_.count, conv.group_outputs());
    }
  }

  const Forward* args_ = nullptr;
  ForwardPanels<Product> panels_;
  int64_t stride_;
  Run run_{};
  Plan<Sum>* plans_;  // of each offset group
  T* zeros_;
  Word* samples_;  // of kRows pixels: they never leave the first-level cache
  Sum* sums_;
  size_t used_;
};

// A task is one unit of kRows pixels of an image.
inline int64_t image_units(const Conv& conv) { return divide_up(conv.pixels(), kRows); }

inline int64_t forward_tasks(const Conv& conv) { return conv.batch * image_units(conv); }

// Tasks [begin, end) as tiles: as few as possible, of nearly equal sizes, none across two images.
template <typename T, typename Product>
void forward(const Forward& args, int64_t begin, int64_t end, void* scratch) {
  const int64_t per_image = image_units(args.conv), pixels = args.conv.pixels();
  const int64_t most = ForwardTile<T, Product>::units(args.conv);
  ForwardTile<T, Product> tile(args, scratch);
  for (int64_t unit = begin; unit < end;) {
    const int64_t image = unit / per_image, first = unit % per_image;
    const int64_t left = end - unit < per_image - first ? end - unit : per_image - first;
    const int64_t units = divide_up(left, divide_up(left, most));
    const int64_t rest = pixels - first * kRows;
    tile.compute(Run{image, first * kRows, units * kRows < rest ? units * kRows : rest});
    unit += units;
  }
}
