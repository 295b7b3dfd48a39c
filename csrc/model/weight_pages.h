// The pages of a model's weights.
#pragma once

#include <cstdint>
#include <optional>

#include "common/huge_pages.h"
#include "common/thread_pool.h"
#include "format/reader.h"

namespace pythia {

// Puts the weights that every token reads into huge pages while a model writes: passes of few rows do little but read weights.
// Each of them moves a small part, so that a short text costs little and no token waits long.
class WeightPages {
 public:
  // `file` outlives the object. Nothing is moved if its pages are to be released.
  explicit WeightPages(const PcpuFile& file) : file_(file), wanted_(file.page_use() == PageUse::kKeep) {}

  // To be called before each pass of few rows.
  void move_some(ThreadPool& pool);

 private:
  const PcpuFile& file_;
  bool wanted_;
  std::optional<HugePageMover> mover_;  // from the first pass on
  int64_t num_moved_ = 0;
};

}  // namespace pythia
