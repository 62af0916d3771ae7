// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Where the results of a plan's steps lie in its arena, and which steps take the batch in pieces.
//
// Early layers of a CNN make the largest results: a ResNet's first stages at batch 16 would set the arena's size alone. So the first steps
// run on a quarter of the batch at a time. What they hand to later steps is kept whole, all else exists for one piece only. A step does the
// same to each picture whatever the batch, so no bit changes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../core/config.hpp"

namespace tomograd::inline TOMOGRAD_ABI::detail {

/// A result: the steps from the one that makes it to the last that reads it, and its bytes for one picture.
struct ArenaBlock {
  std::size_t value, born, dies;
  std::int64_t row_bytes;
  bool whole = true;       // holds the whole batch, not a piece
  std::int64_t begin = 0;  // bytes into the arena
};

/// The first `steps` steps run for `pictures` pictures at a time; 0 steps: there are no pieces.
struct Pieces {
  std::size_t steps = 0;
  std::int64_t pictures = 0;
};

inline std::int64_t block_bytes(const ArenaBlock& b, std::int64_t batch, const Pieces& pieces) {
  return ((b.whole ? batch : pieces.pictures) * b.row_bytes + 63) / 64 * 64;
}

/// Lifetimes as the pieces make them: what leaves them is written from the first step on.
inline std::vector<ArenaBlock> in_pieces(std::vector<ArenaBlock> blocks, const Pieces& pieces) {
  for (ArenaBlock& b : blocks)
    if (b.born < pieces.steps) {
      b.whole = b.dies >= pieces.steps;
      if (b.whole) b.born = 0;
    }
  return blocks;
}

/// Most bytes that are alive at one step.
inline std::int64_t live_at_most(const std::vector<ArenaBlock>& blocks, std::size_t steps, std::int64_t batch, const Pieces& pieces) {
  std::vector<std::int64_t> change(steps + 1, 0);
  for (const ArenaBlock& b : blocks) {
    change[b.born] += block_bytes(b, batch, pieces);
    change[b.dies + 1] -= block_bytes(b, batch, pieces);
  }
  std::int64_t live = 0, most = 0;
  for (const std::int64_t c : change) most = std::max(most, live += c);
  return most;
}

/// What a step moves: bytes for one picture, and its filter, which every piece reads again.
struct StepTraffic {
  std::int64_t row_bytes, filter_bytes;
};

/// The least number of steps that makes the arena smallest, of those whose pieces cost hardly any time: filters that are read again are at
/// most a twelfth of what the steps move, and a piece moves kLeast per step on average, since each call wakes threads. one_by_one: pieces
/// of one picture, whatever they cost.
inline Pieces choose_pieces(const std::vector<ArenaBlock>& blocks, const std::vector<StepTraffic>& traffic, std::int64_t batch,
                            bool one_by_one) {
  constexpr std::int64_t kShare = 12, kLeast = 2 << 20;
  const std::int64_t pieces = one_by_one ? batch : 4;
  Pieces best, next{0, (batch + pieces - 1) / pieces};
  if (next.pictures == batch) return best;
  std::int64_t least = live_at_most(blocks, traffic.size(), batch, best), row_bytes = 0, filter_bytes = 0;
  for (const StepTraffic& t : traffic) {
    ++next.steps;
    row_bytes += t.row_bytes;
    filter_bytes += t.filter_bytes;
    if (!one_by_one && (filter_bytes * (pieces - 1) * kShare > row_bytes * batch ||
                        row_bytes * next.pictures < static_cast<std::int64_t>(next.steps) * kLeast))
      continue;
    const std::int64_t most = live_at_most(in_pieces(blocks, next), traffic.size(), batch, next);
    if (most < least) least = most, best = next;
  }
  return best;
}

/// By lifetime, the largest first, each at the lowest place that is free as long as it lives. Returns the arena's bytes.
inline std::int64_t place_blocks(std::vector<ArenaBlock>& blocks, std::int64_t batch, const Pieces& pieces) {
  const auto bytes = [&](const ArenaBlock& b) { return block_bytes(b, batch, pieces); };
  std::stable_sort(blocks.begin(), blocks.end(), [&](const ArenaBlock& a, const ArenaBlock& b) { return bytes(a) > bytes(b); });
  std::vector<ArenaBlock> placed;  // by begin
  std::int64_t arena = 0;
  for (ArenaBlock& block : blocks) {
    for (const ArenaBlock& b : placed) {
      if (b.born > block.dies || block.born > b.dies) continue;
      if (b.begin - block.begin >= bytes(block)) break;
      block.begin = std::max(block.begin, b.begin + bytes(b));
    }
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), block, [](const ArenaBlock& x, const ArenaBlock& y) { return x.begin < y.begin; }),
        block);
    arena = std::max(arena, block.begin + bytes(block));
  }
  return arena;
}

}  // namespace tomograd::inline TOMOGRAD_ABI::detail
