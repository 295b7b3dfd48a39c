"""Edits at one position change nothing before it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pythia_cpu
from bits import assert_same_bits
from pythia_cpu import _core

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
    """Tensors as they are, also bfloat16; what numpy cannot read, and where an edit's own error comes from."""
    name = "hook_embed"
    doubled = model.run(TOKENS, edit={name: lambda a: 2 * a}).logits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.run(TOKENS, edit={name: lambda a: 2 * torch.from_numpy(a)}).logits
        rounded = model.run(TOKENS, edit={name: lambda a: torch.from_numpy(a).bfloat16().float()}).logits
        halves = model.run(TOKENS, edit={name: lambda a: torch.from_numpy(a).bfloat16()}).logits
    np.testing.assert_array_equal(found, doubled)
    np.testing.assert_array_equal(halves, rounded)
    for bad, message in (
        (lambda a: a * 1j, "returned is an array of complex64, expected real numbers"),
        (
            lambda a: torch.from_numpy(a).requires_grad_(),
            "hook_embed returned is no array that numpy can read",
        ),
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
        model.session().run(np.array([TOKENS]))


def test_what_notebooks_show(model: pythia_cpu.Model) -> None:
    run = model.run([5, 6], capture="hook_embed")
    assert repr(run) == "Run(logits=[2, 4096], activations={'hook_embed': [2, 64]})"
    assert repr(model.run([5], logits=False)) == "Run(logits=None, activations={})"
    assert "hidden_size" in dir(model.config)


def test_arrays_as_edits(model: pythia_cpu.Model) -> None:
    """An array takes the activation's place, as what a function returns would."""
    other = model.run(TOKENS[::-1], capture="blocks.0.hook_resid_post").activations["blocks.0.hook_resid_post"]
    expected = model.run(TOKENS, edit={"blocks.0.hook_resid_post": lambda _: other}).logits
    for array in (other, other.astype(np.float64), other.tolist(), torch.from_numpy(other)):
        run = model.run(TOKENS, capture="blocks.0.hook_resid_post", edit={"blocks.0.hook_resid_post": array})
        np.testing.assert_array_equal(run.logits, expected)
        np.testing.assert_array_equal(run.activations["blocks.0.hook_resid_post"], other)
    for bad, message in (
        (other[1:], r"the edit of hook_embed returned shape \[39, 64\], expected \[40, 64\]"),
        (other * np.nan, "the edit of hook_embed gave values that are not finite"),
        (other * 1j, r"edit\['hook_embed'\] is an array of complex"),
        (["a"], r"edit\['hook_embed'\] is an array of <U1, expected real numbers"),
        (3, r"edit\['hook_embed'\] is of type int, expected a function or an array"),
    ):
        with pytest.raises(ValueError, match=message):
            model.run(TOKENS, edit={"hook_embed": bad})


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("blocks.0.ln1.hook_out", "blocks.0.ln1.hook_normalized"),
        ("ln_final.hook_out", "ln_final.hook_normalized"),
        ("blocks.1.attn.q.hook_out", "blocks.1.attn.hook_q"),
        ("blocks.1.attn.o.hook_in", "blocks.1.attn.hook_z"),
        ("blocks.*.attn.hook_out", "blocks.*.hook_attn_out"),
        ("blocks.0.mlp.hook_out", "blocks.0.hook_mlp_out"),
        ("blocks.0.mlp.in.hook_out", "blocks.0.mlp.hook_pre"),
        ("blocks.0.mlp.out.hook_in", "blocks.0.mlp.hook_post"),
        ("blocks.0.hook_in", "blocks.0.hook_resid_pre"),
        ("blocks.0.hook_out", "blocks.0.hook_resid_post"),
        ("hook_resid_post", "blocks.*.hook_resid_post"),
        ("attn.hook_z", "blocks.*.attn.hook_z"),
    ],
)
def test_names_that_others_use(model: pythia_cpu.Model, theirs: str, ours: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"no activation {theirs!r}; near it: {ours} (")):
        model.run(TOKENS, capture=theirs)


def test_a_pass_begins_at_a_replaced_residual_stream(model: pythia_cpu.Model) -> None:
    """As if the array came from a function, for which the layers before it run too."""
    config = model.config
    for i, name in enumerate(name for name in model.activation_names if "hook_resid" in name):
        array = np.random.default_rng(i).standard_normal((len(TOKENS), config.hidden_size), np.float32)
        last = f"blocks.{config.num_hidden_layers - 1}.hook_resid_post"
        expected = model.run(TOKENS, edit={name: lambda x, array=array: array}, capture=[name, last])
        for tokens in (TOKENS, [TOKENS, TOKENS[::-1]]):
            found = model.run(tokens, edit={name: array}, capture=[name, last])
            for run in found if isinstance(found, list) else [found]:
                assert_same_bits(run.logits, expected.logits)
                assert_same_bits(run.activations[last], expected.activations[last])
        assert_same_bits(model.session().run(TOKENS, edit={name: array}).logits, expected.logits)
        without = model.run(TOKENS, edit={name: array}, capture=last, logits=False)
        assert_same_bits(without.activations[last], expected.activations[last])
        with_earlier = model.run(TOKENS, edit={name: array}, capture="hook_embed")
        assert_same_bits(
            with_earlier.activations["hook_embed"], model.run(TOKENS, capture="*").activations["hook_embed"]
        )


def test_what_a_replaced_residual_stream_leaves_out(model: pythia_cpu.Model) -> None:
    core, name = model._core, "blocks.1.hook_resid_pre"
    seen = []
    for replaced in ("", name):
        core.inspect([TOKENS], {name}, lambda _, name, array: seen.append(array), replaced_residual=replaced)
    assert seen[0].any() and not seen[1].any()  # there was nothing to compute it from


@pytest.mark.parametrize("with_cache", [False, True])
@pytest.mark.parametrize("num_logits", [-1, 4, 2**40])
def test_the_core_refuses_logits_of_tokens_that_are_not_there(
    model: pythia_cpu.Model, with_cache: bool, num_logits: int
) -> None:
    core = model._core
    tokens = np.array([1, 2, 3], np.int32)
    cache = _core.KvCache(core, 8) if with_cache else None
    error = MemoryError if num_logits > 4 else ValueError
    with pytest.raises((ValueError, error), match=None if error is MemoryError else "expected 0..3"):
        core.inspect([tokens], set(), print, [num_logits], cache)
    assert cache is None or cache.length == 0


def test_the_core_refuses_no_residual_streams(model: pythia_cpu.Model) -> None:
    for rows in (0, model.config["max_position_embeddings"] + 1):
        with pytest.raises(ValueError, match=rf"found {rows} residual streams, expected 1\.\."):
            model._core.unembed(np.zeros((rows, model.config["hidden_size"]), np.float32))
