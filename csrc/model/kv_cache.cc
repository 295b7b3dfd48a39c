#include "model/kv_cache.h"

#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"

namespace pythia {
namespace {

std::byte* copy(const std::byte* from, int64_t size_bytes, std::byte* to) {
  std::memcpy(to, from, static_cast<std::size_t>(size_bytes));
  return to + size_bytes;
}

}  // namespace

KvLayout::KvLayout(const Config& config, KvFormat format)
    : format_(format),
      num_layers_(config.num_hidden_layers),
      num_heads_(config.num_attention_heads),
      head_dim_(config.head_dim()),
      max_positions_(config.max_position_embeddings) {
  static_assert(kKvBlock == kPanelWidth);
  const int64_t value_stride = round_up(head_dim_, kPanelWidth);
  switch (format) {
    case KvFormat::kF32: part_bytes_ = {kKvBlock * head_dim_ * 4, kKvBlock * value_stride * 4, 0, 0}; break;
    case KvFormat::kI16:
      part_bytes_ = {kKvBlock * round_up(head_dim_, 2) * 2, kKvBlock * value_stride * 2, kKvBlock * 4, kKvBlock * 4};
      break;
  }
}

int64_t KvLayout::block_bytes() const {
  return num_layer_heads() * std::accumulate(part_bytes_.begin(), part_bytes_.end(), int64_t{0});
}

int64_t KvCache::lay_out(int64_t capacity) {
  if (capacity < 1 || capacity > layout_.max_positions())
    throw std::invalid_argument("[kv_cache] capacity is " + std::to_string(capacity) + " positions, expected 1.." +
                                std::to_string(layout_.max_positions()));
  capacity_ = capacity;
  for (std::size_t i = 0; i < part_begin_.size(); ++i) {
    part_begin_[i] = head_bytes_;
    head_bytes_ += ceil_div(capacity, kKvBlock) * layout_.part_bytes()[i];
  }
  return layout_.num_layer_heads() * head_bytes_;
}

KvCache::KvCache(const KvLayout& layout, int64_t capacity) : layout_(layout) {
  memory_ = map_zeros(lay_out(capacity));
  data_ = memory_.get();
}

KvCache::KvCache(const KvLayout& layout, int64_t capacity, KvMemory& memory) : layout_(layout) {
  memory_ = memory.take(lay_out(capacity));
  data_ = memory_.get();
}

void KvCache::prefetch(int64_t layer, int64_t head, int64_t positions) const noexcept {
  constexpr int64_t kMaxPositions = 256;
  if (positions > kMaxPositions) return;
  const int64_t blocks = ceil_div(positions, kKvBlock), index = layer * layout_.num_heads() + head;
  for (std::size_t i = 0; i < KvLayout::kParts; ++i) {
    const std::byte* begin = part(index, i);
    // Each line twice, in turns too long to matter where they lie: of requests for one line a cycle Zen 4 drops many.
#pragma GCC unroll 8
    for (int64_t at = 0; at < blocks * layout_.part_bytes()[i]; at += kAlignment / 2) __builtin_prefetch(begin + at, 0, 2);
  }
}

void KvCache::truncate(int64_t length) {
  if (length < 0 || length > length_)
    throw std::invalid_argument("[kv_cache] cannot truncate to " + std::to_string(length) + " positions, expected 0.." +
                                std::to_string(length_) + ", the length now");
  length_ = length;
}

void KvCache::copy_prefix(const KvCache& other, int64_t length, int64_t num_equal) {
  if (other.layout_ != layout_)
    throw std::invalid_argument("[kv_cache] the other cache belongs to a model of another shape or weight format");
  if (length < 0 || length > other.length_ || length > capacity_)
    throw std::invalid_argument("[kv_cache] cannot copy " + std::to_string(length) + " positions of " +
                                std::to_string(other.length_) + " into a capacity of " + std::to_string(capacity_));
  if (num_equal < 0 || num_equal > std::min(length, length_))
    throw std::invalid_argument("[kv_cache] cannot keep " + std::to_string(num_equal) + " positions of " +
                                std::to_string(length_) + " for " + std::to_string(length));
  const int64_t first = num_equal / kKvBlock, blocks = ceil_div(length, kKvBlock) - first;
  for (int64_t head = 0; head < layout_.num_layer_heads(); ++head)
    for (std::size_t i = 0; i < KvLayout::kParts; ++i) {
      const int64_t bytes = layout_.part_bytes()[i];
      copy(other.part(head, i) + first * bytes, blocks * bytes, part(head, i) + first * bytes);
    }
  length_ = length;
}

void KvCache::copy_block(int64_t begin, std::byte* data) const {
  const int64_t block = begin / kKvBlock;
  for (int64_t head = 0; head < layout_.num_layer_heads(); ++head)
    for (std::size_t i = 0; i < KvLayout::kParts; ++i) {
      const int64_t bytes = layout_.part_bytes()[i];
      data = copy(part(head, i) + block * bytes, bytes, data);
    }
}

void KvCache::append_block(const std::byte* data) {
  const int64_t block = length_ / kKvBlock;
  for (int64_t head = 0; head < layout_.num_layer_heads(); ++head)
    for (std::size_t i = 0; i < KvLayout::kParts; ++i) {
      const int64_t bytes = layout_.part_bytes()[i];
      copy(data, bytes, part(head, i) + block * bytes);
      data += bytes;
    }
  length_ += kKvBlock;
}

}  // namespace pythia
