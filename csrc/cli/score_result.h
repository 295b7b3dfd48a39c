// Scores of a text put together, and how `pythia-cpu score` writes them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/json_writer.h"
#include "score/scorer.h"
#include "text/tokenizer.h"

namespace pythia::cli {

struct ScoredToken {
  int32_t id;
  TokenScore score;
};

// Of one text, or of one continuation.
struct ScoreResult {
  std::vector<ScoredToken> tokens;  // those that were scored, in the text's order
  double log_likelihood = 0;
  int64_t num_text_tokens = 0;
  int64_t num_bytes = 0;  // of the tokens that were scored, in UTF-8

  // Sets both counts for a text that is cut into windows.
  void set_text(const std::string& text, int64_t num_tokens, std::span<const ScoreRequest> windows, const Tokenizer& tokenizer);

  // Adds the scores of a request's targets.
  void add(const ScoreRequest& request, const std::vector<TokenScore>& scores);

  double perplexity() const;
  double bits_per_byte() const;
  int64_t num_greedy() const;
};

// The summary's lines, name and value.
std::string summary_lines(const ScoreResult& result);

// One line a token: id, log-probability, 1 if it is the most likely one, and its text as a JSON string.
std::string token_lines(const ScoreResult& result, const Tokenizer& tokenizer);

// The members of a JSON object; with `per_token` arrays of all tokens too.
void write_members(JsonWriter& json, const ScoreResult& result, bool per_token);

}  // namespace pythia::cli
