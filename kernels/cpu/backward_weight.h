// Gradient of the weight: for one tap and one block of channels, samples x output gradient, summed over all pixels by
// one task in a fixed order. Outputs are the rows of the product, channels its columns, pixels the steps of the sum.
// Include inside namespace seg::SEG_ISA only.

static_assert(kSteps <= kTile, "a plan must hold the pixels of a block of steps");

// The output's gradient with pixels as steps: [image][block of kSteps pixels][group][outputs][kStride words].
// The rows past a group's end that a tile reads, and ignores, are the next group's; only the last one needs padding.
struct GradBlocks {
  int64_t per_image, groups, rows;

  explicit GradBlocks(const Conv& conv)
      : per_image(divide_up(conv.pixels(), kSteps)), groups(conv.groups), rows(conv.group_outputs()) {}

  int64_t at(int64_t image, int64_t block, int64_t group) const {
    return ((image * per_image + block) * groups + group) * rows * kStride;
  }
};

inline int64_t transpose_grad_tasks(const Conv& conv) { return conv.batch * GradBlocks(conv).per_image * conv.groups; }

template <typename Product>
size_t grad_transposed_bytes(const Conv& conv) {
  const GradBlocks blocks(conv);
  const int64_t padding = (padded_rows(blocks.rows) - blocks.rows) * kStride;
  return static_cast<size_t>(blocks.at(conv.batch, 0, 0) + padding) * sizeof(typename Product::Word);
}

template <typename T, typename Product>
void transpose_grad(const Backward& args, int64_t begin, int64_t end) {
  const GradBlocks blocks(args.conv);
  const Layout& layout = args.grad_layout;
  const int64_t outputs = args.conv.group_outputs();
  for (int64_t task = begin; task < end; ++task) {
    const int64_t group = task % blocks.groups, block = task / blocks.groups % blocks.per_image;
    const int64_t image = task / blocks.groups / blocks.per_image, first = block * kSteps;
    const int64_t left = args.conv.pixels() - first;
    const T* from = static_cast<const T*>(args.grad) + image * layout.image_stride + first * layout.pixel_stride +
                    group * outputs * layout.channel_stride;
    auto* to = static_cast<typename Product::Word*>(args.grad_transposed) + blocks.at(image, block, group);
    copy_words<Product>(Matrix<const T>{from, layout.channel_stride, layout.pixel_stride}, to, outputs,
                        left < kSteps ? left : kSteps);
  }
}

template <typename T, typename Product>
class BackwardWeightBlock {
  using S = typename Product::Sum;
  using Word = typename Product::Word;

 public:
  BackwardWeightBlock(const Backward& args, void* scratch) : BackwardWeightBlock(args.conv, Arena(scratch)) {
    args_ = &args;
    for (int64_t i = 0; i < kWideBlock; ++i) narrow(S(0), zeros_[i]);
  }

  static size_t scratch_bytes(const Conv& conv) { return BackwardWeightBlock(conv, Arena(nullptr)).used_; }

  void compute(const Block& block, int64_t tap) {
    const Conv& conv = args_->conv;
    block_ = block;
    __builtin_memset(sums_, 0, static_cast<size_t>(conv.group_outputs() * kWideBlock) * sizeof(S));
    for (int64_t image = 0; image < conv.batch; ++image) {
      for (int64_t first = 0; first < conv.pixels(); first += kSteps) {
        const int64_t left = conv.pixels() - first;
        add_pixels(Run{image, first, left < kSteps ? left : kSteps}, tap);
      }
    }
    finish(tap);
  }

 private:
  BackwardWeightBlock(const Conv& conv, Arena arena) : blocks_(conv) {
    plan_ = arena.take<Plan<S>>(1);
    zeros_ = arena.take<T>(kWideBlock);
    samples_ = arena.take<Word>(kSteps * kWideBlock);
    sums_ = arena.take<S>(padded_rows(blocks_.rows) * kWideBlock);
    used_ = arena.used();
  }

  void add_pixels(const Run& run, int64_t tap) {
    const Conv& conv = args_->conv;
    constexpr int64_t width = kPanel<S>, panel = kSteps * width;
    const int64_t channels = block_.end - block_.begin;
    make_plan(conv, args_->offset, args_->mask, run, block_.offset_group, tap, *plan_);
    const T* image = static_cast<const T*>(args_->input) + run.image * conv.cells() * conv.channels;
    const Source<T> source{image + block_.begin, zeros_, conv.channels};
    const Target<Word> target{samples_, width, panel};
    if constexpr (Product::depth == 2) {
      if (run.count % 2 != 0) blank(*plan_, run.count);
      gather_pairs(*plan_, run.count, source, channels, target);
    } else {
      gather(*plan_, 0, run.count, source, channels, target);
    }
    const Word* grad =
        static_cast<const Word*>(args_->grad_transposed) + blocks_.at(run.image, run.first / kSteps, block_.group);
    const Operands<Product> operands{grad, samples_, panel, divide_up(run.count, Product::depth)};
    multiply(operands, conv.group_outputs(), divide_up(channels, width), sums_, kWideBlock, true);
  }

  void finish(int64_t tap) {
    const int64_t channels = args_->conv.group_channels(), outputs = args_->conv.group_outputs();
    const int64_t taps = args_->conv.taps();
    S* out = static_cast<S*>(args_->grad_weight) + (block_.group * outputs * taps + tap) * channels + block_.begin -
             block_.group * channels;
    copy_matrix(Matrix<const S>{sums_, kWideBlock, 1}, Matrix<S>{out, taps * channels, 1}, outputs,
                block_.end - block_.begin);
  }

  const Backward* args_ = nullptr;
  GradBlocks blocks_;
  Block block_{};
  Plan<S>* plan_;
  T* zeros_;
  Word* samples_;
  S* sums_;
  size_t used_;
};

template <typename T, typename Product>
void backward_weight(const Backward& args, int64_t begin, int64_t end, void* scratch) {
  BackwardWeightBlock<T, Product> block(args, scratch);
  const int64_t taps = args.conv.taps();
  for (int64_t task = begin; task < end; ++task) block.compute(args.blocks[task / taps], task % taps);
}
