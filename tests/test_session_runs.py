"""Activations of a session's new tokens: those of the whole sequence, and changed on their way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu

TOKENS = np.random.default_rng(7).integers(0, 4096, 300).tolist()  # more than a chunk of attention
CUTS = [0, 1, 20, 261, 290, 300]
BLOCK = "blocks.0."


@pytest.fixture(scope="module", params=[("f32", True), ("q8", True), ("q4", False)], ids=str)
def model(
    request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path], make_model_file: Any
) -> pythia_cpu.Model:
    weights, parallel = request.param
    checkpoint = make_checkpoint(hidden_size=64, num_attention_heads=4, num_hidden_layers=3, parallel=parallel)
    return pythia_cpu.load(make_model_file(checkpoint, weights))


def test_activations_are_those_of_the_whole_sequence(model: pythia_cpu.Model) -> None:
    """Bit by bit, however it is cut, with calls of append between; logits and what follows too."""
    whole = model.run(TOKENS, capture="*")
    session = model.session()
    for begin, end in itertools.pairwise(CUTS):
        if begin == 20:
            np.testing.assert_array_equal(session.append(TOKENS[begin:end]), whole.logits[begin:end])
            continue
        run = session.run(TOKENS[begin:end], capture="*")
        np.testing.assert_array_equal(run.logits, whole.logits[begin:end])
        assert list(run.activations) == list(whole.activations)
        for name, array in run.activations.items():
            expected = whole.activations[name]
            if name.endswith(("scores", "pattern")):
                np.testing.assert_array_equal(array, expected[:, begin:end, :end], name)
            else:
                np.testing.assert_array_equal(array, expected[begin:end], name)
    assert session.tokens == TOKENS
    assert session.run([5], logits=False).logits is None
    np.testing.assert_array_equal(session.append([6])[0], model.logits([*TOKENS, 5, 6])[-1])


def test_edits_are_those_of_the_whole_sequence(model: pythia_cpu.Model) -> None:
    """Edits that treat every position alike."""
    edit = {
        f"{BLOCK}hook_resid_post": lambda x: x + np.linspace(-1, 1, x.shape[1], dtype=np.float32),
        "blocks.1.attn.hook_z": lambda z: z * np.array([1, 0, 2, 1], np.float32)[:, None],
        "blocks.1.attn.hook_k": lambda k: 1.5 * k,
        "blocks.2.ln2.hook_scale": lambda scale: 2 * scale,
    }
    expected = model.run(TOKENS, edit=edit).logits
    session = model.session()
    found = [session.run(TOKENS[begin:end], edit=edit).logits for begin, end in itertools.pairwise(CUTS)]
    np.testing.assert_array_equal(np.concatenate(found), expected)
    assert (expected != model.logits(TOKENS)).any(axis=1).all()


@pytest.mark.parametrize("name", ["attn_scores", "pattern"])
def test_edits_of_attention(model: pythia_cpu.Model, name: str) -> None:
    """Knockout of a key, as in a run over all tokens: bit by bit where earlier values are kept as they are."""
    key = 2

    def knock_out(array: np.ndarray) -> None:
        array[1, :, key : key + 1] = -np.inf if name == "attn_scores" else 0

    edit = {f"blocks.*.attn.hook_{name}": knock_out}
    expected = model.run(TOKENS, edit=edit)
    session = model.session()
    found = [session.run(TOKENS[begin:end], edit=edit).logits for begin, end in itertools.pairwise(CUTS)]
    if model.provenance["weights"] in ("q8", "q4"):
        # Their attention weighs int16 codes of values, of one scale for each position.
        error = np.abs(np.concatenate(found) - expected.logits).max()
        assert error < 0.1 * np.abs(expected.logits - model.logits(TOKENS)).max()
    else:
        np.testing.assert_array_equal(np.concatenate(found), expected.logits)
    assert (expected.logits != model.logits(TOKENS))[key + 1 :].any(axis=1).all()
    np.testing.assert_array_equal(expected.logits[:key], model.logits(TOKENS)[:key])


def test_steering_token_by_token(model: pythia_cpu.Model) -> None:
    """As by runs over all tokens, each time."""
    edit = {"blocks.1.hook_resid_post": lambda x: x + 0.5}
    session, tokens = model.session(), TOKENS[:10]
    logits = session.run(tokens, edit=edit).logits
    for _ in range(12):
        tokens = [*tokens, int(logits[-1].argmax())]
        logits = session.run(tokens[-1:], edit=edit).logits
        np.testing.assert_array_equal(logits[-1], model.run(tokens, edit=edit).logits[-1])


def test_what_a_run_may_not_do(model: pythia_cpu.Model) -> None:
    session = model.session()
    session.append(TOKENS[:5])
    expected = model.logits(TOKENS[:8])

    def use(_: Any) -> None:
        session.append([1])

    def cut(_: Any) -> None:
        session.truncate(0)

    def fork(_: Any) -> None:
        assert session.fork().tokens == TOKENS[:5]

    for function in (use, cut):
        with pytest.raises(ValueError, match="an edit of this session's run changes the session"):
            session.run(TOKENS[5:8], edit={"hook_embed": function})
    with pytest.raises(ZeroDivisionError):
        session.run(TOKENS[5:8], edit={"blocks.2.hook_resid_post": lambda _: 1 // 0})
    for tokens, message in (([], "no tokens"), ([4096], "4096"), ([1] * 2044, "context holds 2048")):
        with pytest.raises(ValueError, match=message):
            session.run(tokens)
    with pytest.raises(ValueError, match="no activation 'nothing'"):
        session.run([1], capture="nothing")
    assert session.tokens == TOKENS[:5]
    looks = session.run(TOKENS[5:8], edit=lambda _, array: None).logits  # scores and patterns too
    np.testing.assert_array_equal(looks, expected[5:])
    session.truncate(5)
    np.testing.assert_array_equal(session.run(TOKENS[5:8], edit={"hook_embed": fork}).logits, expected[5:])
