"""Threads that outlive the interpreter, processes that are forked at work, arrays that change during a call, cycles."""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from bits import assert_same_bits
from pythia_cpu import Model
from pythia_cpu.eval._result_cache import ResultCache


@pytest.fixture(scope="module")
def model() -> Model:
    return pythia_cpu.load(threads=1)


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize(
    "work",
    [
        "model.generate(['It was'] * 50, max_new_tokens=200)",
        "list(model.stream('It was', max_new_tokens=1000))",
        "model.score(['It was a dark night ' * 100] * 20)",
        "model.run(list(range(1000)), capture='*.hook_pattern')",
        "model.run(list(range(1000)), edit=lambda name, array: array)",
    ],
)
def test_a_daemon_thread_at_work_does_not_disturb_the_end_of_the_interpreter(work: str) -> None:
    """Before Python 3.14 that ends threads by unwinding their stacks."""
    done = run_script(f"""
        import threading, time, pythia_cpu
        model = pythia_cpu.load(threads=2)

        def work():
            while True:
                {work}

        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        time.sleep(0.3)
        raise SystemExit(7)
    """)
    assert (done.returncode, done.stderr) == (7, "")


def test_ids_that_change_during_a_call() -> None:
    """What was checked is what is read: in a process of its own, which would crash."""
    done = run_script("""
        import sys, threading, numpy as np, pythia_cpu
        model, ids, stop = pythia_cpu.load(threads=1), np.full(256, 5, np.int32), False

        def flip():
            while not stop:
                ids[:] = 2**31 - 1
                ids[:] = 5

        thread = threading.Thread(target=flip)
        thread.start()
        sys.setswitchinterval(1e-5)
        for i in range(120):
            try:
                (model.logits, model.run, model.session().append)[i % 3](ids)
            except ValueError:
                pass
        stop = True
        thread.join()
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_session_has_the_ids_that_it_read(model: Model) -> None:
    ids = np.array(model.tokenizer.encode("It was a dark night"), np.int32)
    expected, session = ids.tolist(), model.session()

    def change(array: np.ndarray) -> None:
        ids[:] = 7

    run = session.run(ids, edit={"hook_embed": change})
    assert session.tokens == expected
    assert_same_bits(run.logits, model.logits(expected))


FORK = """
    import os, signal, sys, threading, time, pythia_cpu

    model = pythia_cpu.load(threads=1)
    session, stream = model.session(), model.stream("It was", max_new_tokens=2000, ignore_eos=True)
    held, done = threading.Event(), threading.Event()

    def wait(array):
        held.set()
        done.wait(60)

    def use():
        USE

    thread = threading.Thread(target=use)
    thread.start()
    held.wait(60)
    if (pid := os.fork()) == 0:
        signal.alarm(30)  # it would wait for ever
        try:
            TRY
            status = 3
        except OSError as error:
            status = 0 if "was forked while another thread" in str(error) else 4
            again = pythia_cpu.load(threads=1)
            assert again.generate("It was").tokens == again.generate(["It was"])[0].tokens
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    done.set()
    thread.join()
    sys.exit(status)
"""


@pytest.mark.parametrize(
    ("use", "attempt"),
    [
        ("session.run([1, 2], edit={'hook_embed': wait})", "session.tokens"),
        ("session.run([1, 2], edit={'hook_embed': wait})", "session.fork()"),
        ("stream._lock.__enter__(); held.set(); done.wait(60); stream._lock.__exit__()", "next(stream)"),
    ],
)
def test_a_forked_process_is_told_that_a_call_was_on_its_way(use: str, attempt: str) -> None:
    done = run_script(FORK.replace("USE", use).replace("TRY", attempt))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_process_builds_what_another_thread_was_building() -> None:
    """Attributes that are made at their first use have no lock."""
    done = run_script("""
        import os, signal, sys, threading, pythia_cpu
        from pythia_cpu import _model

        first, building, done = pythia_cpu.load(), threading.Event(), threading.Event()
        make = _model.Tokenizer

        def slow(*arguments):
            building.set()
            done.wait(60)
            return make(*arguments)

        _model.Tokenizer = slow
        thread = threading.Thread(target=lambda: first.tokenizer)
        thread.start()
        building.wait(60)
        if (pid := os.fork()) == 0:
            signal.alarm(30)
            _model.Tokenizer = make
            os._exit(0 if pythia_cpu.load().tokenizer.encode("It was") == first.tokenizer.encode("It was") else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        done.set()
        thread.join()
        sys.exit(status)
    """)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_of_scores_is_free_when_the_call_ends(model: Model, tmp_path: Path) -> None:
    """Though a process that was forked meanwhile lives on, as a data loader's do."""
    workers = []

    def texts() -> Iterator[str]:
        workers.append(multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True))
        workers[0].start()
        yield "Once upon a time"

    assert model.score_to_file(texts(), tmp_path / "s.jsonl") == 1
    try:
        assert model.score_to_file(["Once upon a time", "It was"], tmp_path / "s.jsonl") == 1
    finally:
        os.kill(workers[0].pid, signal.SIGKILL)
        workers[0].join()


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_texts_before_a_bad_prompt_come_first(model: Model, options: dict[str, Any]) -> None:
    def prompts() -> Iterator[Any]:
        yield from ["It was", "He said"] * 3
        yield [99999]
        yield "never"

    found = []
    with pytest.raises(ValueError, match=r"prompts\[6\] holds token id 99999"):
        for number, text in model.generate_each(prompts(), max_new_tokens=3, **options):
            found.append(number)
            assert text == model.generate(["It was", "He said"][number % 2], max_new_tokens=3, **options)
    assert sorted(found) == list(range(6))


def test_what_cannot_be_pickled_says_what_can(model: Model) -> None:
    session = model.session()
    session.append([5, 6])
    assert copy.deepcopy(session).tokens == [5, 6]
    with pytest.raises(TypeError, match="a session cannot be pickled: send its tokens"):
        pickle.dumps(session)
    with pytest.raises(TypeError, match="a stream cannot be pickled: send its tokens"):
        pickle.dumps(model.stream("It was"))


def test_arrays_that_numpy_cannot_read_are_named(model: Model) -> None:
    torch = pytest.importorskip("torch")
    bad = torch.zeros(3, requires_grad=True), torch.zeros(3, dtype=torch.int64, device="meta")
    for ids in bad:
        for call, name in ((model.logits, "tokens"), (model.generate, "prompt"), (model.score, "text")):
            with pytest.raises(ValueError, match=f"{name} is no array that numpy can read"):
                call(ids)
    hidden_size = model.config.hidden_size
    with pytest.raises(ValueError, match="residuals is no array that numpy can read"):
        model.unembed(torch.zeros(hidden_size, requires_grad=True))
    for values in (np.zeros(hidden_size, np.complex64), ["1"] * hidden_size):
        with pytest.raises(ValueError, match="residuals is an array of .*, expected real numbers"):
            model.unembed(values)


def test_a_cache_of_results_serves_threads(tmp_path: Path) -> None:
    evaluation = pytest.importorskip("pythia_cpu.eval")
    cache = evaluation.ResultCache(tmp_path / "results.db", "key")
    problems = []

    def work(number: int) -> None:
        try:
            for i in range(20):
                cache.put("kind", [number, i], i)
                cache.commit()
                assert cache.get("kind", [number, i]) == i
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    cache.close()


class Steered:
    """An edit that holds what runs it."""

    def __init__(self, model: Model, use: str) -> None:
        edit = {"hook_embed": self.hook}
        self.running: Any = (
            model.stream("It was", max_new_tokens=4, edit=edit)
            if use == "stream"
            else model.generate_each(["It was", "He"], max_new_tokens=4, edit=edit)
        )

    def hook(self, array: Any) -> None:
        pass


@pytest.mark.parametrize("use", ["stream", "generate_each"])
@pytest.mark.parametrize("tokens", [0, 1, None])
def test_an_edit_that_holds_what_runs_it_is_collected(use: str, tokens: int | None) -> None:
    model = pythia_cpu.load()
    steered = Steered(model, use)
    list(itertools.islice(steered.running, tokens))
    gone = weakref.ref(model), weakref.ref(steered)
    del model, steered
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_prompts_that_raise_leave_no_cycle(options: dict[str, Any]) -> None:
    def prompts() -> Iterator[str]:
        yield "a"
        raise RuntimeError("boom")

    model = pythia_cpu.load()
    gone = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(RuntimeError):
            list(model.generate_each(prompts(), max_new_tokens=2, **options))
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_a_cache_of_results_closes_its_file(tmp_path: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        cache = ResultCache(tmp_path / "results.db", "key")
        cache.get("kind", "request")
        del cache
        folder = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")
        assert not [link for link in folder.iterdir() if link.is_symlink() and "results.db" in os.readlink(link)]
    finally:
        gc.enable()
