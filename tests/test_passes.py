"""Several sequences run in as few forward passes as they fit in, and each gets the bits that it has alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pythia_cpu
from pythia_cpu import _core


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The numbers of tokens of each sequence in each forward pass since the test began."""
    found: list[list[int]] = []
    forward = _core.Model.forward

    def counted(self: _core.Model, sequences: list[Any], **options: Any) -> Any:
        found.append([len(ids) for _, ids, _ in sequences])
        return forward(self, sequences, **options)

    monkeypatch.setattr(_core.Model, "forward", counted)
    return found


def test_short_sequences_run_together(passes: list[list[int]]) -> None:
    model = pythia_cpu.load()
    lengths = [3, 300, 209, 1, 9, 600, 1, 512, 500, 12]
    sequences = [np.random.default_rng(i).integers(0, 4096, length).tolist() for i, length in enumerate(lengths)]
    several = model.logits(sequences)
    assert passes == [[3, 300, 209], [1, 9], [512], [88], [1], [512], [500, 12]]
    for found, sequence in zip(several, sequences, strict=True):
        np.testing.assert_array_equal(found, model.logits(sequence))


def test_nothing_runs_if_a_sequence_is_wrong(passes: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"tokens\[2\] holds token id 4096"):
        pythia_cpu.load().logits([[1], [2, 3], [4096]])
    assert passes == []


def test_an_interruption_ends_between_passes(passes: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    forward = _core.Model.forward

    def interrupted(self: _core.Model, sequences: list[Any]) -> Any:
        if len(passes) == 2:
            raise KeyboardInterrupt
        return forward(self, sequences)

    monkeypatch.setattr(_core.Model, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pythia_cpu.load().logits([[1] * 300] * 10)
    assert passes == [[300], [300]]
