// Writes a .pcpu file: tensors streamed in order to a temporary file, header last, fsync, rename. Same input, same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "format/pcpu_format.h"

namespace pythia {

// Not thread-safe: one user at a time.
class PcpuWriter {
 public:
  // Opens a temporary file beside `path`. Throws std::invalid_argument (a config outside the format's limits),
  // std::system_error. The destructor removes the temporary file unless finish() was reached.
  PcpuWriter(const std::string& path, const Config& config, WeightFormat weight_format);
  ~PcpuWriter();
  PcpuWriter(const PcpuWriter&) = delete;
  PcpuWriter& operator=(const PcpuWriter&) = delete;

  // The next tensor of expected_tensors(config), in pieces: begin, append its payload in order, end. The payload is in `format`
  // and the layout expected there (vectors are f32). Throws std::invalid_argument if name, order, format or size differ from
  // what is expected, std::system_error.
  void begin_tensor(std::string_view name, WeightFormat format, WeightFormat source_dtype);
  void append(std::span<const std::byte> packed);
  void end_tensor(std::span<const uint8_t, 32> source_sha256);  // ignored for the head of tied embeddings

  // At any time before finish(). Throw std::invalid_argument where it is larger than the format allows, or empty (the
  // tokenizer, which every file has).
  void set_tokenizer(std::span<const std::byte> section);
  void set_metadata(const std::map<std::string, std::string, std::less<>>& metadata);
  void set_fingerprint(uint64_t fingerprint);

  // Writes the tables and the header, syncs and renames over `path`. If `compute_fingerprint` is given, it is called with the
  // path of the temporary file, complete but for the fingerprint, and what it returns is stored as such. Throws
  // std::invalid_argument if a tensor or the tokenizer is missing; after any other error (std::system_error, what
  // `compute_fingerprint` throws) the file is discarded.
  void finish(const std::function<uint64_t(const std::string& temporary_path)>& compute_fingerprint = {});

  // Gives up: removes the temporary file. After finish(), does nothing. After either, all other calls throw
  // std::invalid_argument.
  void discard() noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pythia
