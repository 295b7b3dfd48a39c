#include "score/windows.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace pythia {
namespace {

void require_in_range(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    throw std::invalid_argument("[perplexity] " + std::string(name) + " is " + std::to_string(value) + ", expected " +
                                std::to_string(low) + ".." + std::to_string(high));
}

}  // namespace

std::vector<ScoreRequest> rolling_windows(std::span<const int32_t> tokens, int32_t prefix_token, int64_t context_length) {
  require_in_range("context_length", context_length, 1, INT32_MAX);
  const auto count = static_cast<int64_t>(tokens.size());
  std::vector<ScoreRequest> windows;
  for (int64_t scored = 0; scored < count;) {
    const int64_t end = std::min(count, scored + context_length);
    const int64_t begin = std::max<int64_t>(-1, end - context_length - 1);  // -1: the prefix
    ScoreRequest window = {.first_target = scored - begin};
    if (begin < 0) window.tokens.push_back(prefix_token);
    window.tokens.insert(window.tokens.end(), tokens.begin() + std::max<int64_t>(0, begin), tokens.begin() + end);
    windows.push_back(std::move(window));
    scored = end;
  }
  return windows;
}

std::vector<ScoreRequest> strided_windows(std::span<const int32_t> tokens, int64_t context_length, int64_t stride) {
  require_in_range("context_length", context_length, 2, INT32_MAX);
  require_in_range("stride", stride, 1, context_length);
  const auto count = static_cast<int64_t>(tokens.size());
  std::vector<ScoreRequest> windows;
  for (int64_t begin = 0, scored = 0; scored < count; begin += stride) {
    const int64_t end = std::min(count, begin + context_length);
    windows.push_back(
        {.tokens = {tokens.begin() + begin, tokens.begin() + end}, .first_target = std::max<int64_t>(1, scored - begin)});
    scored = end;
  }
  return windows;
}

std::vector<int32_t> unscored_tokens(std::span<const ScoreRequest> windows, int64_t num_tokens) {
  int64_t count = num_tokens;
  for (const ScoreRequest& window : windows) count -= static_cast<int64_t>(window.tokens.size()) - window.first_target;
  std::vector<int32_t> unscored;
  for (const ScoreRequest& window : windows.first(static_cast<std::size_t>(count))) unscored.push_back(window.tokens.front());
  return unscored;
}

}  // namespace pythia
