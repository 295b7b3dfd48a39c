"""Texts written while activations are changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from bits import assert_same_bits
from pythia_cpu import Generation, Model, _core

PROMPT = "Once upon a time there was"
HOOK = "blocks.2.hook_resid_post"
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_k": 40, "seed": 5}


@pytest.fixture(scope="module")
def model() -> Model:
    return pythia_cpu.load(threads=2)


@pytest.fixture(scope="module")
def steer(model: Model) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    run = model.run(model.tokenizer.encode("It was a dark night"), capture=HOOK)
    direction = 0.3 * run.activations[HOOK][-1]
    return {HOOK: lambda x: x + direction}


def assert_same(found: Generation, expected: Generation) -> None:
    assert found == expected
    if expected.logprobs is not None:
        assert_same_bits(found.logprobs, expected.logprobs)
    assert found.top_logprobs == expected.top_logprobs


@pytest.mark.parametrize("weights", ["f32", "q8", "q4"])
@pytest.mark.parametrize("options", [{}, SAMPLED, {**SAMPLED, "repetition_penalty": 1.3, "top_p": 0.9, "stop": "\n"}])
def test_edits_that_only_look_change_nothing(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path], weights: str, options: dict[str, Any]
) -> None:
    checkpoint = make_checkpoint(hidden_size=72, num_attention_heads=3, num_hidden_layers=2)
    model = pythia_cpu.load(make_model_file(checkpoint, weights), threads=2)
    prompt = np.random.default_rng(1).integers(0, 4000, 600).tolist()  # longer than a pass of a batch
    options = {**options, "max_new_tokens": 12, "logprobs": 3}
    seen: list[tuple[str, tuple[int, ...]]] = []
    found = model.generate(prompt, edit=lambda name, array: seen.append((name, array.shape)), **options)
    assert_same(found, model.generate(prompt, **options))
    names = model.activation_names
    assert [name for name, _ in seen] == names * len(found.tokens)  # the last is not read
    assert seen[0] == ("hook_embed", (600, model.config.hidden_size))
    assert seen[len(names)] == ("hook_embed", (1, model.config.hidden_size))


@pytest.mark.parametrize("options", [{}, SAMPLED])
def test_each_token_is_what_a_session_with_the_edits_gives(model: Model, steer: Any, options: dict[str, Any]) -> None:
    found = model.generate(PROMPT, max_new_tokens=25, edit=steer, logprobs=0, **options)
    assert found.text != model.generate(PROMPT, max_new_tokens=25, **options).text
    session, unread = model.session(), found.prompt_tokens
    sampling = _core.SamplingOptions(**{name: value for name, value in options.items() if name != "seed"})
    for step, (token, logprob) in enumerate(zip(found.tokens, found.logprobs, strict=True)):
        logits = session.run(unread, edit=steer).logits[-1:]
        (chosen,) = _core.sample_logits(logits[0], sampling, seed=options.get("seed", 0), first_step=step)
        assert token == chosen
        np.testing.assert_allclose(logprob, _core.log_softmax(logits)[0, token], rtol=3e-7, atol=3e-7)
        unread = [token]


def test_lists_streams_and_several_texts(model: Model, steer: Any) -> None:
    prompts = [PROMPT, "He said", PROMPT, "It was"]
    options = {**SAMPLED, "max_new_tokens": 15, "edit": steer, "num_return_sequences": 2}
    found = model.generate(prompts, **options)
    for prompt, texts in zip(prompts, found, strict=True):
        assert texts == model.generate(prompt, **options)
        assert texts[0].tokens != texts[1].tokens
    assert dict(model.generate_each(iter(prompts), **options)) == dict(enumerate(found))
    stream = model.stream(PROMPT, max_new_tokens=15, edit=steer, **SAMPLED)
    assert "".join(token.text for token in stream) == found[0][0].text


def test_on_every_instruction_set_and_number_of_threads(model: Model, steer: Any, shipped_model: Path) -> None:
    expected = model.generate(PROMPT, edit=steer, logprobs=2)
    for isa in _core.supported_isas():
        for threads in (1, 3):
            other = pythia_cpu.load(threads=threads)
            other._core = _core.Model.open(str(shipped_model), threads, isa)
            assert_same(other.generate(PROMPT, edit=steer, logprobs=2), expected)


def test_edits_may_use_the_model(model: Model) -> None:
    texts = []
    look = {"hook_embed": lambda x: texts.append(model.generate("He said", max_new_tokens=3).text)}
    assert model.generate(PROMPT, max_new_tokens=4, edit=look) == model.generate(PROMPT, max_new_tokens=4)
    assert texts == [model.generate("He said", max_new_tokens=3).text] * 4


def test_an_edit_that_raises_ends_the_text(model: Model, steer: Any) -> None:
    def fail(array: np.ndarray) -> None:
        if len(array) == 1:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.generate(PROMPT, edit={HOOK: fail})
    stream = model.stream(PROMPT, edit={HOOK: fail})
    next(stream)
    with pytest.raises(KeyError, match="mine"):
        next(stream)
    with pytest.raises(ValueError, match="an earlier step failed"):
        next(stream)
    assert model.generate(PROMPT) == model.generate([PROMPT])[0]


def test_a_prefix_cache_is_not_used(model: Model, steer: Any) -> None:
    prompt = (model.tokenizer.encode(PROMPT) * 20)[:100]
    plain, steered = model.generate(prompt), model.generate(prompt, edit=steer)
    with model.prefix_cache(max_bytes=1 << 26) as cache:
        assert model.generate(prompt, edit=steer) == steered
        assert cache.size_bytes == 0
        assert model.generate(prompt) == plain
        assert model.generate(prompt, edit=steer) == steered
        assert cache.tokens_found == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "num_beams=2 and edit do not go together, expected one of them only"),
        ({"draft": True}, "a draft and edit do not go together, expected one of them only"),
        ({"edit": {"blocks.9.hook_resid_post": np.negative}}, "the model has no activation 'blocks.9.hook_resid_post'"),
        ({"edit": 3}, "edit is of type int, expected functions by name"),
        ({"edit": {HOOK: lambda x: x[0]}}, f"the edit of {HOOK} returned shape"),
        ({"edit": {HOOK: lambda x: x * np.nan}}, f"the edit of {HOOK} gave values that are not finite"),
    ],
)
@pytest.mark.parametrize("method", ["generate", "stream"])
def test_refusals(model: Model, steer: Any, method: str, options: dict[str, Any], message: str) -> None:
    options = {"edit": steer, **options}
    if "draft" in options:
        options["draft"] = model
    with pytest.raises(ValueError, match=re.escape(message)):
        list(getattr(model, method)(PROMPT, **options)) if method == "stream" else model.generate(PROMPT, **options)


def test_the_core_takes_no_draft_or_cache_with_an_inspector(model: Model) -> None:
    engine, inspector = _core.GenerationEngine(model._core), ({"hook_embed"}, lambda sequence, name, array: None)
    for aids in ({"draft": model._core}, {"prefix_cache": _core.PrefixCache(model._core, 1 << 20)}):
        with pytest.raises(ValueError, match="an inspector came with a draft or a prefix cache"):
            _core.Generator(engine, inspector=inspector, **aids)


def test_edits_of_logits(model: Model) -> None:
    """What the next token is chosen from."""
    shapes = []

    def ban(logits: np.ndarray) -> np.ndarray:
        shapes.append(logits.shape)
        banned = logits.copy()
        banned[:, ::2] = -np.inf
        return banned

    found = model.generate(PROMPT, max_new_tokens=12, edit={"logits": ban}, ignore_eos=True, logprobs=1)
    assert shapes == [(1, model.config.vocab_size)] * 12
    biased = model.generate(
        PROMPT, max_new_tokens=12, logit_bias=dict.fromkeys(range(0, 4096, 2), -np.inf), ignore_eos=True
    )
    assert found.tokens == biased.tokens and all(token % 2 for token in found.tokens)
    ids = model.tokenizer.encode(PROMPT)
    run = model.run(ids, edit={"logits": ban, HOOK: lambda x: x})
    assert_same_bits(run.logits, ban(model.logits(ids)))
    assert "logits" not in run.activations and "logits" not in model.activation_names
    expected = run.logits[-1] - np.log(np.exp(run.logits[-1].astype(np.float64)).sum())
    assert found.logprobs[0] == pytest.approx(expected.max(), abs=1e-5)
    sampled = model.generate(PROMPT, max_new_tokens=12, edit={"logits": ban}, **SAMPLED)
    assert all(token % 2 for token in sampled.tokens)
    for edit, message in (
        (lambda x: np.full_like(x, -np.inf), "gave no usable logits"),
        (lambda x: x * np.nan, "the edit of logits gave values that are not finite"),
        (lambda x: x + np.inf, "the edit of logits gave values that are not finite"),
        (lambda x: x[:, 1:], "the edit of logits returned shape"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(PROMPT, edit={"logits": edit})
    with pytest.raises(ValueError, match="edit has a function for the logits, and logits is False"):
        model.run(ids, edit={"logits": ban}, logits=False)
    with pytest.raises(ValueError, match="the logits are no activation"):
        model.run(ids, capture="logits")


@pytest.mark.parametrize("weights", ["f32", "q8"])
def test_prompts_of_any_lengths_together(
    make_model_file: Callable[..., Path], mini_checkpoint: Path, weights: str
) -> None:
    """Each is read whole, also where it does not fit in a pass, and as if it were alone."""
    model = pythia_cpu.load(make_model_file(mini_checkpoint, weights))
    rng = np.random.default_rng(3)
    common = rng.integers(2, 4096, 40).tolist()
    prompts = [common + rng.integers(2, 4096, n).tolist() for n in (1, 700, 5, 1500, 40, 1)] + [[7], common]
    lengths: set[int] = set()

    def change_the_last(x: np.ndarray) -> np.ndarray:
        lengths.add(len(x))
        x = x.copy()
        x[-1] *= 1.5
        return x

    edit = {"blocks.1.hook_resid_post": change_the_last, "blocks.3.attn.hook_attn_scores": lambda s: s * 0.9}
    options = {"max_new_tokens": 6, "edit": edit, "logprobs": 0, "ignore_eos": True}
    together = model.generate(prompts, **options)
    assert lengths == {1, *map(len, prompts)}
    for prompt, found in zip(prompts, together, strict=True):
        assert_same(found, model.generate(prompt, **options))
