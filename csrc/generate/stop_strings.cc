#include "generate/stop_strings.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "common/utf8.h"

namespace pythia {

StopMatcher::StopMatcher(std::vector<std::string> stop_strings) : stop_strings_(std::move(stop_strings)) {
  for (const std::string& stop : stop_strings_) {
    if (stop.empty()) throw std::invalid_argument("[generate] a stop string is empty, expected at least one character");
    if (!utf8::is_valid(stop))
      throw std::invalid_argument("[generate] a stop string is not valid UTF-8, so no text can hold it");
  }
}

std::string StopMatcher::push(std::string_view text) {
  if (stop_strings_.empty()) return std::string(text);
  held_ += text;
  std::size_t first_begin = std::string::npos, first_end = std::string::npos;
  for (const std::string& stop : stop_strings_) {
    const std::size_t begin = held_.find(stop);
    if (begin == std::string::npos) continue;
    const std::size_t end = begin + stop.size();
    if (end < first_end || (end == first_end && begin < first_begin)) first_begin = begin, first_end = end;
  }
  stopped_ = first_begin != std::string::npos;
  const std::size_t certain = stopped_ ? first_begin : held_.size() - held_back_size();
  std::string released = held_.substr(0, certain);
  held_.erase(0, stopped_ ? held_.size() : certain);
  return released;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

// Size of the longest end of held_ that begins a stop string.
std::size_t StopMatcher::held_back_size() const {
  std::size_t longest = 0;
  for (const std::string& stop : stop_strings_) {
    for (std::size_t size = std::min(held_.size(), stop.size() - 1); size > longest; --size)
      if (held_.ends_with(std::string_view(stop).substr(0, size))) longest = size;
  }
  return longest;
}

}  // namespace pythia
