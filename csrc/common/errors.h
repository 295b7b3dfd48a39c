// The three kinds of error the library throws; it never prints, aborts or exits.
//
//   std::invalid_argument -> Python ValueError    a bad argument
//   FormatError           -> pythia_cpu.FormatError   a damaged or foreign .pcpu file
//   std::system_error     -> Python OSError       the operating system refused something
//
// A message says what was found, what was expected and what to do, and starts with the place: "[matmul] weight has ...".
#pragma once

#include <stdexcept>

namespace pythia {

// A .pcpu file that is damaged, truncated, of another version, or not a .pcpu file at all.
class FormatError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace pythia
