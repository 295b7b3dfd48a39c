#include "text/tokenizer_tables.h"

#include <algorithm>
#include <string>
#include <tuple>

#include "common/errors.h"
#include "common/utf8.h"

namespace pythia {

namespace {

[[noreturn]] void fail(const std::string& field, const std::string& found, const std::string& expected) {
  throw FormatError("[tokenizer] " + field + " is " + found + ", expected " + expected +
                    "; the file is damaged or of another version, convert the checkpoint again");
}

template <class T>
void expect_equal(const std::string& field, T found, T expected) {
  if (found != expected) fail(field, std::to_string(found), std::to_string(expected));
}

void expect_at_most(const std::string& field, uint64_t found, uint64_t limit) {
  if (found > limit) fail(field, std::to_string(found), "at most " + std::to_string(limit));
}

void expect_id(const std::string& field, uint64_t id, uint32_t num_tokens) {
  if (id >= num_tokens) fail(field, std::to_string(id), "an id below " + std::to_string(num_tokens));
}

}  // namespace

TokenizerTables::TokenizerTables(std::span<const std::byte> section) {
  if (section.size() < sizeof(header_)) {
    fail("the section", std::to_string(section.size()) + " bytes", "at least " + std::to_string(sizeof(header_)));
  }
  std::memcpy(&header_, section.data(), sizeof(header_));
  if (!std::equal(kTokenizerMagic.begin(), kTokenizerMagic.end(), header_.magic)) fail("magic", "something else", "PCPUTOK");
  expect_equal("version", header_.version, kTokenizerVersion);
  expect_equal("header_size_bytes", header_.header_size_bytes, static_cast<uint32_t>(sizeof(header_)));
  expect_equal("section_size_bytes", header_.section_size_bytes, static_cast<uint64_t>(section.size()));
  expect_at_most("normalizer", header_.normalizer, static_cast<uint32_t>(Normalizer::kNfc));
  expect_at_most("flags", header_.flags, kTokenizerAddPrefixSpace);
  expect_at_most("num_tokens", header_.num_tokens, kMaxTokens);
  if (header_.num_tokens == 0) fail("num_tokens", "0", "at least 1");
  expect_at_most("num_merges", header_.num_merges, kMaxTokens);
  expect_at_most("num_added_tokens", header_.num_added_tokens, kMaxTokens);
  const bool reserved_is_zero = header_.reserved0 == 0 && std::all_of(std::begin(header_.reserved), std::end(header_.reserved),
                                                                      [](uint8_t b) { return b == 0; });
  if (!reserved_is_zero) fail("reserved", "not zero", "zero");
  lay_out(section);
  check_tokens();
  check_merges();
  check_added_tokens();
}

void TokenizerTables::lay_out(std::span<const std::byte> section) {
  const std::byte* const base = section.data();
  uint64_t offset = sizeof(TokenizerHeader);
  // Counts are below 2^24 and sizes are checked against what is left, so nothing here overflows.
  const auto take = [&](const char* field, uint64_t size_bytes) {
    const std::byte* const start = base + offset;
    const uint64_t left = section.size() - offset;
    expect_at_most(std::string("size of ") + field, size_bytes, left);
    const uint64_t padding = (kTokenizerAlignment - size_bytes % kTokenizerAlignment) % kTokenizerAlignment;
    expect_at_most(std::string("padded size of ") + field, size_bytes + padding, left);
    const bool padding_is_zero =
        std::all_of(start + size_bytes, start + size_bytes + padding, [](std::byte b) { return b == std::byte{0}; });
    if (!padding_is_zero) fail(std::string("padding after ") + field, "not zero", "zero");
    offset += size_bytes + padding;
    return start;
  };
  const auto take_chars = [&](const char* field, uint64_t size_bytes) {
    return std::string_view(reinterpret_cast<const char*>(take(field, size_bytes)), size_bytes);
  };
  byte_token_ids_ = {take("byte_token_ids", 256 * sizeof(int32_t)), 256};
  merges_ = {take("merges", uint64_t{header_.num_merges} * sizeof(MergeRecord)), header_.num_merges};
  token_ends_ = {take("token_ends", uint64_t{header_.num_tokens} * sizeof(uint32_t)), header_.num_tokens};
  added_tokens_ = {take("added_tokens", uint64_t{header_.num_added_tokens} * sizeof(AddedTokenRecord)),
                   header_.num_added_tokens};
  token_bytes_ = take_chars("token_bytes", header_.token_bytes_size);
  added_contents_ = take_chars("added_contents", header_.added_contents_size);
  tables_ = {reinterpret_cast<const char*>(base) + sizeof(TokenizerHeader), offset - sizeof(TokenizerHeader)};
  json_ = take_chars("tokenizer_json", header_.json_size);
  expect_equal("section_size_bytes", static_cast<uint64_t>(section.size()), offset);
}

bool TokenizerTables::tokenize_as(const TokenizerTables& other) const {
  const auto counts = [](const TokenizerHeader& h) {
    return std::tuple(h.normalizer, h.flags, h.num_tokens, h.num_merges, h.num_added_tokens, h.token_bytes_size);
  };
  return counts(header_) == counts(other.header_) && tables_ == other.tables_;
}

void TokenizerTables::check_tokens() const {
  uint32_t end = 0;
  for (std::size_t i = 0; i < token_ends_.size(); ++i) {
    if (token_ends_[i] < end) fail("token_ends[" + std::to_string(i) + "]", std::to_string(token_ends_[i]), "no decrease");
    end = token_ends_[i];
  }
  expect_equal("token_bytes_size", header_.token_bytes_size, uint64_t{end});
  for (int byte = 0; byte < 256; ++byte) {
    const int32_t id = byte_token_ids_[byte];
    if (id == -1) continue;
    const std::string field = "byte_token_ids[" + std::to_string(byte) + "]";
    expect_id(field, static_cast<uint32_t>(id), num_tokens());
    if (token_bytes(id) != std::string(1, static_cast<char>(byte)))
      fail(field, "token " + std::to_string(id) + " of other bytes", "the token of this byte");
  }
}

void TokenizerTables::check_merges() const {
  const auto size_of = [this](uint32_t id) { return token_bytes(id).size(); };
  for (std::size_t rank = 0; rank < merges_.size(); ++rank) {
    const MergeRecord merge = merges_[rank];
    const uint32_t largest = std::max({merge.left, merge.right, merge.merged});
    if (largest >= num_tokens()) expect_id("merges[" + std::to_string(rank) + "]", largest, num_tokens());
    if (size_of(merge.left) + size_of(merge.right) != size_of(merge.merged))
      fail("merges[" + std::to_string(rank) + "].merged", "a token of another length", "left and right joined");
  }
}

void TokenizerTables::check_added_tokens() const {
  constexpr uint32_t kAllFlags = kAddedSpecial | kAddedNormalized | kAddedLstrip | kAddedRstrip;
  uint32_t end = 0;
  for (std::size_t i = 0; i < added_tokens_.size(); ++i) {
    const AddedTokenRecord token = added_tokens_[i];
    const std::string field = "added_tokens[" + std::to_string(i) + "]";
    expect_id(field + ".id", token.id, num_tokens());
    expect_at_most(field + ".flags", token.flags, kAllFlags);
    if (token.content_end <= end) fail(field + ".content_end", std::to_string(token.content_end), "more than the one before");
    expect_at_most(field + ".content_end", token.content_end, header_.added_contents_size);
    expect_at_most(field + " size", token.content_end - end, kMaxAddedTokenBytes);
    if (utf8::valid_prefix(added_content(i)) != token.content_end - end) fail(field, "not UTF-8", "UTF-8");
    end = token.content_end;
  }
  expect_equal("added_contents_size", header_.added_contents_size, uint64_t{end});
}

}  // namespace pythia
