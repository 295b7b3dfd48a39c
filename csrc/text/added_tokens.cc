#include "text/added_tokens.h"

#include <algorithm>

#include "common/utf8.h"
#include "text/pre_tokenizer.h"

namespace pythia {

AddedTokenMatcher::AddedTokenMatcher() { roots_.fill(-1); }

int32_t AddedTokenMatcher::child(int32_t node, char byte) const {
  int32_t next = nodes_[node].first_child;
  while (next >= 0 && nodes_[next].byte != byte) next = nodes_[next].next_sibling;
  return next;
}

void AddedTokenMatcher::add(const AddedToken& token) {
  int32_t node = roots_[static_cast<uint8_t>(token.content[0])];
  if (node < 0) {
    node = roots_[static_cast<uint8_t>(token.content[0])] = static_cast<int32_t>(nodes_.size());
    nodes_.push_back({.byte = token.content[0]});
  }
  for (const char byte : token.content.substr(1)) {
    int32_t next = child(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({.next_sibling = nodes_[node].first_child, .byte = byte});
      nodes_[node].first_child = next;
    }
    node = next;
  }
  nodes_[node].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

AddedTokenMatcher::Match AddedTokenMatcher::find(std::string_view text, std::size_t from) const {
  for (std::size_t start = from; start < text.size(); ++start) {
    int32_t node = roots_[static_cast<uint8_t>(text[start])];
    Match match;
    for (std::size_t i = start + 1; node >= 0; ++i) {
      if (nodes_[node].token >= 0) match = {start, i, &tokens_[nodes_[node].token]};
      node = i < text.size() ? child(node, text[i]) : -1;
    }
    if (match.token != nullptr) return match;
  }
  return {};
}

std::pair<std::size_t, std::size_t> AddedTokenMatcher::stripped(std::string_view text, const Match& match, std::size_t done) {
  std::size_t start = match.start, end = match.end;
  if (match.token->lstrip) {
    while (start > done) {
      const auto [code_point, size] = utf8::decode_last(text.substr(0, start));
      if (!is_white_space(code_point)) break;
      start -= size;
    }
    start = std::max(start, done);
  }
  if (match.token->rstrip) {
    while (end < text.size()) {
      const auto [code_point, size] = utf8::decode(text.data() + end);
      if (!is_white_space(code_point)) break;
      end += size;
    }
  }
  return {start, end};
}

}  // namespace pythia
