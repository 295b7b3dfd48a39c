"""The end of text is what the checkpoint says: another token than 0, and than the beginning of texts."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from pythia_cpu import hf

BOS, EOS, VOCAB_SIZE = 1, 3, 22
PROMPTS = [[i, i + 1] for i in range(4, 20)]
TEXT = "1,2/4"  # its tokens are among the few of the model


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]) -> pythia_cpu.Model:
    """One whose texts have the tokens 0, 1 and 3 here and there."""
    config = {"bos_token_id": BOS, "eos_token_id": EOS}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": VOCAB_SIZE, "seed": 1}
    return pythia_cpu.load(make_model_file(make_checkpoint(**shape, config_updates=config), "f32"))


@pytest.fixture(scope="module")
def unended(model: pythia_cpu.Model) -> list[list[int]]:
    """What follows the prompts if no token ends a text; the end of text is in some, after other special tokens."""
    texts = [text.tokens for text in model.generate(PROMPTS, max_new_tokens=30, ignore_eos=True)]
    for before in (0, BOS):
        assert any(EOS in text and before in text[: text.index(EOS)] for text in texts)
    assert any(EOS not in text and 0 in text for text in texts)
    return texts


def until_end(text: list[int]) -> list[int]:
    return text[: text.index(EOS) + 1] if EOS in text else text


def test_generated_texts_end_there(model: pythia_cpu.Model, unended: list[list[int]]) -> None:
    expected = [until_end(text) for text in unended]
    together = model.generate(PROMPTS, max_new_tokens=30)
    assert [text.tokens for text in together] == expected
    assert [text.finish_reason for text in together] == ["eos" if EOS in text else "length" for text in expected]
    assert [text.text for text in together] == [
        model.tokenizer.decode([id for id in text if id != EOS]) for text in expected
    ]
    assert [[token.id for token in model.stream(prompt, max_new_tokens=30)] for prompt in PROMPTS] == expected
    rows = hf.GPTNeoXForCausalLM(model).generate(np.array(PROMPTS), max_new_tokens=30)
    assert [until_end(row[2:]) for row in rows.tolist()] == expected
    assert all((row[2 + len(text) :] == EOS).all() for row, text in zip(rows, expected, strict=True))


def test_several_ends(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path], unended: list[list[int]], binary: Path
) -> None:
    """A list in config.json, as transformers has it: each of its ids ends a text; the first is the tokenizer's."""
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": VOCAB_SIZE, "seed": 1}
    folder = make_checkpoint(**shape, config_updates={"bos_token_id": BOS, "eos_token_id": [EOS, 0]})
    model = pythia_cpu.load(path := make_model_file(folder, "f32"))
    assert (model.config.eos_token_id, model.tokenizer.eos_token_id) == ([EOS, 0], EOS)
    expected = [text[: min([text.index(end) + 1 for end in (EOS, 0) if end in text] or [30])] for text in unended]
    assert expected != [until_end(text) for text in unended]
    assert [text.tokens for text in model.generate(PROMPTS, max_new_tokens=30)] == expected
    assert [[token.id for token in model.stream(prompt, max_new_tokens=30)] for prompt in PROMPTS] == expected
    beams: dict[str, Any] = {"max_new_tokens": 12, "num_beams": 3}
    assert model.generate(PROMPTS, **beams) == model.generate(PROMPTS, **beams, eos_token_id=[EOS, 0])
    rows = hf.GPTNeoXForCausalLM(model).generate(np.array(PROMPTS), max_new_tokens=30)
    assert [row[2 : 2 + len(text)] for row, text in zip(rows.tolist(), expected, strict=True)] == expected
    assert all((row[2 + len(text) :] == EOS).all() for row, text in zip(rows, expected, strict=True))

    lines = [model.tokenizer.decode(prompt, skip_special_tokens=False) for prompt in PROMPTS]
    command = [binary, "generate", "-m", path, "-n", "30", "--batch", "-"]
    result = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True)
    found = [json.loads(line)["tokens"] for line in result.stdout.splitlines()]
    assert found == [text.tokens for text in model.generate(lines, max_new_tokens=30)]
    assert any(tokens[-1] == 0 and len(tokens) < 30 for tokens in found)


def test_beams_end_there(model: pythia_cpu.Model) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 3}
    found, expected, other = (
        model.generate(PROMPTS, **options, **ends) for ends in ({}, {"eos_token_id": EOS}, {"eos_token_id": 0})
    )
    assert found == expected != other


def test_texts_are_scored_after_it(model: pythia_cpu.Model) -> None:
    ids = model.tokenizer.encode(TEXT)
    whole = model.score([EOS, *ids])
    assert model.perplexity(ids).nll == model.perplexity(TEXT).nll == pytest.approx(-whole.total, rel=1e-12)
    assert model.score([], ids) == model.score("", TEXT) == model.score([EOS], ids)
    assert model.score([], [ids, ids[:2]]) == model.score([EOS], [ids, ids[:2]])
    words = model.word_surprisals(TEXT)
    assert math.fsum(word.nats for word in words) == pytest.approx(-whole.total, rel=1e-12)
    for other in (0, BOS):
        assert model.score([other, *ids]).total != pytest.approx(whole.total, rel=1e-3)


def test_memorization_without_it(model: pythia_cpu.Model) -> None:
    rows = np.random.default_rng(1).integers(0, VOCAB_SIZE, (20, 24))

    def greedy(**options: Any) -> np.ndarray:
        texts = model.generate(rows[:, :4], max_new_tokens=20, ignore_eos=True, **options)
        return np.array([text.tokens for text in texts])

    rows = np.concatenate([rows[:, :4], greedy(logit_bias={EOS: -math.inf})], axis=1)
    options: dict[str, Any] = {"prefix_length": 4, "continuation_length": 20}
    assert model.memorization(rows, **options, suppress_eos=True).exact_match.all()
    assert (model.memorization(rows, **options).matches == (greedy() == rows[:, 4:]).sum(1)).all()
    for bias in ({}, {0: -math.inf}):
        assert (greedy(logit_bias=bias) != rows[:, 4:]).any()
