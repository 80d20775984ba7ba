// How the fused gradient of the weight cuts its work into tiles and steps; free of CUDA.
//
// A tile of the product is a block of outputs by kBlockColumns columns, which are the channels of neighbouring taps. Its
// sums run over the pixels of the whole batch, a step being a row of bytes of pixels. The steps of all tiles, one tile
// behind the other, are shared out evenly to as many blocks as the GPU has multiprocessors: a block takes its turn at the
// end of one tile, at whole ones, at the beginning of another. The turns at a tile are summed in the order of the blocks.
#pragma once

#include "tiles.h"

namespace seg::cuda {

constexpr int kBlockColumns = 128;

// Pixels of a step: four substeps of 32 bytes of one channel.
SEG_HD int64_t step_pixels(int64_t element) { return kRowBytes / element; }

// Rows of channels that the columns of a tile are made of, each of one tap.
SEG_HD int64_t column_parts(int64_t element) { return kBlockColumns / chunk_channels(element); }

struct WeightDivision {
  int64_t groups, output_blocks, column_blocks;
  int64_t steps;  // of a tile
  int64_t blocks;

  SEG_HD int64_t tiles() const { return groups * output_blocks * column_blocks; }
  SEG_HD int64_t all_steps() const { return tiles() * steps; }
  SEG_HD int64_t first_step(int64_t block) const { return all_steps() * block / blocks; }
  SEG_HD int64_t block_of(int64_t step) const { return ((step + 1) * blocks - 1) / all_steps(); }
  // Either number grows from turn to turn, so that their sum tells the turns apart.
  SEG_HD int64_t slot(int64_t block, int64_t tile) const { return block + tile; }
  SEG_HD int64_t slots() const { return blocks + tiles() - 1; }
};

// Each block keeps a few steps.
SEG_HD WeightDivision divide_weight(const Conv& conv, int64_t element, int64_t block_outputs, int64_t multiprocessors) {
  WeightDivision division;
  division.groups = conv.groups;
  division.output_blocks = divide_up(conv.group_outputs(), block_outputs);
  division.column_blocks = divide_up(chunks_of_group(conv, element) * conv.taps(), column_parts(element));
  division.steps = divide_up(conv.batch * conv.pixels(), step_pixels(element));
  const int64_t most = divide_up(division.all_steps(), 4);
  division.blocks = multiprocessors < most ? multiprocessors : most;
  return division;
}

// The steps [begin, end) of one tile that a block does in one go.
struct Turn {
  int64_t tile, group, outputs, columns;  // number of the tile, of its group, block of outputs and block of columns
  int64_t begin, end;
};

// The turn that begins at step `at` of all; the block's last one ends before `last`.
SEG_HD Turn turn_at(const WeightDivision& division, int64_t at, int64_t last) {
  Turn turn;
  turn.tile = at / division.steps;
  turn.columns = turn.tile % division.column_blocks;
  const int64_t rest = turn.tile / division.column_blocks;
  turn.outputs = rest % division.output_blocks;
  turn.group = rest / division.output_blocks;
  turn.begin = at % division.steps;
  const int64_t end = turn.begin + last - at;
  turn.end = end < division.steps ? end : division.steps;
  return turn;
}

// What a part of a tile's columns holds: a chunk of channels at one tap. Without channels behind the last column.
struct Column {
  Chunk chunk;
  int64_t tap, offset_group;
};

SEG_HD Column column_of(const Conv& conv, const Turn& turn, int64_t part, int64_t element) {
  const int64_t number = turn.columns * column_parts(element) + part, index = quotient(number, conv.taps());
  if (index >= chunks_of_group(conv, element)) return Column{{0, 0}, 0, 0};
  const Chunk chunk = chunk_at(conv, turn.group, index, element);
  return Column{chunk, rest_of(number, conv.taps()), quotient(chunk.begin, conv.offset_group_channels())};
}

// Bytes that the turns' sums take, [slot][output of the block][column] float.
SEG_HD int64_t turn_bytes(const WeightDivision& division, int64_t block_outputs) {
  return division.slots() * block_outputs * kBlockColumns * 4;
}

// Whether the turns' sums stay in proportion: tiles of many small groups would be empty for the most part.
SEG_HD bool turns_are_full(const Conv& conv, const WeightDivision& division, int64_t block_outputs) {
  return turn_bytes(division, block_outputs) <= kWorkspace + 4 * 4 * conv.outputs * conv.taps() * conv.group_channels();
}

// Bytes of shared memory: two steps' plan and tiles of samples and of the output's gradient, and what the columns hold.
SEG_HD int64_t weight_shared_bytes(int64_t block_outputs) {
  const int64_t plan = kBlockColumns * 2 * kVectorBytes, columns = kRowBytes * 2;
  return columns + 2 * (plan + (kBlockColumns + block_outputs) * kRowBytes);
}

}  // namespace seg::cuda
