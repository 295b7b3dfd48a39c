// Opens a .pcpu file: mmap, and a full validation before anything is believed.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "format/pcpu_format.h"

namespace pythia {

// What becomes of a file's pages in memory once they were checked.
enum class PageUse {
  kKeep,     // they stay, so that the model runs at once
  kRelease,  // they are given back piece by piece, so that little of a large file is in memory at a time
};

// A validated, mapped .pcpu file. Immutable and safe to share between threads; pointers live as long as the object. Replace a
// file in use by renaming another over it (as PcpuWriter does): the old bytes stay mapped. Never overwrite or shorten it.
class PcpuFile : public std::enable_shared_from_this<PcpuFile> {
  struct Private {
    explicit Private() = default;
  };

 public:
  explicit PcpuFile(Private) {}  // for open()

  // Every offset, size and product is checked against overflow and the file's real length; every checksum is recomputed (the
  // payload's by `threads` threads). Throws FormatError naming the path and the field, std::system_error if the file cannot be
  // read.
  static std::shared_ptr<const PcpuFile> open(const std::string& path, int threads = 1, PageUse page_use = PageUse::kKeep);
  ~PcpuFile();
  PcpuFile(const PcpuFile&) = delete;
  PcpuFile& operator=(const PcpuFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size_bytes() const { return size_bytes_; }
  const FileHeader& header() const { return *header_; }
  const Config& config() const { return config_; }
  WeightFormat weight_format() const { return static_cast<WeightFormat>(header_->weight_format); }
  std::span<const TensorRecord> tensors() const { return tensors_; }

  // The payload bytes of a record of this file.
  const std::byte* data(const TensorRecord& record) const { return base_ + record.offset_bytes; }

  // What it was opened for.
  PageUse page_use() const { return page_use_; }

  // Of a file opened with PageUse::kRelease, gives the memory of all pages back to the system. They are read again, from its
  // file cache, when they are used. The pages of others stay: their bytes may have moved (HugePageMover).
  void release_pages() const noexcept;

  // The record called `name`, or null. Logarithmic in the number of tensors.
  const TensorRecord* find(std::string_view name) const;

  std::span<const std::byte> tokenizer() const;  // TokenizerSection bytes, see tokenizer_section.h
  const std::map<std::string, std::string, std::less<>>& metadata() const { return metadata_; }

 private:
  void validate(int threads, PageUse page_use);  // validation.cc
  void index_names();

  std::string path_;
  PageUse page_use_ = PageUse::kKeep;
  const std::byte* base_ = nullptr;
  uint64_t size_bytes_ = 0;
  const FileHeader* header_ = nullptr;
  Config config_;
  std::span<const TensorRecord> tensors_;
  std::vector<uint32_t> by_name_;  // indices of tensors_, sorted by name
  std::map<std::string, std::string, std::less<>> metadata_;
};

}  // namespace pythia
