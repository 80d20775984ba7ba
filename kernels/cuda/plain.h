// Sizes and indices of the plain path, free of CUDA: the host tests include this file too.
#pragma once

#include <cstdint>

#include "../bilinear.h"

namespace seg::cuda {

constexpr int kThreads = 256;              // of a block
constexpr int64_t kMostBlocks = 1 << 20;   // of a launch; the loops of the kernels take the rest
constexpr int64_t kWorkspace = 64 << 20;   // bytes of samples that are held at once
constexpr int kWarp = 32;

SEG_HD int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Of numbers below 2^32, as those of channels and taps are; a GPU divides them several times as fast as 64 bits.
SEG_HD int64_t quotient(int64_t value, int64_t by) { return int64_t(uint32_t(value) / uint32_t(by)); }
SEG_HD int64_t rest_of(int64_t value, int64_t by) { return int64_t(uint32_t(value) % uint32_t(by)); }

// Blocks that give every item a thread, as far as a launch may go; at least one.
SEG_HD int64_t blocks_for(int64_t items, int64_t threads) {
  const int64_t blocks = divide_up(items, threads);
  return blocks < 1 ? 1 : blocks > kMostBlocks ? kMostBlocks : blocks;
}

// Whether indices below `count` fit into 32 bits, a grid's stride beyond the last one included.
SEG_HD bool fits_int32(int64_t count) { return count <= INT64_C(0x7fffffff) - kMostBlocks * kThreads; }

// Pixels of the output, of the whole batch, whose samples of `element` bytes fit into the workspace; at least one.
SEG_HD int64_t chunk_pixels(const Conv& conv, int64_t element) {
  const int64_t wanted = kWorkspace / (conv.taps() * conv.channels * element), all = conv.batch * conv.pixels();
  const int64_t some = wanted < 1 ? 1 : wanted;
  return some < all ? some : all;
}

SEG_HD int64_t greatest_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// Channels that one thread reads at once: up to 16 bytes, all of one weight group and one offset group.
SEG_HD int64_t vector_channels(const Conv& conv, int64_t element, uint64_t address) {
  int64_t width = 16 / element;
  const int64_t together = greatest_divisor(conv.group_channels(), conv.offset_group_channels());
  while (together % width != 0 || address % (width * element) != 0) width /= 2;
  return width;
}

// Threads that share one sample: a power of two, at most a warp, no more than there are vectors of channels.
SEG_HD int lanes_for(int64_t vectors) {
  int lanes = 1;
  while (lanes < kWarp && lanes < vectors) lanes *= 2;
  return lanes;
}

// One sample, of all channels of an offset group.
struct Place {
  int64_t image, pixel, tap, group;  // pixel: of the image's output, row by row
  int64_t y, x;                      // of the output
};

// The sample of a pixel, counted through the batch. Index is uint32_t where all pixels fit into 32 bits, whose divisions
// are several times as fast, and else uint64_t.
template <typename Index>
SEG_HD Place place_at(const Conv& conv, int64_t flat, int64_t tap, int64_t group) {
  const Index pixels = Index(conv.pixels()), columns = Index(conv.columns), pixel = Index(flat) % pixels;
  Place place;
  place.image = int64_t(Index(flat) / pixels);
  place.pixel = int64_t(pixel);
  place.tap = tap;
  place.group = group;
  place.y = int64_t(pixel / columns);
  place.x = int64_t(pixel % columns);
  return place;
}

// The sample with this number among those of the pixels from `first` on, which are counted through the batch.
// Taps change fastest, so that neighbouring warps read neighbouring cells. Index as above, for all samples of the batch.
template <typename Index>
SEG_HD Place place_of(const Conv& conv, int64_t first, int64_t number) {
  const Index taps = Index(conv.taps()), groups = Index(conv.offset_groups), rest = Index(number) / taps;
  return place_at<Index>(conv, first + int64_t(rest / groups), int64_t(Index(number) % taps), int64_t(rest % groups));
}

SEG_HD int64_t sample_count(const Conv& conv, int64_t pixels) { return pixels * conv.taps() * conv.offset_groups; }

// Where the samples of a chunk are: [group][pixel of the chunk][tap][channel of the group].
SEG_HD int64_t column_index(const Conv& conv, int64_t count, int64_t pixel, int64_t tap, int64_t channel) {
  const int64_t per_group = conv.group_channels();
  const int64_t group = quotient(channel, per_group);
  return ((group * count + pixel) * conv.taps() + tap) * per_group + channel - group * per_group;
}

// A channel of the offset [2 * group * taps] or the mask [group * taps].
SEG_HD int64_t mask_channel(const Conv& conv, int64_t group, int64_t tap) { return group * conv.taps() + tap; }

// Index into a contiguous map [batch, channels, rows, columns] of the output's size.
SEG_HD int64_t map_index(const Conv& conv, int64_t channels, int64_t image, int64_t channel, int64_t pixel) {
  return (image * channels + channel) * conv.pixels() + pixel;
}

// The four cells that a sample reads and their shares, presence and mask included.
template <typename S>
struct Corners {
  int32_t cell[4];  // in the image; kRing where there is none
  S share[4];
};

template <typename S>
SEG_HD Corners<S> corners_of(const Square<S>& square, S mask, int32_t height, int32_t width) {
  Corners<S> corners;
  const S scale = square.presence * mask;
  for (int i = 0; i < 4; ++i) {
    corners.cell[i] = corner_index(square, i, height, width);
    corners.share[i] = corner_weight(square.down, square.right, i) * scale;
  }
  return corners;
}

// Gradients by y, by x and by the mask, from the scalar products of a sample's gradient with its four cells.
template <typename S>
struct PositionGradient {
  S y, x, mask;
};

template <typename S>
SEG_HD PositionGradient<S> position_gradient(const Square<S>& square, S mask, const S (&dots)[4]) {
  PositionGradient<S> gradient{0, 0, 0};
  for (int i = 0; i < 4; ++i) {
    gradient.y += corner_weight_dy(square.right, i) * dots[i];
    gradient.x += corner_weight_dx(square.down, i) * dots[i];
    gradient.mask += corner_weight(square.down, square.right, i) * dots[i];
  }
  gradient.y *= square.presence * mask;
  gradient.x *= square.presence * mask;
  gradient.mask *= square.presence;
  return gradient;
}

}  // namespace seg::cuda
