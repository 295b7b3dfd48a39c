"""Generation end to end on the shipped model: batches, streams, stops, seeds, log-probabilities."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import pythia_cpu
from pythia_cpu import _core

PROMPTS = ["Once upon a time", "It was", "\n\nCHAPTER XII.\n\n", "“My dear,” said", "x", "The old man looked at " * 30]
SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.9, "top_k": 50, "top_p": 0.95, "seed": 5}


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


def assert_same(a: pythia_cpu.Generation, b: pythia_cpu.Generation) -> None:
    """Bit by bit."""
    assert a == b
    assert a.top_logprobs == b.top_logprobs
    if a.logprobs is None:
        assert b.logprobs is None
    else:
        np.testing.assert_array_equal(a.logprobs, b.logprobs)


@pytest.mark.parametrize("options", [{}, SAMPLING, {**SAMPLING, "repetition_penalty": 1.3, "logprobs": 2}], ids=str)
def test_batch_gives_what_each_prompt_gives_alone(model: pythia_cpu.Model, options: dict[str, Any]) -> None:
    prompts = PROMPTS * 25  # more than run at once
    batch = model.generate(prompts, max_new_tokens=12, **options)
    assert [g.prompt_tokens for g in batch] == [model.tokenizer.encode(p) for p in prompts]
    for i, prompt in enumerate(PROMPTS):
        alone = model.generate(prompt, max_new_tokens=12, **options)
        for same in batch[i :: len(PROMPTS)]:
            assert_same(same, alone)


@pytest.mark.parametrize("threads", [1, 3])
def test_draws_are_those_of_the_sampler_alone(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path], threads: int
) -> None:
    """Which gets the logits without their maxima. Together, with and without penalties, on a vocabulary with tails."""
    path = make_model_file(
        make_checkpoint(hidden_size=64, num_attention_heads=2, num_hidden_layers=2, vocab_size=4099), "q8"
    )
    model = _core.Model.open(str(path), threads, "")
    penalties = {
        "repetition_penalty": 1.5,
        "frequency_penalty": 0.7,
        "logit_bias": [(5, 9.0), (4098, 8.0), (700, -math.inf)],
    }
    # The k-th largest score is sought among the maxima of blocks, of groups, and among all.
    ranks: list[dict[str, float]] = [{"top_k": 5}, {"top_k": 30}, {"top_k": 1000}, {"top_k": 40, "top_p": 0.8}]
    filters = [{}, {"temperature": 0.3}, {"top_p": 0.9}, {"min_p": 0.3}, *ranks]
    sampling = [
        _core.SamplingOptions(do_sample=True, **filter, **more) for filter in filters for more in ({}, penalties)
    ]
    sampling.append(_core.SamplingOptions(do_sample=False, **penalties))
    prompt = [*range(0, 4099, 50), 5, 4098]
    for together in (sampling, *[[alone] for alone in sampling]):
        generator = _core.Generator(_core.GenerationEngine(model))
        for options in together:
            generator.add(prompt, options, max_new_tokens=8, stop=[], eos_token_ids=[], seed=9)
        generated: list[list[int]] = [[] for _ in together]
        while not generator.done:
            for request, id, *_ in generator.step():
                generated[request].append(id)
        for options, tokens in zip(together, generated, strict=True):
            assert len(tokens) == 8
            logits = model.forward([(_core.KvCache(model), np.array(prompt + tokens, np.int32), 9)])
            for step, id in enumerate(tokens):
                drawn = _core.sample_logits(
                    logits[step], options, prompt=prompt, generated=tokens[:step], seed=9, first_step=step
                )
                assert drawn[0] == id


def test_threads_do_not_change_the_text() -> None:
    texts = [pythia_cpu.load(threads=n).generate(PROMPTS, max_new_tokens=30, **SAMPLING) for n in (1, 2, 3)]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("options", [{}, SAMPLING, {**SAMPLING, "stop": ["the", "\n\n"]}], ids=str)
def test_stream_joins_to_generate(model: pythia_cpu.Model, prompt: str, options: dict[str, Any]) -> None:
    whole = model.generate(prompt, max_new_tokens=40, logprobs=0, **options)
    stream = model.stream(prompt, max_new_tokens=40, **options)
    assert stream.finish_reason is None
    tokens = list(stream)
    assert "".join(token.text for token in tokens) == whole.text
    assert [token.id for token in tokens] == whole.tokens
    np.testing.assert_array_equal(np.array([token.logprob for token in tokens], np.float32), whole.logprobs)
    assert stream.finish_reason == whole.finish_reason
    assert stream.prompt_tokens == whole.prompt_tokens
    assert stream.seed == whole.seed
    assert list(stream) == []


def test_text_is_the_decoded_tokens(model: pythia_cpu.Model) -> None:
    """Also for high temperatures, whose byte tokens are often no UTF-8; no piece of a stream splits a character."""
    broken = 0
    for seed in range(40):
        options = {"do_sample": True, "temperature": 6.0, "max_new_tokens": 60, "ignore_eos": True, "seed": seed}
        generation = model.generate("A", **options)
        assert generation.text == model.tokenizer.decode(generation.tokens)
        assert "".join(token.text for token in model.stream("A", **options)) == generation.text
        broken += "\ufffd" in generation.text
    assert broken > 5


def test_prompts_of_every_form_are_the_same(model: pythia_cpu.Model) -> None:
    ids = model.tokenizer.encode("Once upon a time")
    expected = model.generate("Once upon a time")
    for prompt in (ids, tuple(ids), np.array(ids), np.array(ids, np.uint16), torch.tensor(ids)):
        assert model.generate(prompt) == expected
    for prompts in ([ids, ids], np.array([ids, ids]), ["Once upon a time", ids], (np.array(ids), "Once upon a time")):
        assert model.generate(prompts) == [expected, expected]


def test_num_return_sequences(model: pythia_cpu.Model) -> None:
    options = {**SAMPLING, "max_new_tokens": 16}
    several = model.generate("Once", num_return_sequences=4, **options)
    assert several[0] == model.generate("Once", **options)
    assert len({generation.text for generation in several}) == 4
    nested = model.generate(["Once", "It was"], num_return_sequences=3, **options)
    assert nested[0] == several[:3]
    assert [len(texts) for texts in nested] == [3, 3]


def test_seeds(model: pythia_cpu.Model) -> None:
    def text(**changes: Any) -> str:
        return model.generate("Once", max_new_tokens=16, **{**SAMPLING, **changes}).text

    assert text(seed=0) == text(seed=0)
    assert len({text(seed=seed) for seed in (0, 1, 2**32, 2**63, 2**64 - 1)}) == 5
    random = model.generate(["Once", "Once"], max_new_tokens=16, **{**SAMPLING, "seed": None})
    assert random[0].seed != random[1].seed
    assert [text(seed=generation.seed) for generation in random] == [generation.text for generation in random]
    assert model.generate("Once", seed=3).seed is None  # greedy: nothing is drawn


def test_logprobs_are_the_log_softmax_of_the_logits(model: pythia_cpu.Model) -> None:
    """Of the model's own distribution, whatever the sampling options."""
    for options in ({}, {**SAMPLING, "logit_bias": {13: -100.0}, "presence_penalty": 1.0}):
        generation = model.generate(PROMPTS[0], max_new_tokens=24, logprobs=5, **options)
        sequence = generation.prompt_tokens + generation.tokens
        logits = model.logits(sequence[:-1])[len(generation.prompt_tokens) - 1 :].astype(np.float64)
        expected = torch.log_softmax(torch.tensor(logits), -1).numpy()
        assert generation.logprobs is not None and generation.top_logprobs is not None
        assert generation.logprobs.dtype == np.float32
        chosen = expected[np.arange(len(generation.tokens)), generation.tokens]
        np.testing.assert_allclose(generation.logprobs, chosen, atol=3e-6)
        for row, top in zip(expected, generation.top_logprobs, strict=True):
            assert [id for id, _ in top] == np.argsort(-row, kind="stable")[:5].tolist()
            np.testing.assert_allclose([logprob for _, logprob in top], np.sort(row)[::-1][:5], atol=3e-6)
    bare = model.generate(PROMPTS[0])
    assert bare.logprobs is None and bare.top_logprobs is None
    assert model.generate(PROMPTS[0], logprobs=0).top_logprobs is None


@pytest.mark.parametrize("weights", ["f32", "q8"])
@pytest.mark.parametrize(
    "options",
    [{}, SAMPLING, {**SAMPLING, "repetition_penalty": 1.4}, {"num_beams": 3}, {"edit": {"hook_embed": lambda x: None}}],
    ids=str,
)
def test_logprobs_are_those_of_scoring_the_text(mini_checkpoint: Path, weights: str, options: dict[str, Any]) -> None:
    """Bit by bit, of all chunks of a vocabulary."""
    model = pythia_cpu.load(mini_checkpoint, weights=weights, threads=2)
    texts = model.generate(PROMPTS, max_new_tokens=24, logprobs=3, **options)
    alone = model.generate(PROMPTS[0], max_new_tokens=24, logprobs=0, **options)
    np.testing.assert_array_equal(alone.logprobs, texts[0].logprobs)
    for text, score in zip(
        texts, model.score([t.prompt_tokens for t in texts], [t.tokens for t in texts]), strict=True
    ):
        assert text.logprobs is not None and text.top_logprobs is not None
        np.testing.assert_array_equal(text.logprobs, score.logprobs)
        for id, logprob, top in zip(text.tokens, text.logprobs, text.top_logprobs, strict=True):
            assert dict(top).get(id, logprob) == logprob


def test_greedy_penalties_equal_transformers(mini_checkpoint: Any, model: pythia_cpu.Model) -> None:
    reference = transformers.GPTNeoXForCausalLM.from_pretrained(
        mini_checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.tensor([model.tokenizer.encode(PROMPTS[0])])
    for changes in ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.1, "logit_bias": {13: -3.0, 264: 1.5}}):
        bias = changes.get("logit_bias")
        out = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=48,
            do_sample=False,
            pad_token_id=0,
            repetition_penalty=changes["repetition_penalty"],
            sequence_bias={(id,): value for id, value in bias.items()} if bias else None,
        )
        assert model.generate(PROMPTS[0], max_new_tokens=48, **changes).tokens == out[0, ids.shape[1] :].tolist()


def test_eos(model: pythia_cpu.Model) -> None:
    free = model.generate(PROMPTS[0], max_new_tokens=30)
    eos = free.tokens[7]
    first = free.tokens.index(eos)
    ended = model.generate(PROMPTS[0], max_new_tokens=30, eos_token_id=eos)
    assert ended.finish_reason == "eos"
    assert ended.tokens == free.tokens[: first + 1]
    assert ended.text == model.tokenizer.decode(free.tokens[:first])
    assert model.generate(PROMPTS[0], max_new_tokens=30, eos_token_id=[4000, eos]) == ended
    assert model.generate(PROMPTS[0], max_new_tokens=30, eos_token_id=eos, ignore_eos=True) == free
    # The checkpoint's own eos, made certain by a bias.
    own = model.generate(PROMPTS[0], logit_bias={model.tokenizer.eos_token_id: 1000.0})
    assert (own.finish_reason, own.tokens, own.text) == ("eos", [model.tokenizer.eos_token_id], "")


def test_an_eos_beyond_the_vocabulary_is_none(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> None:
    size: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
    checkpoint = make_checkpoint(**size, config_updates={"bos_token_id": 299, "eos_token_id": 300})
    model = pythia_cpu.load(make_model_file(checkpoint))
    assert (model.config.bos_token_id, model.config.eos_token_id, model.tokenizer.eos_token_id) == (299, None, None)
    assert len(model.generate([5], max_new_tokens=9).tokens) == 9
    assert model.score([5, 6], [7]).tokens == [7]


def test_stop_strings_wherever_tokens_begin(model: pythia_cpu.Model) -> None:
    """Every substring of a text stops it at its first occurrence, and the text is what comes before."""
    free = model.generate(PROMPTS[0], max_new_tokens=30)
    for begin in range(0, 40, 3):
        for length in (1, 2, 5, 12, 30):
            stop = free.text[begin : begin + length]
            stopped = model.generate(PROMPTS[0], max_new_tokens=30, stop=stop)
            assert stopped.text == free.text[: free.text.index(stop)]
            assert stopped.finish_reason == "stop"
            assert stopped.tokens == free.tokens[: len(stopped.tokens)]
            assert stop in model.tokenizer.decode(stopped.tokens)
            assert stop not in model.tokenizer.decode(stopped.tokens[:-1])
            pieces = [token.text for token in model.stream(PROMPTS[0], max_new_tokens=30, stop=stop)]
            assert "".join(pieces) == stopped.text


def test_no_temperature_is_greedy(model: pythia_cpu.Model) -> None:
    assert model.generate(PROMPTS, temperature=0) == model.generate(PROMPTS)
    options: dict[str, Any] = {"repetition_penalty": 1.2, "logprobs": 2}
    assert_same(model.generate("Once", temperature=0, **options), model.generate("Once", **options))


def test_an_interrupted_stream_goes_on(model: pythia_cpu.Model) -> None:
    """With the tokens of the step that the signal came in."""
    ready = threading.Event()

    def interrupt() -> None:
        ready.wait()
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    stream = model.stream(PROMPTS[0], max_new_tokens=500, ignore_eos=True)
    ids: list[int] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # seconds: the other thread runs only while a step does
    try:
        ready.set()
        with pytest.raises(KeyboardInterrupt):
            for token in stream:
                ids.append(token.id)
    finally:
        sys.setswitchinterval(interval)
    thread.join()
    assert len(ids) < 500
    ids += [token.id for token in stream]
    assert ids == model.generate(PROMPTS[0], max_new_tokens=500, ignore_eos=True).tokens


def test_several_stop_strings(model: pythia_cpu.Model) -> None:
    free = model.generate(PROMPTS[0], max_new_tokens=30)
    assert free.text.startswith(", and the other was")
    # The one that ends first wins, even where another began before it.
    assert model.generate(PROMPTS[0], stop=["other was a", "the", "r w"]).text == ", and "
    assert model.generate(PROMPTS[0], stop=["and the other was", "he o"]).text == ", and t"
    for stop in (["and the other", "he o"], ["he o", "and the other"]):  # likewise within a token
        assert model.generate(PROMPTS[0], stop=stop).text == ", and t"
    # Of those that end together, the longest.
    assert model.generate(PROMPTS[0], stop=["other", "the other"]).text == ", and "
    stopped = model.generate(PROMPTS[0], stop="the other")
    assert model.generate(PROMPTS[0], stop="the other", max_new_tokens=len(stopped.tokens)) == stopped
    never = model.generate(PROMPTS[0], max_new_tokens=30, stop=["no such text", "a man who had beer"])
    assert never == free


def test_held_back_text_comes_in_the_end(model: pythia_cpu.Model) -> None:
    """A text that ends in the beginning of a stop string loses nothing."""
    free = model.generate(PROMPTS[0], max_new_tokens=12)
    stop = free.text[-4:] + "never"
    assert model.generate(PROMPTS[0], max_new_tokens=12, stop=stop) == free
    stream = list(model.stream(PROMPTS[0], max_new_tokens=12, stop=stop))
    assert "".join(token.text for token in stream) == free.text


def test_length_limits(model: pythia_cpu.Model) -> None:
    nothing = model.generate(PROMPTS[0], max_new_tokens=0)
    assert (nothing.text, nothing.tokens, nothing.finish_reason) == ("", [], "length")
    assert list(model.stream(PROMPTS[0], max_new_tokens=0)) == []
    assert model.generate([PROMPTS[0]] * 3, max_new_tokens=0) == [nothing] * 3
    assert len(model.generate(PROMPTS[0], max_new_tokens=1).tokens) == 1
    full = list(np.random.default_rng(0).integers(1, 4096, model.context_length))
    # The last position of a full context still predicts one token; then the text ends.
    for room in (0, 1, 5):
        prompt = full[: len(full) - room]
        generation = model.generate(prompt, max_new_tokens=50, ignore_eos=True)
        assert generation.finish_reason == "length"
        assert len(generation.tokens) == room + 1
        assert generation.tokens[0] == int(model.logits(prompt)[-1].argmax())
    assert len(model.generate([0], max_new_tokens=2**62, ignore_eos=True).tokens) == model.context_length


def test_tensors_of_torch(model: pythia_cpu.Model) -> None:
    ids = model.tokenizer.encode("Once upon a time")
    assert model.generate(torch.tensor(ids)) == model.generate(ids)  # type: ignore[call-overload]
    assert model.tokenizer.decode(torch.tensor(ids)) == "Once upon a time"
    assert model.tokenizer.decode(torch.tensor(ids[-1])) == " time"
