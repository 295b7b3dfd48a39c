#include "format/writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <stdexcept>
#include <utility>
#include <vector>

#include "common/errors.h"
#include "common/utf8.h"

namespace pythia {
namespace {

constexpr const char* kWhere = "[PcpuWriter] ";
constexpr const char* kPartial = ".partial-";

[[noreturn]] void throw_errno(const std::string& path) { throw FileError(errno, path); }

[[noreturn]] void throw_argument(const std::string& what) { throw std::invalid_argument(kWhere + what); }

// A format's name, or its number if it is none.
std::string describe(WeightFormat format) {
  const auto number = static_cast<uint32_t>(format);
  const WeightFormatInfo* info = find_weight_format(number);
  return info ? std::string(info->name) : "number " + std::to_string(number) + ", which is unknown";
}

std::string parent_folder(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

FileHeader make_header(const Config& config, WeightFormat weight_format) {
  FileHeader header = {};
  std::copy(kMagic.begin(), kMagic.end(), header.magic);
  header.version = kFormatVersion;
  header.header_size_bytes = sizeof(FileHeader);
  header.weight_format = static_cast<uint32_t>(weight_format);
  header.vocab_size = static_cast<uint32_t>(config.vocab_size);
  header.hidden_size = static_cast<uint32_t>(config.hidden_size);
  header.num_hidden_layers = static_cast<uint32_t>(config.num_hidden_layers);
  header.num_attention_heads = static_cast<uint32_t>(config.num_attention_heads);
  header.intermediate_size = static_cast<uint32_t>(config.intermediate_size);
  header.max_position_embeddings = static_cast<uint32_t>(config.max_position_embeddings);
  header.rotary_ndims = static_cast<uint32_t>(config.rotary_ndims);
  header.hidden_act = static_cast<uint32_t>(config.hidden_act);
  header.flags = (config.use_parallel_residual ? kFlagParallelResidual : 0) |
                 (config.tie_word_embeddings ? kFlagTiedEmbeddings : 0) | (config.attention_bias ? kFlagAttentionBias : 0);
  header.bos_token_id = config.bos_token_id;
  header.eos_token_id = config.eos_token_id;
  header.rotary_emb_base = config.rotary_emb_base;
  header.layer_norm_eps = config.layer_norm_eps;
  return header;
}

}  // namespace

struct PcpuWriter::Impl {
  std::string path;
  std::string temporary_path;
  int fd = -1;
  const pid_t owner = ::getpid();
  uint64_t position = 0;  // bytes written so far
  FileHeader header;
  bool tied = false;
  std::vector<ExpectedTensor> expected;
  std::vector<TensorRecord> records;  // begun tensors
  bool in_tensor = false;
  uint64_t missing_bytes = 0;  // of the tensor begun
  Checksum64 checksum;
  std::vector<std::byte> tokenizer;
  std::string metadata = std::string(sizeof(uint32_t), '\0');  // no entries

  ~Impl() { discard(); }

  // A process that was forked from the writer's leaves the file alone.
  void discard() noexcept {
    if (fd >= 0) ::close(fd);
    fd = -1;
    if (!temporary_path.empty() && ::getpid() == owner) ::unlink(temporary_path.c_str());
    temporary_path.clear();
  }

  // The tables, the header, and the name.
  void finish(const std::function<uint64_t(const std::string&)>& compute_fingerprint) {
    header.payload = {sizeof(FileHeader), position - sizeof(FileHeader), 0};
    header.tokenizer = write_section(tokenizer.data(), tokenizer.size());
    header.metadata = write_section(metadata.data(), metadata.size());
    header.tensor_table = write_section(records.data(), records.size() * sizeof(TensorRecord));
    header.num_tensors = static_cast<uint32_t>(records.size());
    header.file_size_bytes = position;
    write_header();
    if (compute_fingerprint) {
      header.fingerprint = compute_fingerprint(temporary_path);
      write_header();
    }
    sync_and_rename();
  }

  void require_open() const {
    if (fd < 0) throw_argument("the file was finished or discarded before");
  }

  // A new file of a name of its own, so that writers of the same path do not meet. It is locked while it is written, where the
  // file system knows locks: what is not is left of a writer that was killed.
  void open_temporary() {
    static std::atomic<uint64_t> counter = 0;
    remove_leftovers();
    bool is_there = false;
    while (!is_there) {
      temporary_path = path + kPartial + std::to_string(::getpid()) + "-" + std::to_string(counter++);
      fd = ::open(temporary_path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd < 0 && errno == EEXIST) continue;
      if (fd < 0) {
        temporary_path.clear();
        throw_errno(path);
      }
      const bool is_taken = ::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
      struct stat status = {};
      is_there = !is_taken && (::fstat(fd, &status) != 0 || status.st_nlink > 0);  // unless another writer took it for left
      if (!is_there) ::close(std::exchange(fd, -1));
    }
  }

  void remove_leftovers() const {
    namespace fs = std::filesystem;
    const std::string start = fs::path(path).filename().string() + kPartial;
    std::error_code error;  // a folder that cannot be read keeps what is in it
    for (fs::directory_iterator it(parent_folder(path), error), end; !error && it != end; it.increment(error)) {
      const std::string name = it->path().filename().string();
      if (!name.starts_with(start) || name.find_first_not_of("0123456789-", start.size()) != std::string::npos) continue;
      const int left = ::open(it->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
      if (left < 0) continue;
      if (::flock(left, LOCK_EX | LOCK_NB) == 0) ::unlink(it->path().c_str());
      ::close(left);
    }
  }

  void write(const void* data, uint64_t size_bytes) {
    const auto* bytes = static_cast<const char*>(data);
    while (size_bytes > 0) {
      const ssize_t written = ::write(fd, bytes, std::min<uint64_t>(size_bytes, uint64_t{1} << 30));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) {  // a part of it may be there
        const int error = errno;
        discard();
        errno = error;
        throw_errno(path);
      }
      bytes += written;
      size_bytes -= static_cast<uint64_t>(written);
      position += static_cast<uint64_t>(written);
    }
  }

  void pad() {
    static constexpr std::array<char, kAlignment> kZeros = {};
    write(kZeros.data(), (kAlignment - position % kAlignment) % kAlignment);
  }

  Section write_section(const void* data, uint64_t size_bytes) {
    pad();
    const Section section = {position, size_bytes, checksum64(data, size_bytes)};
    write(data, size_bytes);
    return section;
  }

  // In place of what is at the start of the file.
  void write_header() {
    header.header_checksum = checksum64(&header, sizeof(FileHeader) - sizeof(uint64_t));
    if (::lseek(fd, 0, SEEK_SET) != 0) throw_errno(path);
    const uint64_t end = position;
    write(&header, sizeof(header));
    position = end;
  }

  void sync_and_rename() {
    if (::fsync(fd) != 0) throw_errno(path);
    const int closed = ::close(fd);
    fd = -1;
    if (closed != 0 || ::rename(temporary_path.c_str(), path.c_str()) != 0) throw_errno(path);
    temporary_path.clear();
    // The rename is durable once the folder is; file systems that cannot sync one keep it in their own way.
    const int folder = ::open(parent_folder(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {
      ::fsync(folder);
      ::close(folder);
    }
  }
};

PcpuWriter::PcpuWriter(const std::string& path, const Config& config, WeightFormat weight_format)
    : impl_(std::make_unique<Impl>()) {
  if (const std::string problem = check_config(config); !problem.empty()) throw_argument(problem);
  if (find_weight_format(static_cast<uint32_t>(weight_format)) == nullptr)
    throw_argument("the weight format is " + describe(weight_format));
  impl_->path = path;
  struct stat status = {};
  if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) throw FileError(EISDIR, path);
  impl_->header = make_header(config, weight_format);
  impl_->tied = config.tie_word_embeddings;
  impl_->expected = expected_tensors(config);
  impl_->open_temporary();
  const FileHeader zeros = {};  // until finish(), the file is not one
  impl_->write(&zeros, sizeof(zeros));
}

PcpuWriter::~PcpuWriter() = default;

void PcpuWriter::begin_tensor(std::string_view name, WeightFormat format, WeightFormat source_dtype) {
  impl_->require_open();
  const std::size_t index = impl_->records.size();
  if (impl_->in_tensor) throw_argument("tensor '" + std::string(name) + "' begins before the one before it has ended");
  if (index == impl_->expected.size()) throw_argument("tensor '" + std::string(name) + "' is one more than the config has");
  const ExpectedTensor& wanted = impl_->expected[index];
  if (name != wanted.name)
    throw_argument("tensor " + std::to_string(index) + " is '" + std::string(name) + "', expected '" + wanted.name + "'");
  if (!layout_allows(wanted.layout, format))
    throw_argument("tensor '" + wanted.name + "' has layout " + name_of(wanted.layout) + ", which cannot be stored as " +
                   describe(format));
  if (source_dtype > WeightFormat::kBF16)
    throw_argument("the source dtype of '" + wanted.name + "' is " + describe(source_dtype) + ", expected f32, f16 or bf16");

  impl_->pad();
  TensorRecord& record = impl_->records.emplace_back();
  record = {};
  std::copy(name.begin(), name.end(), record.name);
  record.layout = static_cast<uint32_t>(wanted.layout);
  record.format = static_cast<uint32_t>(format);
  record.source_dtype = static_cast<uint32_t>(source_dtype);
  record.derived = impl_->tied && index + 1 == impl_->expected.size() ? 1 : 0;
  record.rows = static_cast<uint64_t>(wanted.rows);
  record.cols = static_cast<uint64_t>(wanted.cols);
  record.offset_bytes = impl_->position;
  record.size_bytes = static_cast<uint64_t>(stored_size_bytes(wanted.layout, format, wanted.rows, wanted.cols));
  impl_->in_tensor = true;
  impl_->missing_bytes = record.size_bytes;
  impl_->checksum = {};
}

void PcpuWriter::append(std::span<const std::byte> packed) {
  impl_->require_open();
  if (!impl_->in_tensor) throw_argument("bytes are appended and no tensor has begun");
  if (packed.size() > impl_->missing_bytes)
    throw_argument("tensor '" + std::string(impl_->records.back().name) + "' has " + std::to_string(packed.size()) +
                   " bytes more, expected at most " + std::to_string(impl_->missing_bytes));
  impl_->write(packed.data(), packed.size());
  impl_->checksum.update(packed.data(), packed.size());
  impl_->missing_bytes -= packed.size();
}

void PcpuWriter::end_tensor(std::span<const uint8_t, 32> source_sha256) {
  impl_->require_open();
  if (!impl_->in_tensor) throw_argument("a tensor ends and none has begun");
  TensorRecord& record = impl_->records.back();
  if (impl_->missing_bytes > 0)
    throw_argument("tensor '" + std::string(record.name) + "' ends " + std::to_string(impl_->missing_bytes) + " bytes short");
  record.checksum = impl_->checksum.value();
  if (record.derived == 0) std::copy(source_sha256.begin(), source_sha256.end(), record.source_sha256);
  impl_->in_tensor = false;
}

void PcpuWriter::set_tokenizer(std::span<const std::byte> section) {
  impl_->require_open();
  if (section.empty() || section.size() > kMaxTokenizerBytes)
    throw_argument("the tokenizer section has " + std::to_string(section.size()) + " bytes, expected 1.." +
                   std::to_string(kMaxTokenizerBytes));
  impl_->tokenizer.assign(section.begin(), section.end());
}

void PcpuWriter::set_metadata(const std::map<std::string, std::string, std::less<>>& metadata) {
  impl_->require_open();
  std::string bytes;
  const auto put_u32 = [&](std::size_t value) {
    if (value > kMaxMetadataBytes) throw_argument("the metadata has more than " + std::to_string(kMaxMetadataBytes) + " bytes");
    const auto number = static_cast<uint32_t>(value);
    bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
  };
  put_u32(metadata.size());
  for (const auto& [key, value] : metadata) {  // std::map: sorted and unique
    if (!utf8::is_valid(key) || !utf8::is_valid(value)) throw_argument("the metadata entry '" + key + "' is not UTF-8");
    put_u32(key.size());
    put_u32(value.size());
    bytes += key;
    bytes += value;
  }
  if (bytes.size() > kMaxMetadataBytes)
    throw_argument("the metadata has more than " + std::to_string(kMaxMetadataBytes) + " bytes");
  impl_->metadata = std::move(bytes);
}

void PcpuWriter::set_fingerprint(uint64_t fingerprint) {
  impl_->require_open();
  impl_->header.fingerprint = fingerprint;
}

void PcpuWriter::finish(const std::function<uint64_t(const std::string& temporary_path)>& compute_fingerprint) {
  Impl& file = *impl_;
  file.require_open();
  if (file.in_tensor || file.records.size() != file.expected.size())
    throw_argument("tensor '" + file.expected[file.records.size() - (file.in_tensor ? 1 : 0)].name + "' is missing");
  if (file.tokenizer.empty()) throw_argument("the tokenizer is missing");
  try {
    file.finish(compute_fingerprint);
  } catch (...) {
    file.discard();  // its tables are written already, and would be written again
    throw;
  }
}

void PcpuWriter::discard() noexcept { impl_->discard(); }

}  // namespace pythia
