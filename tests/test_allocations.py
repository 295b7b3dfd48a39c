"""Where memory ends in the middle of a call: a MemoryError, and everything goes on as before."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPILER = shutil.which("c++")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD and /proc are Linux's")

# operator new, whose call number `left` for [least, most) bytes fails, at first those of a tree's node. pybind11 does
# not survive that of its smallest pieces.
ALLOCATOR = """
#include <atomic>
#include <cstdlib>
#include <new>
extern "C" { std::atomic<long> left = 0; unsigned long least = 96, most = 128; }
void* operator new(std::size_t size) {
  if (size >= least && size < most && left > 0 && --left == 0) throw std::bad_alloc();
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
"""

# For every such allocation of a call, a run in which it fails and one after that. The cache is full: it drops blocks.
PREFIX_CACHE = """
import ctypes, sys, pythia_cpu
left = ctypes.c_long.in_dll(ctypes.CDLL(sys.argv[1]), "left")
model = pythia_cpu.load(threads=1)
with model.prefix_cache(1 << 24) as cache:
    model.generate([0] * 16, max_new_tokens=1)
    block_bytes = cache.size_bytes
prompts = [[seed] * 40 for seed in range(4)]
expected = [result.tokens for result in model.generate(prompts, max_new_tokens=9)]
caught = 0
with model.prefix_cache(7 * block_bytes) as cache:
    for number in range(1, 2000):
        left.value = number
        try:
            model.generate([prompts[number % 4]], max_new_tokens=9)
        except MemoryError:
            caught += 1
        finished, left.value = left.value > 0, 0
        assert [result.tokens for result in model.generate(prompts, max_new_tokens=9)] == expected
        assert cache.size_bytes == cache.max_bytes
        if finished:
            break
print(caught, number)
"""

# A pass of the scorer that fails leaves caches ahead of what they are of: it says so, and another one works.
SCORER = """
import ctypes, sys, pythia_cpu
from pythia_cpu import _core
library = ctypes.CDLL(sys.argv[1])
left = ctypes.c_long.in_dll(library, "left")
for name, size in {"least": 256, "most": 1 << 40}.items():
    ctypes.c_ulong.in_dll(library, name).value = size
core = pythia_cpu.load(threads=1)._core
requests = [([(k if k < 20 else i * 31 + k * 7) % 300 for k in range(30 + 3 * i)], 5 + i) for i in range(9)]

def run(scorer):
    while not scorer.done:
        scorer.step()
    return [scorer.scores(i)[0].tolist() for i in range(len(requests))]

def scorer():
    return _core.Scorer(core, requests, rows_per_pass=50)

expected = run(scorer())
caught = 0
for number in range(1, 2000):
    one = scorer()
    left.value = number
    try:
        found = run(one)
    except MemoryError:
        caught += 1
        left.value = 0
        try:
            one.step()
        except ValueError as error:
            assert "an earlier step failed" in str(error)
        else:
            raise AssertionError("it went on")
        assert run(scorer()) == expected
    else:
        assert found == expected
        break
print(caught, number)
"""

# More and more address space, until there is enough for what is asked for.
ADDRESS_SPACE = """
import resource, sys, pythia_cpu
model = pythia_cpu.load(threads=2)
prompts = [f"It was {number}" for number in range(60)]
calls = {
    "activations": lambda: model.run([5] * 512, capture=["blocks.0.attn.hook_pattern"]).activations.popitem()[1].sum(),
    "samples": lambda: [result.tokens for result in model.generate(prompts, max_new_tokens=9, logprobs=3)],
}
call = calls[sys.argv[1]]
model.generate("It was", max_new_tokens=1)  # makes the tokenizer
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
caught = 0
for quarter_mebibytes in range(1, 800):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (quarter_mebibytes << 18), hard))
    try:
        found = call()
    except MemoryError:
        caught += 1
    else:
        break
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
assert found == call()
print(caught, quarter_mebibytes)
"""


def run_script(script: str, *arguments: str, **environment: str) -> tuple[int, int]:
    """The two numbers that a script prints in a process of its own."""
    command = [sys.executable, "-c", script, *arguments]
    output = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert output.returncode == 0, output.stderr
    caught, number = map(int, output.stdout.split())
    return caught, number


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_a_failing_allocation(tmp_path: Path) -> None:
    (tmp_path / "allocator.cc").write_text(ALLOCATOR)
    library = tmp_path / "allocator.so"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", str(tmp_path / "allocator.cc"), "-o", str(library)], check=True)
    for script in (PREFIX_CACHE, SCORER):
        caught, number = run_script(script, str(library), LD_PRELOAD=str(library))
        assert caught > 0 and number < 1999


@pytest.mark.parametrize("call", ["activations", "samples"])
def test_too_little_address_space(call: str) -> None:
    caught, quarter_mebibytes = run_script(ADDRESS_SPACE, call)
    assert caught > 1 and quarter_mebibytes < 799
