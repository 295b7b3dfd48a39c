// Lines of a file or of standard input as they come, so that who sends one can have an answer before the next.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace pythia::cli {

class LineReader {
 public:
  // A file, or standard input for "-". Throws std::system_error naming it.
  explicit LineReader(const std::string& path);
  static LineReader of_text(std::string text);
  ~LineReader();
  LineReader(LineReader&& other) noexcept;
  LineReader& operator=(LineReader&&) = delete;

  // The next line, without its end ("\n" or "\r\n") and without a byte order mark at the input's beginning. None at the end
  // of the input or once interrupted(); without `wait` also where the line is not there yet. Throws std::system_error.
  std::optional<std::string> next(bool wait);

  // No line will come.
  bool done() const { return ended_ && begin_ == text_.size(); }

  // How many lines next() has given.
  std::size_t num_lines() const { return num_lines_; }

 private:
  LineReader(std::string name, int fd, std::string text);
  bool is_ready() const;
  void read_more();
  std::string take(std::size_t end, std::size_t next_begin);

  std::string name_;
  int fd_;
  std::string text_;  // read, from begin_ on not yet given
  std::size_t begin_ = 0, searched_ = 0;
  bool ended_;  // nothing more can be read
  std::size_t num_lines_ = 0;
};

}  // namespace pythia::cli
