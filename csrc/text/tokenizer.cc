#include "text/tokenizer.h"

#include <deque>
#include <limits>
#include <stdexcept>

#include "common/utf8.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/nfc.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_tables.h"
#include "text/word_cache.h"

namespace pythia {

struct Tokenizer::Impl {
  explicit Impl(std::span<const std::byte> section) : tables(section), bpe(tables), special(tables.num_tokens(), false) {
    for (std::size_t i = 0; i < tables.added_tokens().size(); ++i) {
      const AddedTokenRecord record = tables.added_tokens()[i];
      AddedTokenMatcher& matcher = record.flags & kAddedNormalized ? after_normalizing : before_normalizing;
      matcher.add({.content = tables.added_content(i),
                   .id = static_cast<int32_t>(record.id),
                   .lstrip = (record.flags & kAddedLstrip) != 0,
                   .rstrip = (record.flags & kAddedRstrip) != 0});
      if (record.flags & kAddedSpecial) special[record.id] = true;
    }
  }

  std::string_view bytes_of(int32_t id) const {
    return id >= 0 && static_cast<uint32_t>(id) < tables.num_tokens() ? tables.token_bytes(id) : std::string_view();
  }
  bool is_special(int32_t id) const { return id >= 0 && static_cast<std::size_t>(id) < special.size() && special[id]; }

  const TokenizerTables tables;
  const Bpe bpe;
  AddedTokenMatcher before_normalizing;
  AddedTokenMatcher after_normalizing;
  std::vector<bool> special;  // [num_tokens]
};

namespace {

// The longest text whose places fit the BPE's 32-bit links.
constexpr std::size_t kMaxTextBytes = std::numeric_limits<int32_t>::max() - 1;

[[noreturn]] void fail_not_utf8(std::size_t offset) {
  throw std::invalid_argument("[encode] text is not valid UTF-8 at byte " + std::to_string(offset) +
                              ", expected UTF-8; decode it from its own encoding first");
}

void check_size(std::string_view text) {
  if (text.size() > kMaxTextBytes)
    throw std::invalid_argument("[encode] text has " + std::to_string(text.size()) + " bytes, expected at most " +
                                std::to_string(kMaxTextBytes) + "; encode it in parts");
}

void check_id(int32_t id) {
  if (id < 0) throw std::invalid_argument("[decode] token id is " + std::to_string(id) + ", expected 0 or more");
}

}  // namespace

Tokenizer::Tokenizer(std::span<const std::byte> section) : impl_(std::make_unique<Impl>(section)) {}
Tokenizer::~Tokenizer() = default;

// The stages of `tokenizers`, in its order: added tokens in the text as it is, NFC of the rest, added tokens in that, then
// pieces.
std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  check_size(text);
  if (const std::size_t valid = utf8::valid_prefix(text); valid != text.size()) fail_not_utf8(valid);

  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  std::deque<std::string> changed_texts;  // the cache refers to pieces of them
  WordCache cache(text.size());
  const auto encode_word = [this](std::string_view piece, std::vector<int32_t>& out) { impl_->bpe.encode(piece, out); };
  const auto on_token = [&ids](int32_t id) { ids.push_back(id); };
  const auto on_plain_text = [&](std::string_view part) {
    if (impl_->tables.add_prefix_space() && part.front() != ' ') part = changed_texts.emplace_back(" ").append(part);
    while (!part.empty()) {
      const std::size_t size = first_piece_size(part);
      cache.encode(part.substr(0, size), ids, encode_word);
      part.remove_prefix(size);
    }
  };
  const auto on_raw_text = [&](std::string_view part) {
    if (impl_->tables.nfc() && !is_nfc_quick(part)) part = changed_texts.emplace_back(to_nfc(part));
    check_size(part);  // NFC may be three times as long
    impl_->after_normalizing.split(part, on_plain_text, on_token);
  };
  impl_->before_normalizing.split(text, on_raw_text, on_token);
  return ids;
}

std::string_view Tokenizer::json() const { return impl_->tables.json(); }
bool Tokenizer::tokenizes_as(const Tokenizer& other) const { return impl_->tables.tokenize_as(other.impl_->tables); }

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const int32_t id : ids) {
    check_id(id);
    if (skip_special_tokens && impl_->is_special(id)) continue;
    bytes += impl_->bytes_of(id);
  }
  if (utf8::valid_prefix(bytes) == bytes.size()) return bytes;
  std::string text;
  utf8::append_lossy(bytes, /*keep_incomplete=*/false, text);
  return text;
}

std::string_view Tokenizer::token_bytes(int32_t id) const { return impl_->bytes_of(id); }
bool Tokenizer::is_special(int32_t id) const { return impl_->is_special(id); }
int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->tables.num_tokens()); }

IncrementalDecoder::IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens) {}

std::string IncrementalDecoder::push(int32_t id) {
  check_id(id);
  if (skip_special_tokens_ && tokenizer_->is_special(id)) return {};
  pending_ += tokenizer_->token_bytes(id);
  std::string text;
  pending_.erase(0, utf8::append_lossy(pending_, /*keep_incomplete=*/true, text));
  return text;
}

std::string IncrementalDecoder::finish() {
  std::string text;
  utf8::append_lossy(pending_, /*keep_incomplete=*/false, text);
  pending_.clear();
  return text;
}

}  // namespace pythia
