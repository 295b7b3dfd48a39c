"""Edits at one position change nothing before it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pythia_cpu

TOKENS = np.random.default_rng(5).integers(0, 4096, 40).tolist()
POSITION = 25


@pytest.fixture(scope="module", params=["f32", "q8", "q4"])
def model(
    request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path], make_model_file: Any
) -> pythia_cpu.Model:
    checkpoint = make_checkpoint(hidden_size=64, num_attention_heads=4, num_hidden_layers=2)
    return pythia_cpu.load(make_model_file(checkpoint, request.param))


def change_head(array: np.ndarray) -> None:
    array[1, POSITION, 3] += 0.5


def change_row(array: np.ndarray) -> None:
    array[POSITION] *= 1.5


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("blocks.0.attn.hook_pattern", change_head),
        ("blocks.0.attn.hook_attn_scores", change_head),
        ("blocks.0.ln1.hook_scale", change_row),
        ("blocks.1.ln2.hook_scale", change_row),
        ("blocks.0.attn.hook_z", change_row),
        ("blocks.0.hook_resid_post", change_row),
    ],
)
def test_what_comes_before_an_edit_keeps_its_bits(model: pythia_cpu.Model, name: str, change: Any) -> None:
    plain = model.run(TOKENS, capture="*.hook_z")
    edited = model.run(TOKENS, capture="*.hook_z", edit={name: change})
    np.testing.assert_array_equal(edited.logits[:POSITION], plain.logits[:POSITION])
    assert (edited.logits[POSITION] != plain.logits[POSITION]).any()
    if "pattern" in name or "scores" in name:  # other heads and queries of the layer too
        before, after = (run.activations["blocks.0.attn.hook_z"].copy() for run in (plain, edited))
        assert (before[POSITION, 1] != after[POSITION, 1]).any()
        before[POSITION, 1] = after[POSITION, 1] = 0
        np.testing.assert_array_equal(before, after)


def test_results_of_edits(model: pythia_cpu.Model) -> None:
    """Tensors as they are; what numpy cannot read, and where an edit's own error comes from."""
    name = "hook_embed"
    doubled = model.run(TOKENS, edit={name: lambda a: 2 * a}).logits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.run(TOKENS, edit={name: lambda a: 2 * torch.from_numpy(a)}).logits
    np.testing.assert_array_equal(found, doubled)
    for bad, message in (
        (lambda a: a * 1j, "they are complex"),
        (lambda a: torch.from_numpy(a).bfloat16(), "no array of numbers that numpy can read"),
        (lambda a: torch.from_numpy(a).requires_grad_(), "no array of numbers that numpy can read"),
    ):
        with pytest.raises(ValueError, match=message):
            model.run(TOKENS, edit={name: bad})
    with pytest.raises(ZeroDivisionError) as error:
        model.run(TOKENS, edit={"blocks.*.hook_mlp_out": lambda _: 1 // 0})
    assert getattr(error.value, "__notes__", ["in the edit of blocks.0.hook_mlp_out"]) == [
        "in the edit of blocks.0.hook_mlp_out"
    ]


def test_a_batch_of_one_is_no_sequence(model: pythia_cpu.Model) -> None:
    with pytest.raises(ValueError, match=r"tokens has shape \[1, 40\], expected one sequence .* pass its \[0\]"):
        model.run(np.array([TOKENS]))


def test_what_notebooks_show(model: pythia_cpu.Model) -> None:
    run = model.run([5, 6], capture="hook_embed")
    assert repr(run) == "Run(logits=[2, 4096], activations={'hook_embed': [2, 64]})"
    assert repr(model.run([5], logits=False)) == "Run(logits=None, activations={})"
    assert "hidden_size" in dir(model.config)
