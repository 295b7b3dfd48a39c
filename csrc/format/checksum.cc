// The checksum of docs/format.md. Eight independent lanes keep the multiplier busy: it runs at memory speed on one core or two.
#include <algorithm>
#include <bit>
#include <cstring>

#include "format/pcpu_format.h"

namespace pythia {
namespace {

constexpr uint64_t kBlockBytes = 64;
constexpr int kNumLanes = 8;
constexpr uint64_t kMultiplier = 0x9e3779b97f4a7c15;       // 2^64 / golden ratio, odd
constexpr uint64_t kFinalMultiplier = 0xd6e8feb86659fd93;  // odd

// A bijection of `state` for each word and of `word` for each state, so one changed word always changes the result.
constexpr uint64_t mix(uint64_t state, uint64_t word) { return std::rotl((state ^ word) * kMultiplier, 29); }

void add_blocks(std::array<uint64_t, kNumLanes>& lanes, const unsigned char* data, uint64_t num_blocks) {
  std::array<uint64_t, kNumLanes> l = lanes;
  for (uint64_t block = 0; block < num_blocks; ++block, data += kBlockBytes) {
    std::array<uint64_t, kNumLanes> words;
    std::memcpy(words.data(), data, kBlockBytes);
    for (int i = 0; i < kNumLanes; ++i) l[i] = mix(l[i], words[i]);
  }
  lanes = l;
}

}  // namespace

const std::array<uint64_t, kNumLanes> Checksum64::kSeeds = {1 * kMultiplier, 2 * kMultiplier, 3 * kMultiplier, 4 * kMultiplier,
                                                            5 * kMultiplier, 6 * kMultiplier, 7 * kMultiplier, 8 * kMultiplier};

void Checksum64::update(const void* data, uint64_t size_bytes) noexcept {
  auto* bytes = static_cast<const unsigned char*>(data);
  const uint64_t in_tail = size_bytes_ % kBlockBytes;
  size_bytes_ += size_bytes;
  if (in_tail > 0) {
    const uint64_t taken = std::min(size_bytes, kBlockBytes - in_tail);
    if (taken > 0) std::memcpy(tail_.data() + in_tail, bytes, taken);
    bytes += taken;
    size_bytes -= taken;
    if (in_tail + taken < kBlockBytes) return;
    add_blocks(lanes_, tail_.data(), 1);
  }
  add_blocks(lanes_, bytes, size_bytes / kBlockBytes);
  if (const uint64_t rest = size_bytes % kBlockBytes) std::memcpy(tail_.data(), bytes + (size_bytes - rest), rest);
}

uint64_t Checksum64::value() const noexcept {
  std::array<uint64_t, kNumLanes> lanes = lanes_;
  if (const uint64_t rest = size_bytes_ % kBlockBytes) {
    std::array<unsigned char, kBlockBytes> last = {};
    std::memcpy(last.data(), tail_.data(), rest);
    add_blocks(lanes, last.data(), 1);
  }
  uint64_t hash = size_bytes_ * kMultiplier;
  for (const uint64_t lane : lanes) hash = mix(hash, lane);
  hash ^= hash >> 32;
  hash *= kFinalMultiplier;
  return hash ^ (hash >> 32);
}

uint64_t checksum64(const void* data, uint64_t size_bytes) noexcept {
  Checksum64 checksum;
  checksum.update(data, size_bytes);
  return checksum.value();
}

}  // namespace pythia
