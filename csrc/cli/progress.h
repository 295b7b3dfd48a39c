// How far something long has come, on a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace pythia::cli {

// A line on standard error that is written over, if that is a terminal and a second has passed; gone in the end.
class Progress {
 public:
  // `what` is being done to `total` things, `unit` in the plural.
  Progress(std::string what, int64_t total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // So many are done.
  void update(int64_t done) noexcept;

 private:
  using Clock = std::chrono::steady_clock;

  std::string what_, unit_;
  int64_t total_;
  bool enabled_, shown_ = false;
  Clock::time_point next_;
};

}  // namespace pythia::cli
