// What callers of a forward pass give it.
#pragma once

#include <cstdint>
#include <span>

#include "model/kv_cache.h"

namespace pythia {

// One sequence's part of a forward pass: `tokens` are appended at cache->length().
struct SequenceSlice {
  KvCache* cache = nullptr;
  std::span<const int32_t> tokens;  // at least 1
  int64_t num_logits = 1;           // logits are computed for the last num_logits tokens, 0..tokens.size()
};

}  // namespace pythia
