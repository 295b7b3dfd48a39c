// Stop strings in text that arrives in pieces.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace pythia {

// Finds the first stop string as if the text came one character at a time, so the result does not depend on where the pieces
// are cut: the stop string that ends first wins, of those that end together the longest. Text that may still be the beginning
// of a stop string is held back.
class StopMatcher {
 public:
  // Throws std::invalid_argument for a stop string that is empty or not UTF-8.
  explicit StopMatcher(std::vector<std::string> stop_strings);

  // Takes the next piece of text, whole UTF-8 characters; returns the text that has become certain to come before any stop
  // string. Once stopped() is true all text has been returned and no more may come.
  std::string push(std::string_view text);

  // The text still held back, when no more comes.
  std::string finish();

  bool stopped() const { return stopped_; }

 private:
  std::size_t held_back_size() const;

  std::vector<std::string> stop_strings_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace pythia
