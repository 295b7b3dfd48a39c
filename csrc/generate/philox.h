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

// 64 uniform bits: the first two words of the draw's Philox block, the first one low.
constexpr uint64_t uniform_bits(const DrawKey& draw) {
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  const PhiloxCounter block = philox4x32_10({low(draw.step), high(draw.step), low(draw.sequence), high(draw.sequence)},
                                            {low(draw.seed), high(draw.seed)});
  return block[0] | uint64_t{block[1]} << 32;
}

// floor(a * b / 2^64).
constexpr uint64_t multiply_high(uint64_t a, uint64_t b) {
  constexpr uint64_t kLow = 0xFFFFFFFFu;
  const uint64_t low_low = (a & kLow) * (b & kLow);
  const uint64_t high_low = (a >> 32) * (b & kLow);
  const uint64_t low_high = (a & kLow) * (b >> 32);
  const uint64_t middle = (low_low >> 32) + (high_low & kLow) + low_high;
  return (a >> 32) * (b >> 32) + (high_low >> 32) + (middle >> 32);
}

// A uniform integer in [0, limit): floor(bits * limit / 2^64). An outcome made of w of the integers has a probability within
// 2^-64 of w / limit. No floating point is involved.
constexpr uint64_t uniform_below(uint64_t limit, const DrawKey& draw) { return multiply_high(uniform_bits(draw), limit); }

}  // namespace pythia
