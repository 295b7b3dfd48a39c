"""A draft changes how long generation takes, and no token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu

PROMPTS = ["Once upon a time", "It was", "x"]


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


@pytest.fixture(scope="module", params=["quantized", "random"])
def draft(
    request: pytest.FixtureRequest,
    mini_checkpoint: Path,
    make_checkpoint: Callable[..., Path],
    make_model_file: Callable[..., Path],
) -> pythia_cpu.Model:
    """The model itself in few bits, which is mostly right, and a random one with a short context, which never is."""
    if request.param == "quantized":
        return pythia_cpu.load(make_model_file(mini_checkpoint, "q4"))
    small = make_checkpoint(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=4096, max_position_embeddings=20
    )
    return pythia_cpu.load(make_model_file(small))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.2, "frequency_penalty": 0.1},
        {"do_sample": True, "temperature": 0.8, "top_k": 40, "seed": 3},
        {"do_sample": True, "seed": 4, "presence_penalty": 0.5, "num_return_sequences": 2},
        {"eos_token_id": [13, 15]},
        {"stop": ["the", "w a"]},
        {"stop": "never to be seen", "do_sample": True, "seed": 1},
        {"logprobs": 3},
        {"logprobs": 0, "do_sample": True, "seed": 9, "stop": "\n"},
        {"max_kv_bytes": 1},
        {"max_new_tokens": 0},
        {"max_new_tokens": 1},
    ],
    ids=str,
)
def test_the_tokens_are_those_of_plain_decoding(
    model: pythia_cpu.Model, draft: pythia_cpu.Model, options: dict[str, Any]
) -> None:
    options = {"max_new_tokens": 30, **options}
    plain, drafted = model.generate(PROMPTS, **options), model.generate(PROMPTS, draft=draft, **options)
    assert drafted == plain
    for a, b in zip(np.ravel(drafted), np.ravel(plain), strict=True):
        assert a.top_logprobs == b.top_logprobs
        np.testing.assert_array_equal(np.array(a.logprobs), np.array(b.logprobs))
    if not {"num_return_sequences", "max_kv_bytes"} & set(options):
        stream = model.stream(PROMPTS[0], draft=draft, **options)
        assert "".join(token.text for token in stream) == plain[0].text
        assert stream.finish_reason == plain[0].finish_reason


def test_many_prompts_together(model: pythia_cpu.Model, draft: pythia_cpu.Model) -> None:
    prompts = [[i, 3 * i, 7] for i in range(1, 150)]
    assert model.generate(prompts, draft=draft, max_new_tokens=9) == model.generate(prompts, max_new_tokens=9)


def test_acceptance(model: pythia_cpu.Model, draft: pythia_cpu.Model) -> None:
    rate = model.generate(PROMPTS[0], draft=draft, max_new_tokens=80).draft_acceptance
    assert rate is not None
    assert 0 <= rate < 1
    assert (rate > 0.3) == (draft.config.hidden_size == 128)
    assert model.generate(PROMPTS[0], draft=model, max_new_tokens=40).draft_acceptance == 1
    assert model.generate(PROMPTS[0]).draft_acceptance is None


def test_full_context(model: pythia_cpu.Model, draft: pythia_cpu.Model) -> None:
    for room in (0, 1, 7):
        prompt = [5] * (model.context_length - room)
        options: dict[str, Any] = {"max_new_tokens": 50, "ignore_eos": True}
        assert model.generate(prompt, draft=draft, **options) == model.generate(prompt, **options)


def test_errors(
    model: pythia_cpu.Model, make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> None:
    with pytest.raises(ValueError, match="num_beams is 2 with a draft"):
        model.generate("Once", draft=model, num_beams=2)
    with pytest.raises(ValueError, match="max_new_tokens is -1"):
        model.generate("Once", draft=model, max_new_tokens=-1)
    with pytest.raises(ValueError, match="draft is of type str"):
        model.generate("Once", draft="pythia-70m")
    other = make_checkpoint(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=4100)
    with pytest.raises(ValueError, match="vocab_size is 4100, expected the model's 4096"):
        model.generate("Once", draft=pythia_cpu.load(make_model_file(other)))
