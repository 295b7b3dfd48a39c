// THE .pcpu file format, version 4. docs/format.md describes the same thing byte by byte, for readers without this header.
//
//   offset 0        FileHeader (256 bytes)
//   payload         the tensors, in the order of expected_tensors(config)
//   tokenizer       TokenizerSection (tokenizer_section.h)
//   metadata        key/value strings (provenance)
//   tensor table    TensorRecord x num_tensors
//   end of file
//
// Everything is little-endian. Every section and every tensor starts at the first multiple of 64 bytes after the end of the one
// before it, and the bytes between are zero: a file has one valid layout. Payload bytes are exactly what kernels read: loading
// is mmap and validation, nothing is moved.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "format/config.h"
#include "quant/weight_format.h"

namespace pythia {

static_assert(std::endian::native == std::endian::little, "the .pcpu format is read in place and is little-endian");

// "\x89PCPU\r\n\x1a", after PNG's: a text-mode copy, a 7-bit channel and a stop at end-of-text all damage it visibly.
inline constexpr std::array<uint8_t, 8> kMagic = {0x89, 'P', 'C', 'P', 'U', '\r', '\n', 0x1a};
inline constexpr uint32_t kFormatVersion = 4;

// Limits of what a file may say; products of these fit an int64.
inline constexpr int64_t kMaxDimension = int64_t{1} << 24;  // vocab_size, hidden_size, intermediate_size
inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxPositions = int64_t{1} << 20;
inline constexpr int64_t kMaxRotaryEntries = int64_t{1} << 27;  // max_position_embeddings * rotary_ndims: half a GiB of table
inline constexpr uint64_t kMaxMetadataBytes = uint64_t{1} << 26;
inline constexpr uint64_t kMaxTokenizerBytes = uint64_t{1} << 28;

struct Section {
  uint64_t offset_bytes;
  uint64_t size_bytes;
  uint64_t checksum;  // checksum64 of the section's bytes; payload: 0, each tensor has its own
};

// Bits of FileHeader::flags; all others must be zero.
inline constexpr uint32_t kFlagParallelResidual = 1;
inline constexpr uint32_t kFlagTiedEmbeddings = 2;
inline constexpr uint32_t kFlagAttentionBias = 4;

struct FileHeader {
  uint8_t magic[8];
  uint32_t version;
  uint32_t header_size_bytes;  // sizeof(FileHeader)
  uint64_t file_size_bytes;
  Section payload;
  Section tokenizer;
  Section metadata;
  Section tensor_table;
  uint32_t num_tensors;
  uint32_t weight_format;  // WeightFormat asked for; the tensor table has each tensor's own
  uint32_t vocab_size;
  uint32_t hidden_size;
  uint32_t num_hidden_layers;
  uint32_t num_attention_heads;
  uint32_t intermediate_size;
  uint32_t max_position_embeddings;
  uint32_t rotary_ndims;
  uint32_t hidden_act;  // Activation
  uint32_t flags;
  int32_t bos_token_id;
  int32_t eos_token_id;
  uint32_t reserved0;  // zero
  double rotary_emb_base;
  double layer_norm_eps;
  uint64_t fingerprint;      // hash of the logits of a fixed prompt (docs/format.md); 0: none
  uint8_t reserved[48];      // zero
  uint64_t header_checksum;  // checksum64 of all bytes before this one
};
static_assert(sizeof(FileHeader) == 256);

// How a tensor lies in the payload.
enum class Layout : uint32_t {
  kVector = 0,  // f32 [cols]                        LayerNorm weights and biases, all biases
  kRows = 1,    // [rows, cols], row-major           the embedding, in a lossless format
  kPanels = 2,  // panels of 16 outputs              every matmul weight and the output head
};
inline constexpr const char* kLayoutNames[] = {"vector", "rows", "panels"};

constexpr const char* name_of(Layout layout) { return kLayoutNames[static_cast<uint32_t>(layout)]; }

inline constexpr std::size_t kTensorNameBytes = 80;

struct TensorRecord {
  char name[kTensorNameBytes];  // the checkpoint's name, zero-padded
  uint32_t layout;              // Layout
  uint32_t format;              // WeightFormat
  uint32_t source_dtype;        // WeightFormat of the checkpoint's tensor: kF32, kF16 or kBF16
  uint32_t derived;             // 1: the head of tied embeddings, packed from the embedding; 0: all others
  uint64_t rows;                // 1 for a vector
  uint64_t cols;
  uint64_t offset_bytes;  // from the start of the file, a multiple of 64
  uint64_t size_bytes;
  uint64_t checksum;          // checksum64 of the payload bytes
  uint8_t source_sha256[32];  // of the source tensor's bytes, row-major, as stored in the checkpoint; derived: zeros
  uint8_t reserved[8];        // zero
};
static_assert(sizeof(TensorRecord) == 176);

// What a file for `config` must hold, in file order.
struct ExpectedTensor {
  std::string name;
  Layout layout;
  int64_t rows;
  int64_t cols;
};
std::vector<ExpectedTensor> expected_tensors(const Config& config);

// Bytes a tensor takes in the payload. The caller bounds rows and cols by check_config.
int64_t stored_size_bytes(Layout layout, WeightFormat format, int64_t rows, int64_t cols);

// True if a tensor of this layout may be stored in this format: vectors in f32, rows in f32, f16 or bf16, panels in any.
bool layout_allows(Layout layout, WeightFormat format);

// Empty if every field of `config` is within the format's limits, else what is wrong: "vocab_size is 0, expected 1..16777216".
std::string check_config(const Config& config);

// The format's own 64-bit checksum: eight xor-multiply-rotate lanes over 64-byte blocks (docs/format.md, "Checksum"). Every
// single changed bit changes it. It finds accidents, not forgeries.
class Checksum64 {
 public:
  // Adds `size_bytes` bytes; any split of the data into calls gives the same checksum.
  void update(const void* data, uint64_t size_bytes) noexcept;
  uint64_t value() const noexcept;

 private:
  std::array<uint64_t, 8> lanes_ = kSeeds;
  std::array<unsigned char, 64> tail_ = {};  // the last, incomplete block
  uint64_t size_bytes_ = 0;

  static const std::array<uint64_t, 8> kSeeds;
};

// Checksum64 of one run of bytes.
uint64_t checksum64(const void* data, uint64_t size_bytes) noexcept;

}  // namespace pythia
