// The kinds of error the library throws; it never prints, aborts or exits.
//
//   std::invalid_argument -> Python ValueError    a bad argument
//   FormatError           -> pythia_cpu.FormatError   a damaged or foreign .pcpu file
//   std::system_error     -> Python OSError       the operating system refused something; a FileError has the path
//   std::bad_alloc        -> Python MemoryError   there is not enough memory
//
// A message says what was found, what was expected and what to do, and starts with the place: "[matmul] weight has ...", or the
// path of the file.
#pragma once

#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace pythia {

// The operating system refused something about a file.
class FileError : public std::system_error {
 public:
  FileError(int error, std::string path) : std::system_error(error, std::generic_category(), path), path_(std::move(path)) {}
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

// A .pcpu file that is damaged, truncated, of another version, or not a .pcpu file at all.
class FormatError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace pythia
