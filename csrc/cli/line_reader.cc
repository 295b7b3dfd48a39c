#include "cli/line_reader.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <utility>

#include "cli/io.h"

namespace pythia::cli {
namespace {

constexpr std::size_t kReadBytes = std::size_t{1} << 16;

}  // namespace

LineReader::LineReader(const std::string& path)
    : LineReader(path == "-" ? "standard input" : path, path == "-" ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC),
                 {}) {
  if (fd_ < 0) throw_errno(name_);
}

LineReader::LineReader(std::string name, int fd, std::string text)
    : name_(std::move(name)), fd_(fd), text_(std::move(text)), ended_(fd < 0) {}

LineReader LineReader::of_text(std::string text) { return {"the text", -1, std::move(text)}; }

LineReader::LineReader(LineReader&& other) noexcept
    : name_(std::move(other.name_)),
      fd_(std::exchange(other.fd_, -1)),
      text_(std::move(other.text_)),
      begin_(other.begin_),
      searched_(other.searched_),
      ended_(other.ended_),
      num_lines_(other.num_lines_) {}

LineReader::~LineReader() {
  if (fd_ > STDERR_FILENO) ::close(fd_);
}

std::optional<std::string> LineReader::next(bool wait) {
  for (;;) {
    const std::size_t end = text_.find('\n', searched_);
    if (end != std::string::npos) return take(end, end + 1);
    searched_ = text_.size();
    if (ended_) return begin_ == text_.size() ? std::nullopt : std::optional(take(text_.size(), text_.size()));
    if (!wait && !is_ready()) return std::nullopt;
    read_more();
  }
}

bool LineReader::is_ready() const {
  pollfd input = {fd_, POLLIN, 0};
  return ::poll(&input, 1, 0) > 0;
}

// At least a byte, or the end.
void LineReader::read_more() {
  text_.erase(0, begin_);
  begin_ = 0;
  const std::size_t size = searched_ = text_.size();
  text_.resize(size + kReadBytes);
  ssize_t read = -1;
  while (read < 0) {
    read = interrupted() ? 0 : ::read(fd_, text_.data() + size, kReadBytes);
    if (read < 0 && errno != EINTR && !waited_for(fd_, POLLIN)) throw_errno(name_);
  }
  text_.resize(interrupted() ? 0 : size + static_cast<std::size_t>(read));
  ended_ = read == 0;
}

std::string LineReader::take(std::size_t end, std::size_t next_begin) {
  std::string_view line = std::string_view(text_).substr(begin_, end - begin_);
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (num_lines_ == 0 && line.starts_with(kByteOrderMark)) line.remove_prefix(kByteOrderMark.size());
  ++num_lines_;
  begin_ = searched_ = next_begin;
  return std::string(line);
}

}  // namespace pythia::cli
