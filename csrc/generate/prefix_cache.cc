#include "generate/prefix_cache.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "common/memory.h"

namespace pythia {

PrefixCache::PrefixCache(const KvLayout& layout, int64_t max_bytes)
    : layout_(layout), max_bytes_(max_bytes), block_bytes_(layout.block_bytes()) {
  if (max_bytes < 1)
    throw std::invalid_argument("[prefix_cache] max_bytes is " + std::to_string(max_bytes) + ", expected at least 1");
}

PrefixCache::~PrefixCache() {
  root_.children.clear();
  give_back_freed_memory();
}

int64_t PrefixCache::size_bytes() const {
  const std::lock_guard lock(mutex_);
  return size_bytes_;
}

int64_t PrefixCache::num_tokens_read() const {
  const std::lock_guard lock(mutex_);
  return num_tokens_read_;
}

// Moves a block and all that lead to it to the front, in this order, so that the last of recent_ never leads to another.
void PrefixCache::touch(Node* node) {
  for (; node != &root_; node = node->parent) recent_.splice(recent_.begin(), recent_, node->place);
}

// Drops blocks until there is room for one more, but neither `keep` nor what leads to it, which were touched last. False if
// that is not enough.
bool PrefixCache::make_room(const Node* keep) {
  while (size_bytes_ + block_bytes_ > max_bytes_ && !recent_.empty() && recent_.back() != keep) {
    Node* last = recent_.back();
    recent_.pop_back();
    const Tokens tokens = last->tokens;
    last->parent->children.erase(tokens);
    size_bytes_ -= block_bytes_;
  }
  return size_bytes_ + block_bytes_ <= max_bytes_;
}

int64_t PrefixCache::read(std::span<const int32_t> tokens, KvCache& cache) {
  const std::lock_guard lock(mutex_);
  Node* node = &root_;
  Tokens block;
  for (; tokens.size() >= block.size(); tokens = tokens.subspan(block.size())) {
    std::copy_n(tokens.begin(), block.size(), block.begin());
    const auto child = node->children.find(block);
    if (child == node->children.end()) break;
    node = child->second.get();
    cache.append_block(node->data.get());
  }
  touch(node);
  num_tokens_read_ += cache.length();
  return cache.length();
}

void PrefixCache::write(std::span<const int32_t> tokens, const KvCache& cache) {
  const std::lock_guard lock(mutex_);
  tokens = tokens.first(std::min(tokens.size(), static_cast<std::size_t>(cache.length())));
  Node* node = &root_;
  Tokens block;
  for (int64_t begin = 0; tokens.size() >= block.size(); tokens = tokens.subspan(block.size()), begin += kKvBlock) {
    std::copy_n(tokens.begin(), block.size(), block.begin());
    auto child = node->children.find(block);
    if (child == node->children.end()) {
      if (!make_room(node)) return;
      auto next = std::make_unique<Node>();
      next->parent = node;
      next->tokens = block;
      next->data = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(block_bytes_));
      cache.copy_block(begin, next->data.get());
      std::list<Node*> place = {next.get()};  // on its own, so that the tree and recent_ agree where memory ends
      next->place = place.begin();
      child = node->children.emplace(block, std::move(next)).first;
      recent_.splice(recent_.begin(), place);
      size_bytes_ += block_bytes_;
    }
    node = child->second.get();
    touch(node);
  }
}

}  // namespace pythia
