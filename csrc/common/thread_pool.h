// Our own threads: a forward pass runs as one job on all of them (SPMD), with barriers between its phases.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace pythia {

// In which order a thread takes its tasks.
enum class TaskOrder { kForwards, kBackwards };

// What one thread of a running job sees. Threads split outputs, never a sum, so results do not depend on their number.
class Team {
 public:
  int rank() const { return rank_; }
  int size() const { return size_; }

  // Waits for all threads of the job: a short spin, then sleep. All memory written before is seen after.
  void barrier() noexcept {
    if (size_ > 1) wait_for_all();
  }

  // Calls body(i) for every i in [0, num_tasks), then waits for all threads. A thread's tasks are rank, rank + size, ...,
  // always the same, so that what they wrote before is still in its cache; when it has done them, it takes others'. Every
  // thread of the job must make the same calls in the same order.
  template <class Body>
  void for_each(int64_t num_tasks, Body&& body) noexcept {
    take_tasks(num_tasks, TaskOrder::kForwards, body);
    barrier();
  }

  // The same for the last phase of a job, which may return before the others are done: they all meet where the job ends.
  template <class Body>
  void for_each_at_end(int64_t num_tasks, TaskOrder order, Body&& body) noexcept {
    take_tasks(num_tasks, order, body);
  }

 private:
  friend class ThreadPool;
  struct Shared;
  Team(Shared& shared, int rank, int size) noexcept;

  template <class Body>
  void take_tasks(int64_t num_tasks, TaskOrder order, Body& body) noexcept {
    const auto nth = [order](int64_t k, int64_t count) { return order == TaskOrder::kForwards ? k : count - 1 - k; };
    if (size_ == 1) {
      for (int64_t k = 0; k < num_tasks; ++k) body(nth(k, num_tasks));
      return;
    }
    for (int other = 0; other < size_; ++other) {
      const int owner = (rank_ + other) % size_;
      const int64_t count = (num_tasks - owner + size_ - 1) / size_;
      for (int64_t k = claim(owner, count); k < count; k = claim(owner, count)) body(owner + nth(k, count) * size_);
    }
  }

  // The number, of a thread's `count` tasks in this phase, of the next that nobody has taken; `count` if there is none.
  int64_t claim(int owner, int64_t count) noexcept;

  void wait_for_all() noexcept;

  Shared& shared_;
  int rank_;
  int size_;
  uint32_t phase_;
};

class ThreadPool {
 public:
  // `threads` >= 1, the caller of run() among them. Throws std::system_error if the system refuses a thread.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  // Runs job(team) once on each thread, the caller's included, and returns when all are done. One job at a time: callers from
  // several threads queue. The job must not throw. At most `max_threads` take part (0: all). Throws std::system_error, and
  // runs nothing, if the system refuses a thread after a fork.
  void run(const std::function<void(Team&)>& job, int max_threads = 0);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pythia
