#include "cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace pythia::cli {
namespace {

void write_to_terminal(const std::string& text) noexcept {
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;  // it is only for the eye
}

}  // namespace

Progress::Progress(std::string what, int64_t total, std::string unit)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      total_(std::max<int64_t>(total, 1)),
      enabled_(::isatty(STDERR_FILENO) == 1),
      next_(Clock::now() + std::chrono::seconds(1)) {}

Progress::~Progress() {
  if (shown_) write_to_terminal("\r\x1b[K");
}

void Progress::update(int64_t done) noexcept {
  if (!enabled_ || Clock::now() < next_) return;
  next_ = Clock::now() + std::chrono::milliseconds(250);
  shown_ = true;
  write_to_terminal("\r\x1b[K" + what_ + ": " + std::to_string(100 * done / total_) + "% of " + std::to_string(total_) + " " +
                    unit_);
}

}  // namespace pythia::cli
