"""The logits and the greedy text are those of transformers, over the family of models that checkpoints may describe."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from pairwise import pairwise
from reference import Reference, assert_greedy_agrees, assert_logits_agree

LENGTHS = (1, 2, 17, 512, 2048)
NUM_HEADS = {24: 3, 32: 3, 64: 2, 80: 2, 128: 2, 256: 1}  # by head_dim; 24 and 80 leave tails of every kind

# What the structure of the graph depends on, and what only touches a part of it.
STRUCTURE: dict[str, tuple[Any, ...]] = {
    "head_dim": (32, 64, 80, 128, 256),
    "rotary_pct": (0.25, 0.5, 1.0),
    "parallel": (True, False),
    "tied": (False, True),
    "num_hidden_layers": (1, 2, 3, 4),
}
DETAILS: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "quick_gelu"),
    "vocab_size": (4096, 4101, 4607),
    "attention_bias": (True, False),
    "dtype": ("float16", "float32", "bfloat16"),
    "rotary_emb_base": (10000, 25000.5),
    "layer_norm_eps": (1e-5, 1e-3),
}
QUICK_CASES = [
    *pairwise({**STRUCTURE, **DETAILS}),
    # Sizes that fill no vector and no panel: hidden 72, 18 rotary dims of 24, an inner size that is not 4 x hidden.
    {"head_dim": 24, "rotary_pct": 0.75, "num_hidden_layers": 2, "vocab_size": 4097, "intermediate_size": 100},
]


def describe(case: dict[str, Any]) -> str:
    return "-".join(str(value) for value in case.values())


def every_structure() -> list[dict[str, Any]]:
    """The full product of STRUCTURE, with the details taken in turn."""
    structures = [dict(zip(STRUCTURE, values, strict=True)) for values in itertools.product(*STRUCTURE.values())]
    details = [dict(zip(DETAILS, values, strict=True)) for values in itertools.product(*DETAILS.values())]
    return [{**structure, **details[37 * i % len(details)]} for i, structure in enumerate(structures)]


def check_case(
    case: dict[str, Any],
    make_checkpoint: Callable[..., Path],
    make_model_file: Callable[..., Path],
) -> None:
    shape = dict(case)
    head_dim = shape.pop("head_dim")
    num_heads = NUM_HEADS[head_dim]
    checkpoint = make_checkpoint(hidden_size=head_dim * num_heads, num_attention_heads=num_heads, **shape)
    reference = Reference(checkpoint)
    model = pythia_cpu.load(make_model_file(checkpoint, "f32"), threads=2)

    rng = np.random.default_rng(len(describe(case)))
    tokens = rng.integers(0, shape["vocab_size"], max(LENGTHS)).tolist()
    expected = reference.logits(tokens)
    for length in LENGTHS:
        # The model is causal: a prefix's logits are the first rows of the whole.
        assert_logits_agree(model.logits(tokens[:length]), expected[:length])

    prompt = tokens[:9]
    generated = model.generate(prompt, max_new_tokens=64, ignore_eos=True).tokens
    assert len(generated) == 64
    assert_greedy_agrees(prompt, generated, reference)


@pytest.mark.parametrize("case", QUICK_CASES, ids=describe)
def test_random_models(
    case: dict[str, Any], make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> None:
    check_case(case, make_checkpoint, make_model_file)


@pytest.mark.slow
@pytest.mark.parametrize("case", every_structure(), ids=describe)
def test_every_structure(
    case: dict[str, Any], make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> None:
    check_case(case, make_checkpoint, make_model_file)


def test_reference_reads_the_same_settings(
    make_checkpoint: Callable[..., Path], reference: Callable[[Path], Reference]
) -> None:
    """The reference itself honours what the cases vary; otherwise agreement would say nothing."""
    base = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "vocab_size": 4096}
    changes: list[dict[str, Any]] = [
        {},
        {"rotary_pct": 1.0},
        {"rotary_emb_base": 500.0},
        {"parallel": False},
        {"hidden_act": "gelu_new"},
        {"hidden_act": "quick_gelu"},
        {"layer_norm_eps": 1e-2},
    ]
    tokens = list(range(40))
    results = [reference(make_checkpoint(**base, **change)).logits(tokens) for change in changes]
    for a, b in itertools.combinations(results, 2):
        with pytest.raises(AssertionError):
            assert_logits_agree(a, b)


@pytest.mark.parametrize("length", [1, 2, 17, 512, 2048])
def test_shipped_model(
    length: int, mini_checkpoint: Path, shipped_model: Path, reference: Callable[[Path], Reference]
) -> None:
    model = pythia_cpu.load(shipped_model)
    tokens = np.random.default_rng(length).integers(0, 4096, length).tolist()
    assert_logits_agree(model.logits(tokens), reference(mini_checkpoint).logits(tokens))


@pytest.mark.parametrize(
    "prompt", ["Once upon a time", "It was a dark night,", "\n\nCHAPTER II.\n\n", '"My dear,"', "Ünïcödé  — 中"]
)
def test_shipped_model_generates_the_same_text(
    prompt: str, mini_checkpoint: Path, reference: Callable[[Path], Reference]
) -> None:
    model = pythia_cpu.load()
    tokens = model.tokenizer.encode(prompt)
    generation = model.generate(prompt, max_new_tokens=64, ignore_eos=True)
    assert generation.finish_reason == "length"
    assert_greedy_agrees(tokens, generation.tokens, reference(mini_checkpoint))
    assert generation.tokens == reference(mini_checkpoint).generate(tokens, 64)


def test_pairwise_covers_every_pair() -> None:
    parameters = {**STRUCTURE, **DETAILS}
    for a, b in itertools.combinations(parameters, 2):
        seen = {(case[a], case[b]) for case in pairwise(parameters)}
        assert seen == set(itertools.product(parameters[a], parameters[b]))
