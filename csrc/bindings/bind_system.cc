// What the system gives a process: processors, memory, threads.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "common/cgroup.h"
#include "common/cpu_count.h"
#include "common/huge_pages.h"
#include "common/memory.h"
#include "common/thread_pool.h"

namespace py = pybind11;

namespace pythia {
namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;

// Runs a job of phases with so many tasks each, `num_jobs` times, the last phase of each as the job's end. Returns how often
// each task ran, phase after phase, and how many began before all tasks of the phases before had ended.
std::pair<py::array_t<int64_t>, int64_t> run_phases(int threads, const std::vector<int64_t>& num_tasks, int64_t num_jobs,
                                                    int max_threads) {
  std::vector<int64_t> first_task(num_tasks.size() + 1, 0);
  std::partial_sum(num_tasks.begin(), num_tasks.end(), first_task.begin() + 1);
  py::array_t<int64_t> runs(first_task.back());
  std::fill_n(runs.mutable_data(), runs.size(), 0);
  int64_t* const counts = runs.mutable_data();  // plain: a task that two threads run, or see unfinished, is a race
  std::atomic<int64_t> num_ended, num_early = 0;

  const WithoutGil unlocked;
  ThreadPool pool(threads);
  for (int64_t job = 0; job < num_jobs; ++job) {
    num_ended = 0;
    const TaskOrder last_order = job % 2 == 0 ? TaskOrder::kForwards : TaskOrder::kBackwards;
    pool.run(
        [&](Team& team) {
          for (std::size_t phase = 0; phase < num_tasks.size(); ++phase) {
            const auto task = [&](int64_t i) {
              if (num_ended < first_task[phase]) ++num_early;
              ++counts[first_task[phase] + i];
              ++num_ended;
            };
            phase + 1 < num_tasks.size() ? team.for_each(num_tasks[phase], task)
                                         : team.for_each_at_end(num_tasks[phase], last_order, task);
          }
        },
        max_threads);
    if (num_ended < first_task.back()) ++num_early;
  }
  return {runs, num_early};
}

}  // namespace

void bind_system(py::module_& m) {
  m.def("available_physical_cores", &available_physical_cores, "Physical cores this process may run on.");
  m.def(
      "cgroup_limits", [](const std::string& root) { return std::make_pair(cgroup_available_bytes(root), cgroup_cpus(root)); },
      py::arg("root") = "",
      "(bytes available, CPUs' worth of time) as control groups limit them, for tests: 2**63 - 1 and infinity without a "
      "limit.");
  m.def("available_memory", &available_memory_bytes, py::arg("root") = "",
        "Bytes that this process can take without pushing others out, for tests.");

  py::class_<HugePageMover>(m, "HugePageMover", "What moves weights to huge pages, for tests.")
      .def(py::init([](const Bytes& bytes, int64_t max_pieces) {
             return std::make_unique<HugePageMover>(
                 std::as_bytes(std::span(bytes.data(), static_cast<std::size_t>(bytes.size()))), max_pieces);
           }),
           py::arg("bytes"), py::arg("max_pieces"))
      .def_property_readonly("num_pieces", &HugePageMover::num_pieces, "How many pieces there are to move.");
  m.def("run_phases", &run_phases, py::arg("threads"), py::arg("num_tasks"), py::arg("num_jobs") = 1,
        py::arg("max_threads") = 0,
        "How often each task of a job's phases ran, phase after phase, and how many tasks began too early, for tests.");
}

}  // namespace pythia
