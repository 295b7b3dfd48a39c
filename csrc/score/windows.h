// How a text that may be longer than the context is cut for its perplexity.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "score/scorer.h"

namespace pythia {

// lm-evaluation-harness's rolling windows (lm_eval.utils.get_rolling_token_windows with context_len 1): every token is scored
// once, the first after `prefix_token`. The first window predicts context_length tokens; each later one the next
// context_length, after the token before them; the last one what is left, after as many earlier tokens as fit.
// context_length >= 1. Throws std::invalid_argument.
std::vector<ScoreRequest> rolling_windows(std::span<const int32_t> tokens, int32_t prefix_token, int64_t context_length);

// The strided windows of Hugging Face's "Perplexity of fixed-length models": windows of context_length tokens begin every
// `stride` tokens, and each scores those tokens that none before it held. The first token of the text has nothing before it and
// is not scored; with stride == context_length (disjoint windows) nor is the first of any window.
// context_length >= 2, stride in 1..context_length. Throws std::invalid_argument.
std::vector<ScoreRequest> strided_windows(std::span<const int32_t> tokens, int64_t context_length, int64_t stride);

// The tokens of a text of num_tokens that its windows leave unscored: with strided windows its first, or that of each.
std::vector<int32_t> unscored_tokens(std::span<const ScoreRequest> windows, int64_t num_tokens);

}  // namespace pythia
