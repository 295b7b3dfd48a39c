"""Python threads that share a model or a stream, and worker threads after a fork."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import pythia_cpu
from pythia_cpu import _core

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


def test_threads_share_a_stream(model: pythia_cpu.Model) -> None:
    stream = model.stream(PROMPT, max_new_tokens=200, ignore_eos=True)
    found: tuple[list[int], ...] = ([], [], [])

    def work(ids: list[int]) -> None:
        ids.extend(token.id for token in stream)

    threads = [threading.Thread(target=work, args=(ids,)) for ids in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = model.generate(PROMPT, max_new_tokens=200, ignore_eos=True).tokens
    assert sorted(id for ids in found for id in ids) == sorted(expected)
    assert stream.finish_reason == "length"


def test_a_pass_stops_no_other_thread(shipped_model: Path) -> None:
    """Looking at a model does not wait for its passes, least of all with the interpreter's lock."""
    model = _core.Model.open(str(shipped_model), 1)
    tokens = np.arange(500, dtype=np.int32)
    taken_s = 0.0

    def work() -> None:
        nonlocal taken_s
        begin = time.perf_counter()
        model.forward([(_core.KvCache(model), tokens, 0) for _ in range(10)])
        taken_s = time.perf_counter() - begin

    shares = []
    for _ in range(3):  # any of them: another process may have taken the processor
        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.02)
        begin = time.perf_counter()
        assert model.threads == 1
        waited_s = time.perf_counter() - begin
        thread.join()
        shares.append(waited_s / taken_s)
    assert min(shares) < 0.3


FORK = """
import os, resource, signal, sys
import pythia_cpu

model = pythia_cpu.load(threads=6)
tokens = list(range(40))
expected = model.logits(tokens)
if pid := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
signal.alarm(30)
try:
    if os.getuid() == 0:
        os.setuid(65534)  # limits do not hold for root
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    for refused in (1, 3):  # processes and threads of the user, this one included
        resource.setrlimit(resource.RLIMIT_NPROC, (refused, hard))
        try:
            model.logits(tokens)
            os._exit(77)
        except OSError as error:
            assert "threads, expected 6; ask for fewer" in str(error)
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    os._exit(0 if (model.logits(tokens) == expected).all() else 1)
except BaseException as error:
    print(error, file=sys.stderr)
    os._exit(2)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_NPROC"), reason="the system has no such limit")
def test_a_forked_child_that_gets_no_threads_tries_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], env=os.environ, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == 77:
        pytest.skip("the system did not refuse a thread")
    assert (done.returncode, done.stderr) == (0, "")


FORK_DURING_PASS = """
import os, signal, sys, threading
import pythia_cpu

model = pythia_cpu.load(threads=2)
tokens = list(range(500))
expected = model.logits(tokens).tobytes()


def in_child():
    try:
        assert model.logits(tokens).tobytes() == expected
        return 0
    except OSError as error:
        assert "this process was forked while another thread ran the model" in str(error)
        assert pythia_cpu.load(threads=2).logits(tokens).tobytes() == expected
        return 1


for _ in range(50):
    thread = threading.Thread(target=model.logits, args=([tokens] * 4,))
    thread.start()
    if not (pid := os.fork()):
        signal.alarm(20)
        status = 2
        try:
            status = in_child()
        finally:
            os._exit(status)
    thread.join()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        break
sys.exit(status != 1)
"""


def test_a_child_that_was_forked_during_a_pass_does_not_wait_for_it() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK_DURING_PASS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
