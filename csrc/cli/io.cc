#include "cli/io.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <system_error>

namespace pythia::cli {
namespace {

// A signal may reach any thread.
std::atomic<int> signal_seen = 0;
static_assert(std::atomic<int>::is_always_lock_free);

struct FileDescriptor {
  int fd;
  ~FileDescriptor() {
    if (fd > STDERR_FILENO) ::close(fd);
  }
};

}  // namespace

void throw_errno(const std::string& what) { throw std::system_error(errno, std::generic_category(), what); }

bool waited_for(int fd, short events) noexcept {
  if (errno != EAGAIN && errno != EWOULDBLOCK) return false;
  pollfd stream = {fd, events, 0};
  ::poll(&stream, 1, -1);
  return true;
}

void write_output(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written < 0 && (errno == EINTR || waited_for(STDOUT_FILENO, POLLOUT))) continue;
    if (written < 0 && errno == EPIPE) throw ClosedPipe();
    if (written < 0) throw_errno("standard output");
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

void write_error_line(std::string_view text) noexcept {
  std::string line(text);
  for (char& c : line)
    if (c == '\n') c = ' ';
  line += '\n';
  if (::write(STDERR_FILENO, line.data(), line.size()) < 0) return;  // nowhere left to say it
}

std::string read_text(const std::string& path) {
  const bool is_input = path == "-";
  const std::string name = is_input ? "standard input" : path;
  const FileDescriptor file{is_input ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) throw_errno(name);
  std::string text;
  std::size_t size = 0;
  for (;;) {
    text.resize(size + (std::size_t{1} << 16));
    const ssize_t read = ::read(file.fd, text.data() + size, text.size() - size);
    if (read < 0 && (errno == EINTR || waited_for(file.fd, POLLIN))) continue;
    if (read < 0) throw_errno(name);
    if (read == 0) break;
    size += static_cast<std::size_t>(read);
  }
  text.resize(size);
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  return text;
}

void catch_interrupt() {
  for (const int signum : {SIGINT, SIGTERM}) {
    struct sigaction action = {};
    if (::sigaction(signum, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) continue;
    action = {};
    action.sa_handler = [](int seen) { signal_seen = seen; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    ::sigaction(signum, &action, nullptr);
  }
}

bool interrupted() noexcept { return signal_seen != 0; }

int exit_status() noexcept { return interrupted() ? 128 + signal_seen : 0; }

}  // namespace pythia::cli
