#include "common/thread_pool.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "common/cpu_placement.h"
#include "common/fp_environment.h"

namespace pythia {
namespace {

// Pauses before a waiting thread sleeps: long enough for the phases of a decode step to meet awake, short enough not to take a
// core from the rest of the process.
constexpr int kSpins = 4000;

inline void pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `value` is no longer `old`.
void wait_while_equal(const std::atomic<uint32_t>& value, uint32_t old) noexcept {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

// After a fork the handles name threads of the parent process: nothing may be done with them, not even to detach them, and a
// destructor would end the process.
void leak(std::vector<std::thread>&& threads) noexcept {
  static_cast<void>(new (std::nothrow) std::vector<std::thread>(std::move(threads)));
}

}  // namespace

// Where the cores' caches are far apart, each line that they pass to each other is a good part of a small model's phase. So a
// thread that takes its own tasks, and one that waits, looks at a line that others rarely write.
struct Team::Shared {
  explicit Shared(int size) : queues(static_cast<std::size_t>(size)) {}

  // How many of a thread's tasks have been taken, below the number of the phase in which that was: in another phase none have.
  struct alignas(64) Queue {
    std::atomic<uint64_t> taken{0};
  };
  std::vector<Queue> queues;
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<uint32_t> phase{0};
};

Team::Team(Shared& shared, int rank, int size) noexcept
    : shared_(shared), rank_(rank), size_(size), phase_(shared.phase.load(std::memory_order_relaxed)) {}

int64_t Team::claim(int owner, int64_t count) noexcept {
  std::atomic<uint64_t>& queue = shared_.queues[static_cast<std::size_t>(owner)].taken;
  const uint64_t none = uint64_t{phase_} << 32;
  for (uint64_t taken = queue.load(std::memory_order_relaxed);;) {
    const uint64_t now = taken >> 32 == phase_ ? taken : none;
    const auto next = static_cast<int64_t>(now - none);
    if (next >= count || queue.compare_exchange_weak(taken, now + 1, std::memory_order_relaxed)) return std::min(next, count);
  }
}

void Team::wait_for_all() noexcept {
  const uint32_t phase = phase_++;
  if (shared_.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    shared_.arrived.store(0, std::memory_order_relaxed);
    // Sequentially consistent: notify_all looks for waiters first, and must not do so before the store.
    shared_.phase.store(phase_, std::memory_order_seq_cst);
    shared_.phase.notify_all();
  } else {
    wait_while_equal(shared_.phase, phase);
  }
}

struct ThreadPool::Impl {
  int size;
  std::mutex run_mutex;
  Team::Shared shared;
  CpuPlacement placement;
  std::vector<std::thread> workers;
  pid_t owner = 0;  // threads do not survive a fork

  // What a waiting worker reads lies in one line.
  alignas(64) std::atomic<uint32_t> job_number{0};
  const std::function<void(Team&)>* job = nullptr;
  int job_size = 0;
  bool stopping = false;
  alignas(64) std::atomic<uint32_t> unfinished{0};

  explicit Impl(int threads) : size(threads), shared(threads), placement(threads) {}

  // All workers, or none where the system refuses one: a later start() tries again.
  void start() {
    owner = getpid();
    stopping = false;
    const uint32_t number = job_number.load(std::memory_order_relaxed);
    try {
      workers.reserve(static_cast<std::size_t>(size - 1));
      for (int rank = 1; rank < size; ++rank) workers.emplace_back([this, rank, number] { work(rank, number); });
    } catch (const std::system_error& error) {
      const std::size_t started = workers.size();
      give_up();
      throw std::system_error(error.code(), "the system gave " + std::to_string(started + 1) + " threads, expected " +
                                                std::to_string(size) + "; ask for fewer, or raise its limits (ulimit -u, -v)");
    } catch (...) {
      give_up();
      throw;
    }
  }

  void give_up() noexcept {
    stop();
    owner = 0;
  }

  void stop() noexcept {
    if (owner == getpid()) {
      stopping = true;
      publish();
      for (auto& worker : workers) worker.join();
    } else {
      leak(std::move(workers));
    }
    workers.clear();
  }

  void publish() noexcept {
    job_number.fetch_add(1, std::memory_order_release);
    job_number.notify_all();
  }

  void work(int rank, uint32_t number) noexcept {
    // Takes the memory that exceptions of this thread need: if there is none at the first one, glibc ends the process.
    [[maybe_unused]] const volatile int exceptions = std::uncaught_exceptions();
    for (;;) {
      wait_while_equal(job_number, number);
      number = job_number.load(std::memory_order_acquire);
      if (stopping) return;
      if (rank < job_size) {
        const FpEnvironment environment;
        placement.settle(rank);
        Team team(shared, rank, job_size);
        (*job)(team);
      }
      if (unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished.notify_all();
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>(threads < 1 ? 1 : threads)) { impl_->start(); }

ThreadPool::~ThreadPool() { impl_->stop(); }

int ThreadPool::size() const { return impl_->size; }

void ThreadPool::run(const std::function<void(Team&)>& job, int max_threads) {
  Impl& impl = *impl_;
  const std::lock_guard lock(impl.run_mutex);
  const FpEnvironment environment;
  const int size = max_threads > 0 && max_threads < impl.size ? max_threads : impl.size;
  if (size == 1) {
    Team team(impl.shared, 0, 1);
    job(team);
    return;
  }
  if (impl.owner != getpid()) {
    impl.stop();
    impl.start();
  }
  impl.placement.settle(0);
  impl.job = &job;
  impl.job_size = size;
  impl.shared.phase.fetch_add(1, std::memory_order_relaxed);  // the last job's last phase may not have ended by itself
  impl.unfinished.store(static_cast<uint32_t>(impl.size - 1), std::memory_order_relaxed);
  impl.publish();
  Team team(impl.shared, 0, size);
  job(team);
  for (uint32_t left = impl.unfinished.load(std::memory_order_acquire); left != 0;
       left = impl.unfinished.load(std::memory_order_acquire))
    wait_while_equal(impl.unfinished, left);
}

}  // namespace pythia
