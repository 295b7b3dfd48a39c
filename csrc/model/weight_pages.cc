#include "model/weight_pages.h"

#include <algorithm>

#include "format/tensor_names.h"

namespace pythia {
namespace {

constexpr int64_t kPasses = 64;  // until all are moved; each takes a tenth longer meanwhile

// What lies behind the input embeddings, of which a token reads one row.
std::span<const std::byte> bytes_read_by_each_token(const PcpuFile& file) {
  const TensorRecord &embed_in = *file.find(tensor_names::weight(tensor_names::kEmbedIn)), &last = file.tensors().back();
  const std::byte* begin = file.data(embed_in) + embed_in.size_bytes;
  return {begin, file.data(last) + last.size_bytes};
}

}  // namespace

void WeightPages::move_some(ThreadPool& pool) {
  if (!wanted_) return;
  if (!mover_) mover_.emplace(bytes_read_by_each_token(file_));
  const int64_t all = mover_->num_pieces(), count = std::min(ceil_div(all, kPasses), all - num_moved_);
  if (count > 0) {
    pool.run([&](Team& team) { team.for_each(count, [&](int64_t i) { mover_->move(num_moved_ + i); }); });
    num_moved_ += count;
  }
  wanted_ = num_moved_ < all;
}

}  // namespace pythia
