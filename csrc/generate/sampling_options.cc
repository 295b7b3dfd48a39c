#include "generate/sampling_options.h"

#include <charconv>
#include <cmath>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>

namespace pythia {
namespace {

// The shortest text that reads back as `value`, whatever the locale.
template <class Number>
std::string to_text(Number value) {
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return std::string(buffer, end);
}

template <class Number>
void require(bool ok, std::string_view name, Number found, std::string_view expected) {
  if (ok) return;
  throw std::invalid_argument("[generate] " + std::string(name) + " is " + to_text(found) + ", expected " +
                              std::string(expected));
}

}  // namespace

void validate(const SamplingOptions& options, int64_t vocab_size) {
  // Comparisons are written so that NaN fails them.
  require(options.temperature != 0 || !options.do_sample, "temperature", options.temperature,
          "a finite number above 0; for the most likely token at every step use do_sample=False");
  require(options.temperature >= 0 && std::isfinite(options.temperature), "temperature", options.temperature,
          options.do_sample ? "a finite number above 0" : "a finite number, 0 or more");
  require(options.top_k >= 0, "top_k", options.top_k, "0 (off) or a positive number of tokens");
  require(options.top_p > 0 && options.top_p <= 1, "top_p", options.top_p, "a number above 0 and at most 1 (off)");
  require(options.min_p >= 0 && options.min_p <= 1, "min_p", options.min_p, "a number from 0 (off) to 1");
  require(options.typical_p > 0 && options.typical_p <= 1, "typical_p", options.typical_p,
          "a number above 0 and at most 1 (off)");
  require(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty), "repetition_penalty",
          options.repetition_penalty, "a finite number above 0; 1 is off");
  require(std::isfinite(options.presence_penalty), "presence_penalty", options.presence_penalty, "a finite number; 0 is off");
  require(std::isfinite(options.frequency_penalty), "frequency_penalty", options.frequency_penalty,
          "a finite number; 0 is off");
  require(options.no_repeat_ngram_size >= 0, "no_repeat_ngram_size", options.no_repeat_ngram_size,
          "0 (off) or a positive number of tokens");

  std::set<int32_t> biased, banned;
  for (const auto& [id, bias] : options.logit_bias) {
    if (id < 0 || id >= vocab_size)
      throw std::invalid_argument("[generate] logit_bias names token " + to_text(id) + ", the model has tokens 0 to " +
                                  to_text(vocab_size - 1));
    if (std::isnan(bias) || bias == INFINITY)
      throw std::invalid_argument("[generate] logit_bias of token " + to_text(id) + " is " + to_text(bias) +
                                  ", expected a finite number, or -infinity to ban the token");
    if (!biased.insert(id).second)
      throw std::invalid_argument("[generate] logit_bias names token " + to_text(id) + " twice, expected one bias for a token");
    if (bias == -INFINITY) banned.insert(id);
  }
  if (static_cast<int64_t>(banned.size()) == vocab_size)
    throw std::invalid_argument("[generate] logit_bias bans all " + to_text(vocab_size) +
                                " tokens, expected at least one left");
}

}  // namespace pythia
