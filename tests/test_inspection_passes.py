"""Which forward passes `run` makes: several for long sequences, none before all edits are checked, shortened ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from bits import assert_same_bits
from pythia_cpu import Model, _core

PRE, POST = "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"
SEQUENCES = [np.random.default_rng(i).integers(0, 4096, 300).tolist() for i in range(3)]  # two do not fit in one pass


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]) -> Model:
    return pythia_cpu.load(
        make_model_file(make_checkpoint(hidden_size=32, num_attention_heads=2, num_hidden_layers=3), "f32")
    )


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Of each pass since the test began the number of sequences, and the residual stream that it began at."""
    found: list[tuple[int, str]] = []
    inspect = _core.Model.inspect

    def counted(self: _core.Model, sequences: Any, *arguments: Any, replaced_residual: str = "") -> Any:
        found.append((len(sequences), replaced_residual))
        return inspect(self, sequences, *arguments, replaced_residual=replaced_residual)

    monkeypatch.setattr(_core.Model, "inspect", counted)
    return found


def test_every_pass_captures_the_same(model: Model, passes: list[tuple[int, str]]) -> None:
    """Also names that can be read once only."""
    names = ["hook_embed", "*.hook_resid_post"]
    for capture in (names, iter(names), (name for name in names)):
        passes.clear()
        runs = model.run(SEQUENCES, capture=capture)
        assert passes == [(1, "")] * 3
        for run, ids in zip(runs, SEQUENCES, strict=True):
            alone = model.run(ids, capture=names)
            assert list(run.activations) == list(alone.activations) and len(run.activations) == 4
            for name, array in alone.activations.items():
                assert_same_bits(run.activations[name], array, name)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ([None, None, {"no_such": np.zeros(3)}], r"no activation 'no_such'"),
        ([None, None, {"hook_embed": 3}], r"edit\[2\]\['hook_embed'\] is of type int"),
        ([None, None, "hook_embed"], r"edit\[2\] is of type str"),
        ([None, None], "edit is a list of 2, expected one for each of 3 texts"),
        ([None, None, None, None], "edit is a list of 4, expected one for each of 3 texts"),
    ],
    ids=["name", "array", "edits", "few", "many"],
)
def test_edits_are_looked_at_before_the_first_pass(
    model: Model, passes: list[tuple[int, str]], edit: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.run(SEQUENCES, edit=edit)
    assert passes == []


def test_passes_begin_at_a_replaced_residual_stream(model: Model, passes: list[tuple[int, str]]) -> None:
    ids = [5, 6, 7]
    array = np.random.default_rng(0).standard_normal((3, 32), np.float32)
    cases: list[tuple[Any, Any, str]] = [
        ({PRE: array}, (), PRE),
        ({POST: array.tolist()}, "blocks.2.*", POST),
        ({PRE: array, POST: array}, PRE, PRE),
        ({"*.hook_resid_post": array}, (), "blocks.0.hook_resid_post"),
        ({PRE: array, "blocks.2.hook_mlp_out": lambda x: x}, (), PRE),
        ({PRE: array}, "hook_embed", ""),
        ({PRE: array, "hook_embed": lambda x: None}, (), ""),
        ({PRE: lambda x: array}, (), ""),
        ({"blocks.1.hook_mlp_out": array}, (), ""),
    ]
    for edit, capture, begins in cases:
        model.run(ids, edit=edit, capture=capture)
        model.run([ids, ids], edit=edit, capture=capture)
        assert (passes.pop(), passes.pop()) == ((2, begins), (1, begins)), edit
    for edits, begins in (
        ([{PRE: array}, {PRE: -array}], PRE),
        ([{PRE: array}, {POST: array}], ""),
        ([{PRE: array}, None], ""),
        ([{PRE: array}, {PRE: lambda x: x}], ""),
    ):
        model.run([ids, ids], edit=edits)
        assert passes.pop() == (2, begins), edits
    assert passes == []
