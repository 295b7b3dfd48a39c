"""Bars: on a terminal only, and full when the work is done."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from checkpoints import write_checkpoint
from pythia_cpu import _progress
from pythia_cpu._progress import ProgressBar

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}


class Terminal(io.StringIO):
    """Standard error that says it is one."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "enabled", "delay_s", "is_shown"),
    [
        (Terminal, True, 0.0, True),
        (Terminal, False, 0.0, False),
        (Terminal, True, 60.0, False),  # soon done
        (io.StringIO, True, 0.0, False),  # a file or pipe
        (lambda: None, True, 0.0, False),  # of a daemon
    ],
    ids=["terminal", "off", "quick", "file", "daemon"],
)
def test_where_bars_are_shown(
    monkeypatch: pytest.MonkeyPatch, stream: Callable[[], Any], enabled: bool, delay_s: float, is_shown: bool
) -> None:
    error = stream()
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setattr(_progress, "_DELAY_S", delay_s)
    with ProgressBar(3, what="reading", unit=" texts", enabled=enabled) as bar:
        bar.update(2)
        bar.update(1)
    written = "" if error is None else error.getvalue()
    assert ("reading" in written) == is_shown
    assert is_shown or written == ""
    assert written.rpartition("\r")[2].strip() == ""  # it is taken away


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Of each bar shown since the test began its title, total, what is done, and whether it was closed."""
    found: list[list[Any]] = []

    class Bar:
        def __init__(self, *, total: int | None, desc: str, **_: object) -> None:
            self._facts = [desc, total, 0, False]
            found.append(self._facts)

        def update(self, count: int) -> None:
            self._facts[2] += count

        def close(self) -> None:
            self._facts[3] = True

    monkeypatch.setattr(_progress, "_Bar", Bar)
    monkeypatch.setattr(_progress, "sys", SimpleNamespace(stderr=Terminal()))  # pytest replaces sys.stderr
    return found


@pytest.mark.parametrize("weights", ["auto", "f32", "q4"])
@pytest.mark.parametrize("tied", [False, True])
def test_bars_of_conversions(bars: list[list[Any]], tmp_path: Path, weights: str, tied: bool) -> None:
    folder = write_checkpoint(tmp_path / "c", **SMALL, tied=tied)
    pythia_cpu.convert(folder, tmp_path / "m.pcpu", weights=weights)
    ((what, total, done, closed),) = bars
    assert (what, done, closed) == ("converting", total, True)
    assert total >= sum(2 * array.size for array in pythia_cpu.load(tmp_path / "m.pcpu").tensors.values())  # float16
    pythia_cpu.convert(folder, tmp_path / "m.pcpu", progress=False)
    assert len(bars) == 1


def test_bars_of_other_work(
    bars: list[list[Any]], make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path], tmp_path: Path
) -> None:
    model = pythia_cpu.load(make_model_file(make_checkpoint(**SMALL)))
    ids = np.random.default_rng(0).integers(0, 50, (3, 400)).tolist()
    edit = {"hook_embed": lambda x: None}
    records, more = tmp_path / "records.jsonl", tmp_path / "more.jsonl"
    works: list[tuple[Callable[[], Any], str, int]] = [
        (lambda: model.score(ids), "scoring", 3 * 399),
        (lambda: model.score(ids, edit=edit), "scoring", 3 * 399),
        (lambda: model.perplexity(ids[0], context_length=100), "scoring", 400),
        (lambda: model.divergence(model, ids), "comparing", 1200),
        (lambda: model.memorization(ids), "memorization", 3),
        (lambda: model.generate([[1], [2], [3]], max_new_tokens=2), "generating", 3),
        (lambda: model.score_to_file(ids[:2], records), "records.jsonl", 2),
        (lambda: model.score_to_file(ids, records), "records.jsonl", 3),  # and those that are there
        (lambda: model.memorization_to_file(ids, more), "more.jsonl", 3),
    ]
    for work, what, total in works:
        work()
        assert bars == [[what, total, total, True]]
        bars.clear()
    model.score_to_file(iter(ids), records)
    assert bars == [["records.jsonl", None, 3, True]]
