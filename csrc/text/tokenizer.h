// The GPT-NeoX tokenizer: NFC, added tokens, GPT-2 byte-level pre-tokenizer, BPE. Driven wholly by the file's tokenizer
// section.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pythia {

// Immutable and safe to share between threads.
class Tokenizer {
 public:
  // `section` is PcpuFile::tokenizer() and must outlive the object. Throws FormatError naming the field.
  explicit Tokenizer(std::span<const std::byte> section);
  ~Tokenizer();

  // Text to ids, equal to Hugging Face `tokenizers` encode(text, add_special_tokens=False). Linear in the text's length.
  // Throws std::invalid_argument if the text is not valid UTF-8, with the offset.
  std::vector<int32_t> encode(std::string_view text) const;

  // Ids to text, equal to `tokenizers` decode(ids, skip_special_tokens): bytes that are not UTF-8 become U+FFFD as the
  // reference does. Throws std::invalid_argument for a negative id; ids without a token (padding rows of the embedding) give no
  // text.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = true) const;

  // The raw bytes one token stands for; empty for an id without a token.
  std::string_view token_bytes(int32_t id) const;
  bool is_special(int32_t id) const;
  int32_t vocab_size() const;  // highest id + 1

  // The tokenizer.json that the section was made from, unchanged.
  std::string_view json() const;

  // Whether both give the same tokens, which JSON that was written otherwise may do too.
  bool tokenizes_as(const Tokenizer& other) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Decodes a growing sequence piece by piece: each piece is valid UTF-8, never splits a character, and all pieces joined are
// decode() of all ids.
class IncrementalDecoder {
 public:
  explicit IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  std::string push(int32_t id);  // the text that has become certain, perhaps empty
  std::string finish();          // what is left: incomplete characters as U+FFFD

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::string pending_;  // bytes of an incomplete character
};

}  // namespace pythia
