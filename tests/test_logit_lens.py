"""Residual streams turned to logits, and passes that compute activations only."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

import pythia_cpu
from bits import assert_same_bits
from pcpu_file import parse
from pythia_cpu import Model, _core

TOKENS = np.random.default_rng(3).integers(0, 4096, 40).tolist()
SHAPE = {"hidden_size": 72, "num_attention_heads": 3, "num_hidden_layers": 3}


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]) -> Model:
    return pythia_cpu.load(make_model_file(make_checkpoint(**SHAPE), "f32"), threads=2)


# The head alone


@pytest.mark.parametrize("weights", ["f16", "q8", "q4"])
@pytest.mark.parametrize("parallel", [True, False])
def test_bits_of_logits(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path], weights: str, parallel: bool
) -> None:
    path = make_model_file(make_checkpoint(**SHAPE, parallel=parallel), weights)
    run = pythia_cpu.load(path).run(TOKENS, capture="blocks.2.hook_resid_post")
    (residuals,) = run.activations.values()
    for isa in _core.supported_isas():
        assert_same_bits(_core.Model.open(str(path), 1, isa).unembed(residuals), run.logits)
    model = pythia_cpu.load(path, threads=2)
    assert_same_bits(model.unembed(residuals), model.logits(TOKENS))
    assert_same_bits(model.unembed(residuals[7]), run.logits[7])
    many = np.tile(residuals, (20, 1)).reshape(2, 400, -1)  # more than are computed at a time
    assert_same_bits(model.unembed(many), np.tile(run.logits, (20, 1)).reshape(2, 400, -1))


def test_more_rows_than_a_short_context_holds(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> None:
    short = make_checkpoint(**SHAPE, config_updates={"max_position_embeddings": 64})
    model = pythia_cpu.load(make_model_file(short, "f32"))
    rows = np.random.default_rng(5).standard_normal((2, 70, 72)).astype(np.float32)
    assert_same_bits(model.unembed(rows)[1, 30], model.unembed(rows[1, 30]))


def test_lens_of_earlier_layers(model: Model) -> None:
    """What the head gives where the layers after one add nothing to the stream."""
    names = [f"blocks.{i}.hook_resid_post" for i in range(3)]
    streams = np.stack(list(model.run(TOKENS, capture=names).activations.values()))
    lens = model.unembed(streams)
    assert lens.shape == (3, len(TOKENS), model.config.vocab_size) and lens.dtype == np.float32
    skipped = model.run(TOKENS, edit={"blocks.2.hook_resid_post": lambda _: streams[0]}).logits
    assert_same_bits(lens[0], skipped)

    weight, bias = (model.tensors[f"gpt_neox.final_layer_norm.{name}"] for name in ("weight", "bias"))
    centred = streams.astype(np.float64) - streams.mean(-1, keepdims=True, dtype=np.float64)
    scale = np.sqrt((centred**2).mean(-1, keepdims=True) + model.config.layer_norm_eps)
    expected = (centred / scale * weight + bias) @ model.tensors["embed_out.weight"].T
    assert np.abs(lens - expected).max() <= 1e-4 * np.abs(expected).max()


def test_what_unembed_takes(model: Model) -> None:
    assert model.unembed(np.zeros((0, 72))).shape == (0, model.config.vocab_size)
    assert_same_bits(model.unembed([[0.5] * 72]), model.unembed(np.full((1, 72), 0.5, np.float64)))
    strided = np.random.default_rng(1).standard_normal((72, 5), dtype=np.float32)
    assert_same_bits(model.unembed(strided.T), model.unembed(strided.T.copy()))
    cases: list[tuple[Any, str]] = [
        (np.zeros((3, 71)), r"shape \[3, 71\], expected \[..., 72\]"),
        (np.float32(1), r"shape \[\], expected"),
        (np.full((1, 72), np.nan), "not finite"),
        ("text", "an array of <U4, expected real numbers"),
    ]
    for residuals, message in cases:
        with pytest.raises(ValueError, match=message):
            model.unembed(residuals)


# Activations without logits


@pytest.mark.parametrize("pattern", ["*", "hook_embed", "blocks.1.attn.hook_pattern", "blocks.*.ln1.*", "ln_final.*"])
def test_activations_are_the_same_without_logits(model: Model, pattern: str) -> None:
    run = model.run(TOKENS, capture=pattern, logits=False)
    assert run.logits is None
    expected = model.run(TOKENS, capture=pattern).activations
    assert list(run.activations) == list(expected)
    for name, array in expected.items():
        assert_same_bits(run.activations[name], array, name)


def test_lists_of_sequences(model: Model) -> None:
    """Each is what it is alone, also where an edit changes it."""
    sequences = [TOKENS, TOKENS[5:12], TOKENS[:1]]
    edit = {"blocks.1.hook_mlp_out": lambda x: x * 1.5}
    found = model.run(sequences, capture=iter(["hook_embed", "*.hook_resid_post"]), edit=edit)
    for run, tokens in zip(found, sequences, strict=True):
        expected = model.run(tokens, capture=["hook_embed", "*.hook_resid_post"], edit=edit)
        assert_same_bits(run.logits, expected.logits)
        assert list(run.activations) == list(expected.activations)
        for name, array in expected.activations.items():
            assert_same_bits(run.activations[name], array, name)
    assert [run.logits.shape for run in model.run(np.array([TOKENS, TOKENS]))] == [(40, 4096)] * 2
    for bad, message in [
        ([TOKENS, []], r"tokens\[1\] has no tokens"),
        ([[1], [4096]], r"tokens\[1\] holds token id 4096"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.run(bad)


@pytest.mark.parametrize("weights", ["f32", "q8", "q4"])
@pytest.mark.parametrize("parallel", [True, False])
def test_sequences_that_run_together(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path], weights: str, parallel: bool
) -> None:
    """Each is what it is alone, in all activations, whether they fill one pass, several or more."""
    model = pythia_cpu.load(make_model_file(make_checkpoint(**SHAPE, parallel=parallel), weights), threads=2)
    rng = np.random.default_rng(9)
    sequences = [rng.integers(0, 4096, n) for n in (1, 17, 300, 16, 400, 90, 2, 700, 33)]
    for logits in (True, False):
        for run, tokens in zip(model.run(sequences, capture="*", logits=logits), sequences, strict=True):
            alone = model.run(tokens, capture="*", logits=logits)
            assert (run.logits is None) == (not logits)
            if logits:
                assert_same_bits(run.logits, alone.logits)
            assert list(run.activations) == list(alone.activations)
            for name, array in alone.activations.items():
                assert_same_bits(run.activations[name], array, name)


def test_edits_of_sequences_that_run_together(model: Model) -> None:
    """In the core, where each sequence may have its own: none touches another."""
    sequences = [np.array(TOKENS[i : i + n], np.int32) for i, n in ((0, 9), (3, 20), (1, 1))]
    names = set(model.activation_names)

    def change(sequence: int, name: str, array: np.ndarray) -> np.ndarray | None:
        return array * np.float32(0.9) if sequence == 1 and not name.startswith("ln_final") else None

    together = model._core.inspect(sequences, names, change)
    parts = np.split(together, np.cumsum([len(ids) for ids in sequences])[:-1])
    for number, (ids, logits) in enumerate(zip(sequences, parts, strict=True)):
        alone = model._core.inspect([ids], names, lambda _, name, array, n=number: change(n, name, array))
        assert_same_bits(logits, alone)
    assert_same_bits(parts[0], model.logits(sequences[0]))
    assert (parts[1] != model.logits(sequences[1])).any()
    cache = _core.KvCache(model._core)
    with pytest.raises(ValueError, match="found 3 sequences with a cache, expected one"):
        model._core.inspect(sequences, set(), change, cache=cache)


def test_type_checkers_take_logits_for_an_array() -> None:
    assert Any in get_args(get_type_hints(pythia_cpu.Run)["logits"])


@pytest.mark.parametrize(
    ("options", "cut", "reads"),
    [
        ({"capture": "hook_embed", "logits": False}, "gpt_neox.layers.0.", False),
        ({"capture": "blocks.0.hook_resid_post", "logits": False}, "gpt_neox.layers.0.", True),
        ({"capture": "blocks.0.*", "logits": False}, "gpt_neox.layers.1.", False),
        ({"capture": "blocks.5.hook_resid_post", "logits": False}, "gpt_neox.final_layer_norm.", False),
        ({"capture": "blocks.0.*"}, "gpt_neox.final_layer_norm.", True),
    ],
)
def test_what_is_not_asked_for_is_not_computed(
    tmp_path: Path, shipped_model: Path, options: dict[str, Any], cut: str, reads: bool
) -> None:
    """A pass does not need the weights behind the last activation asked for: here the file has lost them meanwhile."""
    data = shipped_model.read_bytes()
    tensors = {record["name"].rstrip(b"\0").decode(): record["offset_bytes"] for record in parse(data).records}
    size_bytes = min(offset for name, offset in tensors.items() if name.startswith(cut))
    path = tmp_path / "cut.pcpu"
    path.write_bytes(data)
    script = f"""
import os, resource, pythia_cpu
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
model = pythia_cpu.load({str(path)!r}, threads=1)
os.truncate({str(path)!r}, {size_bytes})
model.run(range(40), **{options!r})
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.returncode == (-signal.SIGBUS if reads else 0), process.stderr


def test_edits_without_logits(model: Model) -> None:
    """An edit runs even where nothing after it is captured, and changes what is."""
    seen = []

    def double(array: np.ndarray) -> np.ndarray:
        seen.append(array.shape)
        return 2 * array

    edit = {"blocks.0.hook_mlp_out": double, "blocks.2.hook_mlp_out": double}
    run = model.run(TOKENS, capture="blocks.1.hook_resid_pre", edit=edit, logits=False)
    assert len(seen) == 2
    expected = model.run(TOKENS, capture="blocks.1.hook_resid_pre", edit=edit).activations
    assert_same_bits(run.activations["blocks.1.hook_resid_pre"], expected["blocks.1.hook_resid_pre"])
    with pytest.raises(ValueError, match="logits is 1 of type int, expected True or False"):
        model.run(TOKENS, logits=1)  # type: ignore[arg-type]
