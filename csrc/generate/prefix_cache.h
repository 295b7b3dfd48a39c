// Keys and values of token sequences that were computed before, for those that begin alike.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>

#include "common/process_mutex.h"
#include "model/kv_cache.h"

namespace pythia {

// A tree of blocks of kKvBlock tokens: a prefix that several sequences share is kept once. Where there is no room, the blocks
// that were not used for the longest time are dropped. The bits of what is found are those that were computed. Thread-safe.
class PrefixCache {
 public:
  // max_bytes of keys and values, >= 1; of caches with this layout.
  PrefixCache(const KvLayout& layout, int64_t max_bytes);
  ~PrefixCache();

  // Fills an empty cache with the longest prefix of `tokens` that is known, and returns its length.
  int64_t read(std::span<const int32_t> tokens, KvCache& cache);

  // Remembers the positions of a cache that holds `tokens`, whole blocks of them.
  void write(std::span<const int32_t> tokens, const KvCache& cache);

  int64_t size_bytes() const;  // of keys and values, now
  int64_t max_bytes() const { return max_bytes_; }
  const KvLayout& layout() const { return layout_; }
  int64_t num_tokens_read() const;  // over all read() calls: tokens that need not be computed

 private:
  using Tokens = std::array<int32_t, kKvBlock>;
  struct Node;
  using Children = std::map<Tokens, std::unique_ptr<Node>>;
  struct Node {
    Node* parent = nullptr;
    Tokens tokens{};
    std::unique_ptr<std::byte[]> data;
    Children children;
    std::list<Node*>::iterator place;  // in recent_
  };
  void touch(Node* node);
  bool make_room(const Node* keep);

  const KvLayout layout_;
  const int64_t max_bytes_, block_bytes_;
  mutable ProcessMutex mutex_{"used its prefix cache"};
  Node root_;
  std::list<Node*> recent_;  // the latest first; a block comes after all that lead to it
  int64_t size_bytes_ = 0, num_tokens_read_ = 0;
};

}  // namespace pythia
