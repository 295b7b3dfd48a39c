#include "bench/limits.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <vector>

#include "bench/stopwatch.h"
#include "common/aligned_buffer.h"

namespace pythia {
namespace {

constexpr double kBudgetSeconds = 0.5;
constexpr double kShortestTrialSeconds = 0.02;  // starting and joining the threads is nothing beside it

// The best rate of trials, where trial(repeats) does `repeats` times some work and returns its amount.
double best_rate(const std::function<int64_t(int64_t repeats)>& trial) {
  int64_t repeats = 1;
  double best = 0;
  const Stopwatch budget;
  for (int trials = 0; trials < 3 || budget.seconds() < kBudgetSeconds;) {
    const Stopwatch watch;
    const int64_t amount = trial(repeats);
    const double seconds = watch.seconds();
    if (seconds < kShortestTrialSeconds) {
      repeats *= 2;
      continue;
    }
    best = std::max(best, static_cast<double>(amount) / seconds);
    ++trials;
  }
  return best;
}

double measure_rounds(ThreadPool& threads, int64_t (*kernel)(int64_t rounds) noexcept) {
  constexpr int64_t kRoundsPerRepeat = 256;
  return best_rate([&](int64_t repeats) {
    std::atomic<int64_t> operations = 0;
    threads.run([&](Team&) { operations += kernel(repeats * kRoundsPerRepeat); });
    return operations.load();
  });
}

}  // namespace

double measure_read_rate(const KernelTable& kernels, ThreadPool& threads, int64_t size_bytes) {
  constexpr int64_t kPage = 4096;
  const int64_t part_bytes = std::max(size_bytes / threads.size() / kPage, int64_t{1}) * kPage;
  std::vector<AlignedBuffer<std::byte>> parts(static_cast<std::size_t>(threads.size()));
  for (AlignedBuffer<std::byte>& part : parts) part.reserve(part_bytes);
  const auto part_of = [&](const Team& team) { return parts[static_cast<std::size_t>(team.rank())].data(); };
  threads.run([&](Team& team) { std::fill_n(part_of(team), part_bytes, std::byte{1}); });
  return best_rate([&](int64_t repeats) {
    threads.run([&](Team& team) {
      for (int64_t i = 0; i < repeats; ++i) kernels.peak_read(part_of(team), part_bytes);
    });
    return repeats * part_bytes * threads.size();
  });
}

double measure_fp32_rate(const KernelTable& kernels, ThreadPool& threads) { return measure_rounds(threads, kernels.peak_fma); }

double measure_int8_rate(const KernelTable& kernels, ThreadPool& threads) { return measure_rounds(threads, kernels.peak_int8); }

}  // namespace pythia
