#include "format/reader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <system_error>

#include "common/errors.h"
#include "common/pages.h"

namespace pythia {
namespace {

[[noreturn]] void throw_errno(const std::string& path) { throw FileError(errno, path); }

struct Descriptor {
  int fd;
  ~Descriptor() { ::close(fd); }
};

// A record's name, which validation has shown to be zero-terminated.
std::string_view name_of(const TensorRecord& record) { return record.name; }

}  // namespace

std::shared_ptr<const PcpuFile> PcpuFile::open(const std::string& path, int threads, PageUse page_use) {
  // Not blocking, so that a pipe is refused instead of waited for.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) throw_errno(path);
  struct stat status = {};
  if (::fstat(file.fd, &status) != 0) throw_errno(path);
  if (S_ISDIR(status.st_mode))
    throw FileError(EISDIR, path, "expected a .pcpu file, which pythia-convert makes from a checkpoint's folder");
  if (!S_ISREG(status.st_mode)) throw FormatError(path + ": is not a regular file, expected a .pcpu file");
  if (status.st_size < static_cast<off_t>(sizeof(FileHeader)))
    throw FormatError(path + ": file size is " + std::to_string(status.st_size) + " bytes, expected at least the " +
                      std::to_string(sizeof(FileHeader)) + " of a header; this is not a .pcpu file, or it was cut off");

  const auto result = std::make_shared<PcpuFile>(Private());
  result->path_ = path;
  result->page_use_ = page_use;
  const auto size_bytes = static_cast<uint64_t>(status.st_size);
  void* base = ::mmap(nullptr, size_bytes, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (base == MAP_FAILED) throw_errno(path);
  result->base_ = static_cast<const std::byte*>(base);
  result->size_bytes_ = size_bytes;
  // Only a hint: validation reads all of it.
  if (page_use == PageUse::kKeep) ::madvise(base, size_bytes, MADV_WILLNEED);

  result->validate(threads, page_use);
  result->index_names();
  return result;
}

PcpuFile::~PcpuFile() {
  if (base_ != nullptr) ::munmap(const_cast<std::byte*>(base_), size_bytes_);
}

void PcpuFile::release_pages() const noexcept {
  if (page_use_ == PageUse::kRelease) pythia::release_pages(base_, size_bytes_);
}

void PcpuFile::index_names() {
  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  std::sort(by_name_.begin(), by_name_.end(),
            [this](uint32_t a, uint32_t b) { return name_of(tensors_[a]) < name_of(tensors_[b]); });
}

const TensorRecord* PcpuFile::find(std::string_view name) const {
  const auto it = std::lower_bound(by_name_.begin(), by_name_.end(), name, [this](uint32_t index, std::string_view wanted) {
    return name_of(tensors_[index]) < wanted;
  });
  if (it == by_name_.end() || name_of(tensors_[*it]) != name) return nullptr;
  return &tensors_[*it];
}

std::span<const std::byte> PcpuFile::tokenizer() const {
  return {base_ + header_->tokenizer.offset_bytes, static_cast<std::size_t>(header_->tokenizer.size_bytes)};
}

}  // namespace pythia
