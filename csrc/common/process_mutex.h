// A mutex of one process, for std::lock_guard.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>

namespace pythia {

// A fork copies a mutex that another thread holds, and no thread that would ever give it back: in such a process lock() throws
// std::system_error, saying what could not be done.
class ProcessMutex {
 public:
  // `what`: "ran the model", for example.
  explicit ProcessMutex(const char* what) : what_(what) {}

  void lock() {
    const pid_t self = getpid();
    for (int tries = 0; user_ != self; ++tries) {
      if (mutex_.try_lock()) {
        user_ = self;
        return;
      }
      if (tries == kTries)
        throw std::system_error(std::make_error_code(std::errc::resource_deadlock_would_occur),
                                "this process was forked while another thread " + std::string(what_) +
                                    ", expected no call on its way; load the model in the new process, or start it by spawn");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // another thread of this process may be about to set user_
    }
    mutex_.lock();
  }
  void unlock() noexcept { mutex_.unlock(); }

 private:
  static constexpr int kTries = 50;
  std::mutex mutex_;
  std::atomic<pid_t> user_ = getpid();  // the last process that used it
  const char* what_;
};

}  // namespace pythia
