// How the fused path cuts its work into tiles, and where their elements are; free of CUDA.
//
// A block multiplies the samples of kTilePixels pixels with the weights of a block of outputs. It walks through steps: a
// chunk of channels outside, the taps inside, so that neighbouring taps find their cells in the first-level cache. A row
// of a tile is 128 bytes: 64 channels of 16 bits, or 32 of 32 bits.
#pragma once

#include "plain.h"

namespace seg::cuda {

constexpr int kTilePixels = 128;
constexpr int kRowBytes = 128;
constexpr int kVectorBytes = 16;
constexpr int kVectors = kRowBytes / kVectorBytes;  // of a row
constexpr int kSubsteps = 4;                        // of a step: 32 bytes of channels each, two vectors

// Byte at which a vector of a row of a tile begins. Exchanging vectors by the row's number spreads the eight rows that
// a matrix is loaded from over all banks of shared memory.
SEG_HD int tile_offset(int row, int vector) { return row * kRowBytes + ((vector ^ (row % kVectors)) * kVectorBytes); }

// The same in a tile that is multiplied across: its rows are pixels, say, over which the sum runs. Elements of 32 bits
// are loaded from it one by one, four rows and two vectors at once.
SEG_HD int crossed_offset(int row, int vector, int element) {
  return element == 2 ? tile_offset(row, vector)
                      : row * kRowBytes + ((vector ^ (row * 2 % kVectors)) * kVectorBytes);
}

// Byte of an element in neighbouring such tiles, each of as many rows as a row has elements.
SEG_HD int crossed_place(int row, int column, int element) {
  const int across = kRowBytes / element, tile = column / across, byte = column % across * element;
  return tile * across * kRowBytes + crossed_offset(row, byte / kVectorBytes, element) + byte % kVectorBytes;
}

// Channels that share a weight group and an offset group, where one kind of group divides the other.
SEG_HD int64_t segment_channels(const Conv& conv) {
  const int64_t a = conv.group_channels(), b = conv.offset_group_channels();
  return a < b ? a : b;
}

SEG_HD bool has_segments(const Conv& conv) {
  return conv.group_channels() % segment_channels(conv) == 0 && conv.offset_group_channels() % segment_channels(conv) == 0;
}

SEG_HD int64_t chunk_channels(int64_t element) { return kRowBytes / element; }

SEG_HD int64_t chunks_of_segment(const Conv& conv, int64_t element) {
  return divide_up(segment_channels(conv), chunk_channels(element));
}

SEG_HD int64_t chunks_of_group(const Conv& conv, int64_t element) {
  return conv.group_channels() / segment_channels(conv) * chunks_of_segment(conv, element);
}

// Channels [begin, end) of the input: at most a row of a tile, all of one weight group and one offset group.
struct Chunk {
  int64_t begin, end;
};

SEG_HD Chunk chunk_at(const Conv& conv, int64_t group, int64_t index, int64_t element) {
  const int64_t per_segment = chunks_of_segment(conv, element), segment = segment_channels(conv);
  const int64_t start = group * conv.group_channels() + quotient(index, per_segment) * segment;
  const int64_t within = rest_of(index, per_segment) * chunk_channels(element);
  const int64_t end = within + chunk_channels(element);
  return Chunk{start + within, start + (end < segment ? end : segment)};
}

// The steps [begin, end) of one block, of one weight group, tile of pixels and block of outputs.
struct Work {
  int64_t group, outputs, pixels;  // number of the group, of its block of outputs, of the tile of pixels
  int64_t split, begin, end;
};

// How all work is shared out.
struct Division {
  int64_t tiles, output_blocks, groups, splits, steps;
  SEG_HD int64_t blocks() const { return tiles * output_blocks * groups * splits; }
};

// Splits the sum over steps where there are fewer tiles than multiprocessors; each part keeps a few steps.
SEG_HD Division divide_forward(const Conv& conv, int64_t element, int64_t block_outputs, int64_t multiprocessors) {
  Division division;
  division.tiles = divide_up(conv.batch * conv.pixels(), kTilePixels);
  division.output_blocks = divide_up(conv.group_outputs(), block_outputs);
  division.groups = conv.groups;
  division.steps = chunks_of_group(conv, element) * conv.taps();
  const int64_t tiles = division.tiles * division.output_blocks * division.groups;
  const int64_t wanted = multiprocessors / tiles, most = division.steps / 4;
  division.splits = wanted < most ? wanted : most;
  if (division.splits < 1) division.splits = 1;
  return division;
}

// Neighbouring blocks have neighbouring tiles of pixels and the same weights.
SEG_HD Work work_of(const Division& division, int64_t block) {
  Work work;
  work.pixels = block % division.tiles;
  block /= division.tiles;
  work.outputs = block % division.output_blocks;
  block /= division.output_blocks;
  work.group = block % division.groups;
  work.split = block / division.groups;
  work.begin = division.steps * work.split / division.splits;
  work.end = division.steps * (work.split + 1) / division.splits;
  return work;
}

// Row of the packed weights [group][block of outputs][step][output of the block], one row of a tile each.
SEG_HD int64_t packed_row(const Division& division, int64_t group, int64_t outputs, int64_t step, int64_t row,
                          int64_t block_outputs) {
  return ((group * division.output_blocks + outputs) * division.steps + step) * block_outputs + row;
}

// Bytes of shared memory: the plan of all taps, and two tiles each of samples and of weights.
SEG_HD int64_t forward_shared_bytes(const Conv& conv, int64_t block_outputs) {
  const int64_t plan = conv.taps() * kTilePixels * 2 * kVectorBytes;
  return plan + 2 * (kTilePixels + block_outputs) * kRowBytes;
}

// The backward's blocks: a tile of pixels, one tap, and up to kBlockChannels channels of one segment.
constexpr int kBlockChannels = 128;

struct BackwardDivision {
  int64_t tiles, taps, channel_blocks, steps;  // steps: rows of tiles of a weight group's outputs
  SEG_HD int64_t blocks() const { return tiles * taps * channel_blocks; }
};

SEG_HD int64_t blocks_of_segment(const Conv& conv) { return divide_up(segment_channels(conv), kBlockChannels); }

SEG_HD BackwardDivision divide_backward(const Conv& conv, int64_t element) {
  return BackwardDivision{divide_up(conv.batch * conv.pixels(), kTilePixels), conv.taps(),
                          conv.channels / segment_channels(conv) * blocks_of_segment(conv),
                          divide_up(conv.group_outputs(), chunk_channels(element))};
}

SEG_HD Chunk block_channels(const Conv& conv, int64_t block) {
  const int64_t segment = segment_channels(conv), start = quotient(block, blocks_of_segment(conv)) * segment;
  const int64_t within = rest_of(block, blocks_of_segment(conv)) * kBlockChannels, end = within + kBlockChannels;
  return Chunk{start + within, start + (end < segment ? end : segment)};
}

// Row of the weights packed for the backward, [block of channels][tap][step][channel of the block].
SEG_HD int64_t backward_row(const BackwardDivision& division, int64_t block, int64_t tap, int64_t step, int64_t row) {
  return ((block * division.taps + tap) * division.steps + step) * kBlockChannels + row;
}

// Where a block of channels leaves its share of the gradients by y (0), x (1) and mask (2), for every pixel.
SEG_HD int64_t share_index(const Conv& conv, int64_t block, int64_t tap, int64_t coordinate, int64_t flat) {
  return ((block * conv.taps() + tap) * 3 + coordinate) * conv.batch * conv.pixels() + flat;
}

// Bytes of shared memory: the plan and the dots of a tile's pixels; two tiles each of both factors, whose place their
// product takes afterwards.
SEG_HD int64_t backward_shared_bytes() {
  return 3 * kTilePixels * kVectorBytes + 2 * (kTilePixels + kBlockChannels) * kRowBytes;
}

// Whether the fused path takes these arguments; the plain path takes all.
SEG_HD bool fits_fused(const Conv& conv, int64_t element, uint64_t address, int64_t shared_bytes, int64_t needed) {
  if (!has_segments(conv) || segment_channels(conv) * element % kVectorBytes != 0) return false;
  if (address % kVectorBytes != 0 || needed > shared_bytes) return false;
  if (!fits_int32(conv.outputs * conv.taps() * conv.group_channels())) return false;
  if (!fits_int32(conv.channels * element)) return false;
  return fits_int32(conv.batch * conv.cells()) && fits_int32(conv.batch * conv.pixels());
}

// What the lanes of a warp hold of the product of two tiles (mma.m16n8k16 and mma.m16n8k8 alike).
// Row and vector that a lane names when four 8x8 matrices are loaded: 16 rows and two vectors of the left factor ...
SEG_HD int left_row(int lane) { return lane % 16; }
SEG_HD int left_vector(int lane) { return lane / 16; }
// ... or of the right factor, whose rows are the columns of the product.
SEG_HD int right_row(int lane) { return lane % 8 + lane / 16 * 8; }
SEG_HD int right_vector(int lane) { return lane / 8 % 2; }
// Row and column of the product's element `index` (of four) in a tile of 16 x 8.
SEG_HD int product_row(int lane, int index) { return lane / 4 + index / 2 * 8; }
SEG_HD int product_column(int lane, int index) { return lane % 4 * 2 + index % 2; }

}  // namespace seg::cuda
