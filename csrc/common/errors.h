// The kinds of error the library throws; it never prints, aborts or exits.
//
//   std::invalid_argument -> Python ValueError    a bad argument
//   FormatError           -> pythia_cpu.FormatError   a damaged or foreign .pcpu file
//   std::system_error     -> Python OSError       the operating system refused something; a FileError has the path
//   std::bad_alloc        -> Python MemoryError   there is not enough memory
//
// A message says what was found, what was expected and what to do, and starts with the place: one of kErrorParts, or the path
// of the file.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace pythia {

// What messages of the library's parts start with; those of the Python extension have others.
inline constexpr std::string_view kErrorParts[] = {
    "[bench] ",    "[decode] ", "[encode] ",     "[forward] ",      "[generate] ", "[inspect] ",   "[isa] ",
    "[kv_cache] ", "[model] ",  "[perplexity] ", "[prefix_cache] ", "[score] ",    "[tokenizer] ",
};

// The operating system refused something about a file.
class FileError : public std::system_error {
 public:
  // `hint`: what to do, where the system's own message does not say enough.
  FileError(int error, std::string path, std::string hint = {})
      : std::system_error(error, std::generic_category(), hint.empty() ? path : path + ": " + hint),
        path_(std::move(path)),
        hint_(std::move(hint)) {}
  const std::string& path() const noexcept { return path_; }

  // The system's message, and the hint.
  std::string reason() const { return code().message() + (hint_.empty() ? "" : "; " + hint_); }

 private:
  std::string path_, hint_;
};

// A .pcpu file that is damaged, truncated, of another version, or not a .pcpu file at all.
class FormatError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace pythia
