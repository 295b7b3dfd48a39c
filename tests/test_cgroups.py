"""Limits of memory and processor time that control groups set, in made-up trees of /proc and /sys."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pythia_cpu
from pythia_cpu import _core

NO_BYTES = 2**63 - 1
MIB = 2**20


def limits(root: Path, files: dict[str, str | int]) -> tuple[int, float]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return _core.cgroup_limits(str(root))


def v2(folder: str, **files: str | int) -> dict[str, str | int]:
    return {f"sys/fs/cgroup{folder}/{name.replace('_', '.', 1)}": text for name, text in files.items()}


def test_without_a_limit(tmp_path: Path) -> None:
    assert limits(tmp_path, {}) == (NO_BYTES, math.inf)
    files = {"proc/self/cgroup": "0::/job", **v2("/job", memory_max="max", memory_current=5, cpu_max="max 100000")}
    assert limits(tmp_path, files) == (NO_BYTES, math.inf)


def test_a_container_is_the_topmost_group(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/", **v2("", memory_max=100, memory_current=30, cpu_max="150000 100000")}
    assert limits(tmp_path, files) == (70, 1.5)


@pytest.mark.parametrize("group", ["", "/job", "/job/step"])
def test_the_least_of_all_groups_above_counts(tmp_path: Path, group: str) -> None:
    """As in jobs of Slurm and systemd-run, which see the machine's tree."""
    files = {"proc/self/cgroup": "0::/job/step"}
    for folder in ("", "/job", "/job/step"):
        files |= v2(folder, memory_max=800, memory_current=100, cpu_max="800000 100000")
    files |= v2(group, memory_max=300, cpu_max="200000 100000")
    assert limits(tmp_path, files) == (200, 2.0)


def test_memory_high_and_what_is_over_it(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/a", **v2("/a", memory_max="max", memory_high=80, memory_current=30)}
    assert limits(tmp_path, files)[0] == 50
    assert limits(tmp_path, v2("/a", memory_current=90))[0] == 0


def test_inactive_file_pages_are_available(tmp_path: Path) -> None:
    """The model's own file among them; without this, reading files leaves no memory."""
    files = v2("/a", memory_max=100 * MIB, memory_current=99 * MIB)
    files["sys/fs/cgroup/a/memory.stat"] = f"anon {9 * MIB}\ninactive_file {90 * MIB}\nactive_file {MIB}"
    assert limits(tmp_path, {"proc/self/cgroup": "0::/a", **files})[0] == 91 * MIB
    assert limits(tmp_path, v2("/a", memory_current=80 * MIB))[0] == 100 * MIB  # the numbers are read one by one


@pytest.mark.parametrize("folder", ["/slurm/job_7", ""])  # a container's path is another one outside of it
def test_version_1(tmp_path: Path, folder: str) -> None:
    lines = "5:memory:/slurm/job_7\n4:cpuset:/\n3:cpu,cpuacct:/slurm/job_7\n1:name=systemd:/x\n0::/x"
    memory, cpu = f"sys/fs/cgroup/memory{folder}/memory.", f"sys/fs/cgroup/cpu{folder}/cpu.cfs_"
    files = {
        "proc/self/cgroup": lines,
        "sys/fs/cgroup/memory/memory.limit_in_bytes": 0x7FFFFFFFFFFFF000,  # none
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
        f"{memory}limit_in_bytes": 1000,
        f"{memory}usage_in_bytes": 700,
        f"{memory}stat": "inactive_file 1\ntotal_inactive_file 200",
        f"{cpu}quota_us": 300000,
        f"{cpu}period_us": 100000,
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": 1,  # where the process is in another hierarchy
        "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": 1,
        "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": 100000,
    }
    assert limits(tmp_path, files) == (500, 3.0)


@pytest.mark.parametrize("text", ["", "0::", "0:", "nonsense", "0::no/slash", "0::/a/../..//"])
def test_odd_lines_do_no_harm(tmp_path: Path, text: str) -> None:
    assert limits(tmp_path, {"proc/self/cgroup": text}) == (NO_BYTES, math.inf)


def cores(processors: set[int]) -> int:
    """How many cores, each of which may be several processors, as far as a control group lets this process use them."""
    places = set()
    for processor in processors:
        topology = Path(f"/sys/devices/system/cpu/cpu{processor}/topology")
        files = {"physical_package_id": 0, "core_id": processor}
        places.add(tuple(int((topology / f).read_text()) if (topology / f).exists() else n for f, n in files.items()))
    _, cpus = _core.cgroup_limits()
    return max(1, int(min(len(places), math.ceil(min(cpus, 2**20)))))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes have no affinity here")
def test_the_processors_of_this_process() -> None:
    """Threads have affinities of their own."""
    allowed = os.sched_getaffinity(0)

    def counts(processors: set[int]) -> tuple[int, int]:
        os.sched_setaffinity(0, processors)
        return _core.available_physical_cores(), pythia_cpu.load().threads

    for processors in (allowed, {min(allowed)}, {max(allowed)}):
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(counts, processors).result()
        assert found == (cores(processors),) * 2
    assert os.sched_getaffinity(0) == allowed


def test_available_memory_is_what_the_system_says_or_a_group_allows(tmp_path: Path) -> None:
    meminfo = "MemTotal:       2048 kB\nMemFree:         100 kB\nMemAvailable:    700 kB\nBuffers:           5 kB\n"
    limits(tmp_path, {"proc/meminfo": meminfo})
    assert _core.available_memory(str(tmp_path)) == 700 * 1024
    limits(tmp_path, {"proc/self/cgroup": "0::/a", **v2("/a", memory_max=5000, memory_current=1000)})
    assert _core.available_memory(str(tmp_path)) == 4000
    assert 0 < _core.available_memory() < 2**50
