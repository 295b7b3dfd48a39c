// Added tokens: strings that become one id wherever they stand, whatever BPE would make of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace pythia {

struct AddedToken {
  std::string_view content;
  int32_t id;
  bool lstrip;
  bool rstrip;
};

// Finds added tokens from left to right, the longest where several start (`tokenizers`, AddedVocabulary::find_matches). A trie
// over bytes: O(text length * longest token).
class AddedTokenMatcher {
 public:
  AddedTokenMatcher();

  // `token.content` must outlive the matcher, is not empty and distinct from the others.
  void add(const AddedToken& token);
  bool empty() const { return tokens_.empty(); }

  // Calls on_text(std::string_view) and on_token(int32_t id) for the parts of `text` in order. Empty parts are left out.
  template <class OnText, class OnToken>
  void split(std::string_view text, OnText&& on_text, OnToken&& on_token) const {
    if (text.empty()) return;
    if (tokens_.empty()) return on_text(text);
    std::size_t done = 0;
    for (Match match = find(text, 0); match.token != nullptr; match = find(text, match.end)) {
      const auto [start, end] = stripped(text, match, done);
      if (done < start) on_text(text.substr(done, start - done));
      if (start < end) on_token(match.token->id);
      done = end;
    }
    if (done < text.size()) on_text(text.substr(done));
  }

 private:
  struct Node {
    int32_t first_child = -1;
    int32_t next_sibling = -1;
    int32_t token = -1;  // index into tokens_
    char byte = 0;
  };
  struct Match {
    std::size_t start = 0;
    std::size_t end = 0;
    const AddedToken* token = nullptr;  // null: none
  };

  int32_t child(int32_t node, char byte) const;
  Match find(std::string_view text, std::size_t from) const;
  // The match with the white space that lstrip and rstrip give it, no further left than `done`.
  static std::pair<std::size_t, std::size_t> stripped(std::string_view text, const Match& match, std::size_t done);

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::array<int32_t, 256> roots_;  // node of each first byte, -1: none
};

}  // namespace pythia
