#include "cli/score_result.h"

#include <algorithm>
#include <charconv>

#include "common/exact_math.h"
#include "score/windows.h"

namespace pythia::cli {
namespace {

std::string number_text(double value) {
  char digits[64];
  return {digits, std::to_chars(digits, digits + sizeof digits, value, std::chars_format::general, 8).ptr};
}

}  // namespace

void ScoreResult::add(const ScoreRequest& request, const std::vector<TokenScore>& scores) {
  for (std::size_t i = 0; i < scores.size(); ++i) {
    tokens.push_back({request.tokens[static_cast<std::size_t>(request.first_target) + i], scores[i]});
    log_likelihood += static_cast<double>(scores[i].logprob);
  }
}

double ScoreResult::perplexity() const { return exp_exact(-log_likelihood / static_cast<double>(tokens.size())); }

void ScoreResult::set_text(const std::string& text, int64_t num_tokens, std::span<const ScoreRequest> windows,
                           const Tokenizer& tokenizer) {
  num_text_tokens = num_tokens;
  num_bytes = static_cast<int64_t>(text.size());
  for (const int32_t id : unscored_tokens(windows, num_tokens))
    num_bytes -= static_cast<int64_t>(tokenizer.token_bytes(id).size());
}

double ScoreResult::bits_per_byte() const { return -log_likelihood / kLn2 / static_cast<double>(num_bytes); }

int64_t ScoreResult::num_greedy() const {
  return std::ranges::count_if(tokens, [](const ScoredToken& token) { return token.score.rank == 0; });
}

std::string summary_lines(const ScoreResult& result) {
  const auto line = [](std::string name, const std::string& value) {
    name.resize(16, ' ');
    return name + value + "\n";
  };
  return line("tokens", std::to_string(result.num_text_tokens)) + line("scored", std::to_string(result.tokens.size())) +
         line("log-likelihood", number_text(result.log_likelihood)) + line("perplexity", number_text(result.perplexity())) +
         line("bits per byte", number_text(result.bits_per_byte())) +
         line("greedy tokens", std::to_string(result.num_greedy()));
}

std::string token_lines(const ScoreResult& result, const Tokenizer& tokenizer) {
  std::string lines;
  for (const ScoredToken& token : result.tokens) {
    char digits[32];
    JsonWriter piece;
    piece.string(tokenizer.token_bytes(token.id));
    lines += std::to_string(token.id) + "\t";
    lines.append(digits, std::to_chars(digits, digits + sizeof digits, token.score.logprob).ptr);
    lines += token.score.rank == 0 ? "\t1\t" : "\t0\t";
    lines += piece.text() + "\n";
  }
  return lines;
}

void write_members(JsonWriter& json, const ScoreResult& result, bool per_token) {
  json.key("num_text_tokens").number(result.num_text_tokens).key("num_tokens").number(result.tokens.size());
  json.key("num_bytes").number(result.num_bytes).key("log_likelihood").number(result.log_likelihood);
  json.key("perplexity").number(result.perplexity()).key("bits_per_byte").number(result.bits_per_byte());
  json.key("num_greedy").number(result.num_greedy());
  if (!per_token) return;
  const auto array = [&](std::string_view name, auto&& write) {
    json.key(name).begin_array();
    for (const ScoredToken& token : result.tokens) write(token);
    json.end_array();
  };
  array("tokens", [&](const ScoredToken& token) { json.number(token.id); });
  array("logprobs", [&](const ScoredToken& token) { json.number(token.score.logprob); });
  array("is_greedy", [&](const ScoredToken& token) { json.boolean(token.score.rank == 0); });
  array("ranks", [&](const ScoredToken& token) { json.number(token.score.rank); });
  array("entropies", [&](const ScoredToken& token) { json.number(token.score.entropy); });
  array("varentropies", [&](const ScoredToken& token) { json.number(token.score.varentropy); });
}

}  // namespace pythia::cli
