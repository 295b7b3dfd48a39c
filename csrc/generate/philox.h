// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC11): a counter-based generator.
// A draw is a pure function of (seed, sequence, step), so it does not depend on what else runs in the batch.
#pragma once

#include <array>
#include <cstdint>

namespace pythia {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

// The 128 bits that belong to a counter under a key.
constexpr PhiloxCounter philox4x32_10(PhiloxCounter counter, PhiloxKey key) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{kMultiplier0} * counter[0];
    const uint64_t product1 = uint64_t{kMultiplier1} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key = {key[0] + kWeyl0, key[1] + kWeyl1};
  }
  return counter;
}

// Which draw: the seed is the key; the counter is (step low, step high, sequence low, sequence high).
struct DrawKey {
  uint64_t seed = 0;
  uint64_t sequence = 0;  // index among the sequences returned for one prompt, never a place in a batch
  uint64_t step = 0;      // number of tokens generated before this one
};

// floor(a * b / 2^64).
constexpr uint64_t multiply_high(uint64_t a, uint64_t b) {
  constexpr uint64_t kLow = 0xFFFFFFFFu;
  const uint64_t low_low = (a & kLow) * (b & kLow);
  const uint64_t high_low = (a >> 32) * (b & kLow);
  const uint64_t low_high = (a & kLow) * (b >> 32);
  const uint64_t middle = (low_low >> 32) + (high_low & kLow) + low_high;
  return (a >> 32) * (b >> 32) + (high_low >> 32) + (middle >> 32);
}

// A draw's uniform numbers, one after the other: 64 bits each, the two halves of the draw's Philox block and then of the block
// that each block is the counter of. A half's first word is the low one.
class UniformSequence {
 public:
  explicit constexpr UniformSequence(const DrawKey& draw)
      : key_{low(draw.seed), high(draw.seed)},
        block_{low(draw.step), high(draw.step), low(draw.sequence), high(draw.sequence)} {}

  constexpr uint64_t next_bits() {
    if (!second_half_) block_ = philox4x32_10(block_, key_);
    const size_t first = second_half_ ? 2 : 0;
    second_half_ = !second_half_;
    return block_[first] | uint64_t{block_[first + 1]} << 32;
  }

  // A uniform integer in [0, limit): floor(bits * limit / 2^64). An outcome made of w of the integers has a probability within
  // 2^-64 of w / limit. No floating point is involved.
  constexpr int64_t next_below(int64_t limit) {
    return static_cast<int64_t>(multiply_high(next_bits(), static_cast<uint64_t>(limit)));
  }

 private:
  static constexpr uint32_t low(uint64_t x) { return static_cast<uint32_t>(x); }
  static constexpr uint32_t high(uint64_t x) { return static_cast<uint32_t>(x >> 32); }
  PhiloxKey key_;
  PhiloxCounter block_;  // the counter at first
  bool second_half_ = false;
};

}  // namespace pythia
