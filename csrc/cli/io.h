// Standard streams, files and Ctrl-C, without iostreams.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace pythia::cli {

// Whoever read our standard output has gone: time to end, quietly.
class ClosedPipe : public std::runtime_error {
 public:
  ClosedPipe() : std::runtime_error("standard output is closed") {}
};

// Writes at once, unbuffered, waiting where the stream does not block. Throws ClosedPipe, std::system_error.
void write_output(std::string_view text);
void write_error_line(std::string_view text) noexcept;

// Throws std::system_error of errno.
[[noreturn]] void throw_errno(const std::string& what);

// True if the last call failed on a stream that another process has made non-blocking; returns when it is ready.
bool waited_for(int fd, short events) noexcept;

// What some programs write before UTF-8 text, and no part of it.
inline constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

// A whole file, or standard input for "-", without a byte order mark. Throws std::system_error naming the file.
std::string read_text(const std::string& path);

// What work() gives. If it throws std::invalid_argument, the file whose text it could not use is named before the message,
// unless `path` is empty or "-": the text was not in a file.
template <class Work>
auto with_text_of(const std::string& path, Work&& work) {
  try {
    return work();
  } catch (const std::invalid_argument& error) {
    if (path.empty() || path == "-") throw;
    throw std::invalid_argument(path + ": " + error.what());
  }
}

// From here on Ctrl-C and SIGTERM only set a flag, once: a second one ends the process. Where they are ignored, as in
// background jobs of scripts, it stays so.
void catch_interrupt();
bool interrupted() noexcept;

// 0, or once interrupted() what shells say then: 128 + the signal.
int exit_status() noexcept;

}  // namespace pythia::cli
