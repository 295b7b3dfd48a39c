// The checks that a mapped file passes before anything in it is believed. Every byte of the file is either covered by a
// checksum or required to be zero, and every number is compared with the one value it can have, or with its limits.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "common/errors.h"
#include "common/pages.h"
#include "common/utf8.h"
#include "format/reader.h"

namespace pythia {
namespace {

// Threads that are joined where they were made: std::jthread, which Apple's library and LLVM's before 20 do not have.
class JoinedThreads {
 public:
  JoinedThreads() = default;
  JoinedThreads(const JoinedThreads&) = delete;
  JoinedThreads& operator=(const JoinedThreads&) = delete;
  ~JoinedThreads() {
    for (std::thread& thread : threads_) thread.join();
  }

  // Throws std::system_error if the system refuses more threads.
  template <class Work>
  void start(const Work& work) {
    threads_.emplace_back(work);
  }

 private:
  std::vector<std::thread> threads_;
};

constexpr const char* kDamaged = "; the file is damaged: copy or convert it again";

// Printable form of bytes that may be anything, and any number of them.
std::string quoted(std::string_view bytes) {
  static constexpr char kHex[] = "0123456789abcdef";
  const std::string_view end = bytes.size() > kTensorNameBytes ? "'..." : "'";
  bytes = bytes.substr(0, kTensorNameBytes);
  std::string text = "'";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      text += c;
    } else {
      text += "\\x";
      text += kHex[byte >> 4];
      text += kHex[byte & 15];
    }
  }
  return text.append(end);
}

std::string hex(uint64_t value) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text = "0x";
  for (int shift = 60; shift >= 0; shift -= 4) text += kHex[(value >> shift) & 15];
  return text;
}

class Validator {
 public:
  Validator(const std::string& path, const std::byte* base, uint64_t size_bytes)
      : path_(path), base_(base), size_bytes_(size_bytes), header_(*reinterpret_cast<const FileHeader*>(base)) {}

  void check_header() const;
  Config check_hyperparameters() const;
  void check_sections() const;
  std::map<std::string, std::string, std::less<>> parse_metadata() const;
  std::span<const TensorRecord> check_table(const Config& config) const;
  void check_payload(std::span<const TensorRecord> tensors, int threads, PageUse page_use) const;

 private:
  uint64_t checksum_of(const TensorRecord& tensor, PageUse page_use) const noexcept;

  [[noreturn]] void fail(const std::string& what) const { throw FormatError(path_ + ": " + what); }

  [[noreturn]] void fail(const std::string& field, const std::string& found, const std::string& expected) const {
    fail(field + " is " + found + ", expected " + expected + kDamaged);
  }

  void expect_equal(const std::string& field, uint64_t found, uint64_t expected) const {
    if (found != expected) fail(field, std::to_string(found), std::to_string(expected));
  }

  void expect_checksum(const std::string& field, uint64_t found, uint64_t expected) const {
    if (found != expected) fail(field, hex(found), hex(expected) + " from the bytes it covers");
  }

  void expect_zeros(const std::string& field, const void* bytes, uint64_t size_bytes) const {
    const auto* p = static_cast<const unsigned char*>(bytes);
    if (std::any_of(p, p + size_bytes, [](unsigned char byte) { return byte != 0; })) fail(field, "not all zero", "zeros");
  }

  // Zeros from `end` to the next multiple of 64, which is returned. `end` is at most the file's size.
  uint64_t skip_padding(uint64_t end, const std::string& after) const {
    const uint64_t next = end + (kAlignment - end % kAlignment) % kAlignment;
    if (next > size_bytes_) fail("padding after " + after, "cut off", "zeros up to a multiple of 64 bytes");
    expect_zeros("padding after " + after, base_ + end, next - end);
    return next;
  }

  const std::string& path_;
  const std::byte* base_;
  uint64_t size_bytes_;  // at least sizeof(FileHeader)
  const FileHeader& header_;
};

void Validator::check_header() const {
  if (std::memcmp(header_.magic, kMagic.data(), kMagic.size()) != 0)
    fail("magic is " + quoted({reinterpret_cast<const char*>(header_.magic), kMagic.size()}) + ", expected " +
         quoted({reinterpret_cast<const char*>(kMagic.data()), kMagic.size()}) +
         "; this is not a .pcpu file: make one with pythia-convert");
  if (header_.version != kFormatVersion)
    fail("version is " + std::to_string(header_.version) + ", expected " + std::to_string(kFormatVersion) +
         "; convert the checkpoint with the pythia-convert of this release, or install the release that wrote the file");
  expect_equal("header_size_bytes", header_.header_size_bytes, sizeof(FileHeader));
  expect_checksum("header_checksum", header_.header_checksum, checksum64(base_, sizeof(FileHeader) - sizeof(uint64_t)));
  if (header_.file_size_bytes != size_bytes_)
    fail("file_size_bytes is " + std::to_string(header_.file_size_bytes) + ", the file has " + std::to_string(size_bytes_) +
         (size_bytes_ < header_.file_size_bytes ? "; it was cut off" : "; something was added to it") +
         ": copy or convert it again");
  expect_equal("reserved0", header_.reserved0, 0);
  expect_zeros("reserved", header_.reserved, sizeof(header_.reserved));
  if (find_weight_format(header_.weight_format) == nullptr)
    fail("weight_format", std::to_string(header_.weight_format), "a number that docs/format.md lists");
  constexpr uint32_t kKnownFlags = kFlagParallelResidual | kFlagTiedEmbeddings | kFlagAttentionBias;
  if ((header_.flags & ~kKnownFlags) != 0) fail("flags", hex(header_.flags), "no bits but " + hex(kKnownFlags));
}

Config Validator::check_hyperparameters() const {
  const auto to_int32 = [&](const char* field, uint32_t value) {
    if (value > INT32_MAX) fail(field, std::to_string(value), "at most " + std::to_string(INT32_MAX));
    return static_cast<int32_t>(value);
  };
  Config config;
  config.vocab_size = to_int32("vocab_size", header_.vocab_size);
  config.hidden_size = to_int32("hidden_size", header_.hidden_size);
  config.num_hidden_layers = to_int32("num_hidden_layers", header_.num_hidden_layers);
  config.num_attention_heads = to_int32("num_attention_heads", header_.num_attention_heads);
  config.intermediate_size = to_int32("intermediate_size", header_.intermediate_size);
  config.max_position_embeddings = to_int32("max_position_embeddings", header_.max_position_embeddings);
  config.rotary_ndims = to_int32("rotary_ndims", header_.rotary_ndims);
  // An id that the model has no output for says nothing.
  const auto token_or_none = [&](int32_t id) { return id < config.vocab_size ? id : -1; };
  config.bos_token_id = token_or_none(header_.bos_token_id);
  config.eos_token_id = token_or_none(header_.eos_token_id);
  config.hidden_act = static_cast<Activation>(header_.hidden_act);
  config.use_parallel_residual = (header_.flags & kFlagParallelResidual) != 0;
  config.tie_word_embeddings = (header_.flags & kFlagTiedEmbeddings) != 0;
  config.attention_bias = (header_.flags & kFlagAttentionBias) != 0;
  config.rotary_emb_base = header_.rotary_emb_base;
  config.layer_norm_eps = header_.layer_norm_eps;
  if (const std::string problem = check_config(config); !problem.empty()) fail(problem + kDamaged);
  return config;
}

void Validator::check_sections() const {
  const struct {
    std::string name;
    const Section& section;
    uint64_t min_bytes, max_bytes;
  } sections[] = {
      {"payload", header_.payload, 1, size_bytes_},
      {"tokenizer", header_.tokenizer, 1, kMaxTokenizerBytes},
      {"metadata", header_.metadata, sizeof(uint32_t), kMaxMetadataBytes},
      {"tensor_table", header_.tensor_table, sizeof(TensorRecord), size_bytes_},
  };
  uint64_t end = sizeof(FileHeader);
  std::string before = "the header";
  for (const auto& [name, section, min_bytes, max_bytes] : sections) {
    expect_equal(name + ".offset_bytes", section.offset_bytes, skip_padding(end, before));
    const uint64_t left = size_bytes_ - section.offset_bytes;
    if (section.size_bytes < min_bytes || section.size_bytes > std::min(left, max_bytes))
      fail(name + ".size_bytes", std::to_string(section.size_bytes),
           std::to_string(min_bytes) + ".." + std::to_string(std::min(left, max_bytes)));
    const uint64_t checksum = name == "payload" ? 0 : checksum64(base_ + section.offset_bytes, section.size_bytes);
    expect_checksum(name + ".checksum", section.checksum, checksum);
    end = section.offset_bytes + section.size_bytes;
    before = "the " + name;
  }
  if (end != size_bytes_)
    fail("the end of the tensor table", std::to_string(end), "the end of the file, " + std::to_string(size_bytes_));
}

std::map<std::string, std::string, std::less<>> Validator::parse_metadata() const {
  const auto* bytes = reinterpret_cast<const char*>(base_ + header_.metadata.offset_bytes);
  std::string_view rest(bytes, header_.metadata.size_bytes);
  const auto take_u32 = [&](const std::string& field) {
    uint32_t value = 0;
    if (rest.size() < sizeof(value)) fail(field, "cut off", "4 bytes within the metadata section");
    std::memcpy(&value, rest.data(), sizeof(value));
    rest.remove_prefix(sizeof(value));
    return value;
  };
  const auto take_text = [&](const std::string& field, uint32_t size) {
    if (size > rest.size())
      fail(field + " size", std::to_string(size), "at most the " + std::to_string(rest.size()) + " bytes left");
    const std::string text(rest.substr(0, size));
    rest.remove_prefix(size);
    if (!utf8::is_valid(text)) fail(field, "not UTF-8", "UTF-8");
    return text;
  };

  std::map<std::string, std::string, std::less<>> metadata;
  const uint32_t count = take_u32("metadata count");
  for (uint32_t i = 0; i < count; ++i) {
    const std::string entry = "metadata entry " + std::to_string(i);
    const uint32_t key_size = take_u32(entry + " key size");
    const uint32_t value_size = take_u32(entry + " value size");
    std::string key = take_text(entry + " key", key_size);
    std::string value = take_text(entry + " value", value_size);
    if (!metadata.empty() && key <= metadata.rbegin()->first)
      fail(entry + " key", quoted(key), "one that sorts after " + quoted(metadata.rbegin()->first));
    metadata.emplace_hint(metadata.end(), std::move(key), std::move(value));
  }
  if (!rest.empty()) fail("metadata", std::to_string(rest.size()) + " bytes longer than its entries", "its entries alone");
  return metadata;
}

std::span<const TensorRecord> Validator::check_table(const Config& config) const {
  const std::vector<ExpectedTensor> expected = expected_tensors(config);
  expect_equal("num_tensors", header_.num_tensors, expected.size());
  expect_equal("tensor_table.size_bytes", header_.tensor_table.size_bytes, expected.size() * sizeof(TensorRecord));
  const std::span<const TensorRecord> records(reinterpret_cast<const TensorRecord*>(base_ + header_.tensor_table.offset_bytes),
                                              expected.size());

  const uint64_t payload_end = header_.payload.offset_bytes + header_.payload.size_bytes;
  uint64_t end = header_.payload.offset_bytes;
  std::string before = "the header";
  for (std::size_t i = 0; i < records.size(); ++i) {
    const TensorRecord& record = records[i];
    const ExpectedTensor& wanted = expected[i];
    const std::string field = "tensor " + std::to_string(i) + " (" + wanted.name + ") ";

    char name[kTensorNameBytes] = {};
    std::copy(wanted.name.begin(), wanted.name.end(), name);
    if (std::memcmp(record.name, name, kTensorNameBytes) != 0)
      fail(field + "name", quoted({record.name, kTensorNameBytes}), quoted(wanted.name) + " padded with zeros");
    expect_equal(field + "layout", record.layout, static_cast<uint32_t>(wanted.layout));
    if (!layout_allows(wanted.layout, static_cast<WeightFormat>(record.format)))
      fail(field + "format", std::to_string(record.format), "a format that its layout allows (docs/format.md)");
    if (record.source_dtype > static_cast<uint32_t>(WeightFormat::kBF16))
      fail(field + "source_dtype", std::to_string(record.source_dtype), "0 (f32), 1 (f16) or 2 (bf16)");
    expect_equal(field + "derived", record.derived, config.tie_word_embeddings && i + 1 == records.size() ? 1 : 0);
    if (record.derived != 0) expect_zeros(field + "source_sha256", record.source_sha256, sizeof(record.source_sha256));
    expect_equal(field + "rows", record.rows, static_cast<uint64_t>(wanted.rows));
    expect_equal(field + "cols", record.cols, static_cast<uint64_t>(wanted.cols));
    expect_equal(field + "offset_bytes", record.offset_bytes, skip_padding(end, before));
    expect_equal(field + "size_bytes", record.size_bytes,
                 static_cast<uint64_t>(
                     stored_size_bytes(wanted.layout, static_cast<WeightFormat>(record.format), wanted.rows, wanted.cols)));
    if (record.offset_bytes > payload_end || record.size_bytes > payload_end - record.offset_bytes)
      fail("payload.size_bytes", std::to_string(header_.payload.size_bytes), "more: " + wanted.name + " ends beyond it");
    expect_zeros(field + "reserved", record.reserved, sizeof(record.reserved));
    end = record.offset_bytes + record.size_bytes;
    before = wanted.name;
  }
  expect_equal("payload.size_bytes", header_.payload.size_bytes, end - header_.payload.offset_bytes);
  return records;
}

uint64_t Validator::checksum_of(const TensorRecord& tensor, PageUse page_use) const noexcept {
  constexpr uint64_t kPieceBytes = 4 << 20;
  Checksum64 checksum;
  for (uint64_t done = 0; done < tensor.size_bytes; done += kPieceBytes) {
    const std::byte* piece = base_ + tensor.offset_bytes + done;
    const uint64_t size_bytes = std::min(kPieceBytes, tensor.size_bytes - done);
    checksum.update(piece, size_bytes);
    if (page_use == PageUse::kRelease) release_pages(piece, size_bytes);
  }
  return checksum.value();
}

void Validator::check_payload(std::span<const TensorRecord> tensors, int threads, PageUse page_use) const {
  std::vector<uint64_t> checksums(tensors.size());
  std::atomic<std::size_t> next = 0;
  const auto work = [&]() noexcept {
    for (std::size_t i = next++; i < tensors.size(); i = next++) checksums[i] = checksum_of(tensors[i], page_use);
  };
  {
    JoinedThreads others;
    // A thread for less than a megabyte costs more than it saves.
    const auto useful = static_cast<int>(std::min<uint64_t>(header_.payload.size_bytes >> 20, 256));
    try {
      for (int i = 1; i < std::min(threads, useful); ++i) others.start(work);
    } catch (const std::system_error&) {
      // The system refuses more threads: those that there are do the work.
    }
    work();
  }
  for (std::size_t i = 0; i < tensors.size(); ++i)
    expect_checksum("tensor " + std::to_string(i) + " (" + tensors[i].name + ") checksum", tensors[i].checksum, checksums[i]);
}

}  // namespace

void PcpuFile::validate(int threads, PageUse page_use) {
  const Validator validator(path_, base_, size_bytes_);
  validator.check_header();
  config_ = validator.check_hyperparameters();
  validator.check_sections();
  metadata_ = validator.parse_metadata();
  tensors_ = validator.check_table(config_);
  validator.check_payload(tensors_, threads, page_use);
  header_ = reinterpret_cast<const FileHeader*>(base_);
}

}  // namespace pythia
