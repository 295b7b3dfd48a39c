// The validated view of a tokenizer section: every count, size, offset and id in it may be believed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "format/tokenizer_section.h"

namespace pythia {

// An array of little-endian records at any alignment.
template <class T>
class Records {
 public:
  Records() = default;
  Records(const std::byte* data, std::size_t size) : data_(data), size_(size) {}
  std::size_t size() const { return size_; }
  T operator[](std::size_t i) const {
    T value;
    std::memcpy(&value, data_ + i * sizeof(T), sizeof(T));
    return value;
  }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

class TokenizerTables {
 public:
  // `section` must outlive the object. Throws FormatError naming the field.
  explicit TokenizerTables(std::span<const std::byte> section);

  bool nfc() const { return header_.normalizer == static_cast<uint32_t>(Normalizer::kNfc); }
  bool add_prefix_space() const { return (header_.flags & kTokenizerAddPrefixSpace) != 0; }
  uint32_t num_tokens() const { return header_.num_tokens; }

  int32_t byte_token_id(uint8_t byte) const { return byte_token_ids_[byte]; }  // -1: none
  const Records<MergeRecord>& merges() const { return merges_; }
  const Records<AddedTokenRecord>& added_tokens() const { return added_tokens_; }

  std::string_view json() const { return json_; }  // the checkpoint's tokenizer.json

  // True for equal tokenizers, however their JSON was written.
  bool tokenize_as(const TokenizerTables& other) const;

  // `id` < num_tokens().
  std::string_view token_bytes(uint32_t id) const {
    return part(token_bytes_, id == 0 ? 0 : token_ends_[id - 1], token_ends_[id]);
  }

  // What added token number `index` matches in a text.
  std::string_view added_content(std::size_t index) const {
    return part(added_contents_, index == 0 ? 0 : added_tokens_[index - 1].content_end, added_tokens_[index].content_end);
  }

 private:
  static std::string_view part(std::string_view all, uint32_t begin, uint32_t end) { return {all.data() + begin, end - begin}; }
  void lay_out(std::span<const std::byte> section);
  void check_tokens() const;
  void check_merges() const;
  void check_added_tokens() const;

  TokenizerHeader header_;
  Records<int32_t> byte_token_ids_;
  Records<MergeRecord> merges_;
  Records<uint32_t> token_ends_;
  Records<AddedTokenRecord> added_tokens_;
  std::string_view token_bytes_;
  std::string_view added_contents_;
  std::string_view tables_;  // all parts but the JSON
  std::string_view json_;
};

}  // namespace pythia
