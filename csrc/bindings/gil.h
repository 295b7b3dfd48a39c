// The interpreter's lock, taken and given up for a while. As pybind11's gil_scoped_acquire and gil_scoped_release, but that a
// thread which wants the lock when Python has ended waits for the end of the process. Python before 3.14 ends such a thread by
// unwinding its stack, which no destructor can let pass: std::terminate.
#pragma once

#include <Python.h>
#include <unistd.h>

#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

namespace pythia {

// What call() gives. It is C's, and needs the lock or takes it.
template <class Call>
auto call_or_wait_for_the_end(Call call) {
#if defined(__GLIBCXX__)
  try {
    return call();
  } catch (const abi::__forced_unwind&) {
    for (;;) ::pause();
  }
#else
  return call();
#endif
}

class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    call_or_wait_for_the_end([this] { PyEval_RestoreThread(state_); });
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

class WithGil {
 public:
  WithGil() : state_(call_or_wait_for_the_end([] { return PyGILState_Ensure(); })) {}
  ~WithGil() { PyGILState_Release(state_); }
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;

 private:
  PyGILState_STATE state_;
};

}  // namespace pythia
