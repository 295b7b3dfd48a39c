"""A draft changes how long generation takes, and no token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from checkpoints import neox_config, random_tensors, write_checkpoint

PROMPTS = ["Once upon a time", "It was", "x"]
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


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
    return pythia_cpu.load(make_model_file(make_checkpoint(**SMALL, max_position_embeddings=20)))


@pytest.fixture(scope="module")
def padded(make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]) -> dict[int, pythia_cpu.Model]:
    """A random model with 340 tokens, and the same one without the last 40."""
    tensors = random_tensors(neox_config(vocab_size=340, **SMALL), seed=1)
    models = {}
    for size in (300, 340):
        cut = {name: tensor[:size] if len(tensor) == 340 else tensor for name, tensor in tensors.items()}
        models[size] = pythia_cpu.load(make_model_file(make_checkpoint(tensors=cut, vocab_size=size, **SMALL)))
    return models


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.2, "frequency_penalty": 0.1},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 1, "do_sample": True, "seed": 2},
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


def test_acceptance_of_a_stream(model: pythia_cpu.Model, draft: pythia_cpu.Model) -> None:
    stream = model.stream(PROMPTS[0], draft=draft, max_new_tokens=40)
    next(stream)
    assert stream.draft_acceptance is None
    list(stream)
    assert stream.draft_acceptance == model.generate(PROMPTS[0], draft=draft, max_new_tokens=40).draft_acceptance
    stream = model.stream(PROMPTS[0])
    list(stream)
    assert stream.draft_acceptance is None


def test_a_stream_has_no_end_before_its_last_token(model: pythia_cpu.Model) -> None:
    """Though several tokens are known at once."""
    for length in (20, 21, 22, 23):
        stream = model.stream(PROMPTS[0], draft=model, max_new_tokens=length, ignore_eos=True)
        ends = [(stream.finish_reason, stream.draft_acceptance) for _ in stream]
        assert ends == [(None, None)] * (length - 1) + [("length", 1.0)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.3, "logprobs": 2},
        {"do_sample": True, "seed": 5, "num_return_sequences": 4},
        {"do_sample": True, "seed": 6, "top_k": 50, "presence_penalty": 0.5, "logit_bias": {3: 2.0, 299: 1.0}},
    ],
    ids=str,
)
@pytest.mark.parametrize(("own", "drafts"), [(300, 340), (340, 300)])
def test_vocabularies_of_different_sizes(
    padded: dict[int, pythia_cpu.Model], own: int, drafts: int, options: dict[str, Any]
) -> None:
    """As Pythia's are. The draft is always right, but for tokens that one of the two does not know."""
    model, draft = padded[own], padded[drafts]
    if "logit_bias" in options:
        options = {**options, "logit_bias": {**options["logit_bias"], own - 1: 2.0}}
    options = {**options, "max_new_tokens": 40, "eos_token_id": []}
    prompts = [[1, 2, 3], [7], [5, 6] * 20, list(range(100, 120)), [own - 1, 4]]
    plain, drafted = model.generate(prompts, **options), model.generate(prompts, draft=draft, **options)
    assert drafted == plain
    texts = list(np.ravel(drafted))
    assert any(text.draft_acceptance for text in texts)
    for text, other in zip(texts, np.ravel(plain), strict=True):
        assert text.top_logprobs == other.top_logprobs
        if max(text.prompt_tokens) >= drafts:
            assert text.draft_acceptance is None
    if options.get("do_sample"):
        assert own < drafts or any(max(text.tokens) >= drafts for text in texts)


def test_a_tokenizer_saved_anew_is_the_same(
    model: pythia_cpu.Model, mini_checkpoint: Path, make_model_file: Callable[..., Path], tmp_path: Path
) -> None:
    def saved(name: str, tokenizer: dict[str, Any]) -> pythia_cpu.Model:
        folder = write_checkpoint(tmp_path / name, **SMALL)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1))
        return pythia_cpu.load(make_model_file(folder))

    tokenizer = json.loads((mini_checkpoint / "tokenizer.json").read_text())
    options: dict[str, Any] = {"max_new_tokens": 9}
    assert model.generate("Once", draft=saved("same", tokenizer), **options) == model.generate("Once", **options)
    changed = {**tokenizer, "model": {**tokenizer["model"], "merges": tokenizer["model"]["merges"][:-1]}}
    for name, other in (("merges", changed), ("normalizer", {**tokenizer, "normalizer": None})):
        with pytest.raises(ValueError, match="another tokenizer than the model"):
            model.generate("Once", draft=saved(name, other), **options)


def test_full_context(model: pythia_cpu.Model, draft: pythia_cpu.Model) -> None:
    for room in (0, 1, 7):
        prompt = [5] * (model.context_length - room)
        options: dict[str, Any] = {"max_new_tokens": 50, "ignore_eos": True}
        assert model.generate(prompt, draft=draft, **options) == model.generate(prompt, **options)


def test_errors(model: pythia_cpu.Model) -> None:
    with pytest.raises(ValueError, match="num_beams=2 and a draft do not go together"):
        model.generate("Once", draft=model, num_beams=2)
    with pytest.raises(ValueError, match="max_new_tokens is -1"):
        model.generate("Once", draft=model, max_new_tokens=-1)
    with pytest.raises(ValueError, match="draft is of type str"):
        model.generate("Once", draft="pythia-70m")
