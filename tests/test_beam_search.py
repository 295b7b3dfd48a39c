"""Beam search finds what transformers finds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
import transformers

import pythia_cpu
from pythia_cpu import _beam_search, _core
from pythia_cpu._beam_search import length_factor
from reference import Reference

PROMPTS = ["Once upon a time", "It was", "The old man looked at the door, and", "x"]
PAD = 1


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


def check(model: pythia_cpu.Model, reference: Reference, prompt: list[int], **options: Any) -> list[Any]:
    """The same texts in the same order as transformers'."""
    bias = options.pop("logit_bias", None)
    ids = torch.tensor([prompt])
    theirs = reference.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=PAD,
        do_sample=False,
        sequence_bias={(id,): value for id, value in bias.items()} if bias else None,
        **options,
    )[:, len(prompt) :].tolist()
    ours = model.generate(prompt, logit_bias=bias, **options)
    texts = ours if isinstance(ours, list) else [ours]
    width = max(len(text.tokens) for text in texts)
    assert [text.tokens + [PAD] * (width - len(text.tokens)) for text in texts] == theirs
    return texts


@pytest.mark.parametrize(("prompt", "num_beams"), list(zip(PROMPTS, (2, 3, 5, 8), strict=True)))
def test_shipped_model(
    model: pythia_cpu.Model,
    mini_checkpoint: Path,
    reference: Callable[[Path], Reference],
    prompt: str,
    num_beams: int,
) -> None:
    ids = model.tokenizer.encode(prompt)
    texts = check(
        model, reference(mini_checkpoint), ids, num_beams=num_beams, num_return_sequences=num_beams, max_new_tokens=24
    )
    assert len({text.text for text in texts}) == num_beams
    for text in texts:
        assert text.text == model.tokenizer.decode(text.tokens)
        assert (text.finish_reason, text.seed, text.prompt_tokens) == ("length", None, ids)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.5])
def test_ends_of_text(
    model: pythia_cpu.Model,
    mini_checkpoint: Path,
    reference: Callable[[Path], Reference],
    early_stopping: Any,
    length_penalty: float,
) -> None:
    """With the comma, the full stop and such as ends of text, beams finish all the time."""
    reasons = set()
    for prompt, eos, num_beams in ((PROMPTS[0], 13, 3), (PROMPTS[1], [13, 15, 282], 4)):
        texts = check(
            model,
            reference(mini_checkpoint),
            model.tokenizer.encode(prompt),
            num_beams=num_beams,
            num_return_sequences=2,
            max_new_tokens=12,
            eos_token_id=eos,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
        )
        ends = [eos] if isinstance(eos, int) else eos
        for text in texts:
            reasons.add(text.finish_reason)
            assert (text.finish_reason == "eos") == (text.tokens[-1] in ends)
            kept = text.tokens[:-1] if text.finish_reason == "eos" else text.tokens
            assert text.text == model.tokenizer.decode(kept)
    if length_penalty <= 1:  # more favours texts that go on
        assert "eos" in reasons


@pytest.mark.parametrize("num_beams", [2, 3])
def test_all_of_the_likeliest_end(
    model: pythia_cpu.Model, mini_checkpoint: Path, reference: Callable[[Path], Reference], num_beams: int
) -> None:
    """Of more ends of text than two for each beam, and yet some beams go on."""
    for prompt in PROMPTS[:2]:
        ids = model.tokenizer.encode(prompt)
        ends = np.argsort(-model.logits(ids)[-1])[:12].tolist()
        texts = check(
            model,
            reference(mini_checkpoint),
            ids,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_new_tokens=10,
            eos_token_id=ends,
            logit_bias=dict.fromkeys(ends, 2.0),
            length_penalty=2.0,
            early_stopping="never",
        )
        assert sorted({len(text.tokens) for text in texts}) == [1, 10]


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"logit_bias": {13: -2.0, 264: 1.0}},
        {"repetition_penalty": 0.8},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 1, "repetition_penalty": 1.1},
    ],
    ids=str,
)
def test_penalties(
    model: pythia_cpu.Model, mini_checkpoint: Path, reference: Callable[[Path], Reference], options: dict[str, Any]
) -> None:
    for prompt in PROMPTS:
        check(
            model, reference(mini_checkpoint), model.tokenizer.encode(prompt), num_beams=4, max_new_tokens=20, **options
        )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"presence_penalty": 0.7},
        {"frequency_penalty": 0.9},
        {"presence_penalty": -0.6, "frequency_penalty": 1.1, "repetition_penalty": 1.4},
        {"repetition_penalty": 1.7, "logit_bias": {1: 4.0, 3: -1.5}},
    ],
    ids=str,
)
def test_all_texts_of_a_small_vocabulary(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path], options: dict[str, Any]
) -> None:
    """With a beam for each text of two tokens, the search ranks all of three, by scores that are summed up here."""
    checkpoint = make_checkpoint(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=5)
    model = pythia_cpu.load(make_model_file(checkpoint))
    prompt, scores = [2, 2, 4], {}
    for text in itertools.product(range(5), repeat=3):
        scores[text] = 0.0
        for i, id in enumerate(text):
            before = text[:i]
            logprobs = _core.log_softmax(model.logits([*prompt, *before])[-1:])[0].astype(float)
            for other, bias in options.get("logit_bias", {}).items():
                logprobs[other] += bias
            for other in {*prompt, *before}:
                factor = options.get("repetition_penalty", 1.0)
                logprobs[other] *= factor if logprobs[other] < 0 else 1 / factor
            for other in before:
                logprobs[other] -= options.get("frequency_penalty", 0.0)
            for other in set(before):
                logprobs[other] -= options.get("presence_penalty", 0.0)
            scores[text] += logprobs[id]
    texts = model.generate(prompt, num_beams=25, num_return_sequences=25, max_new_tokens=3, ignore_eos=True, **options)
    assert [tuple(text.tokens) for text in texts] == sorted(scores, key=lambda text: -scores[text])[:25]


@pytest.mark.parametrize("parallel", [True, False])
def test_random_models(
    make_checkpoint: Callable[..., Path],
    make_model_file: Callable[..., Path],
    reference: Callable[[Path], Reference],
    parallel: bool,
) -> None:
    checkpoint = make_checkpoint(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=300, parallel=parallel
    )
    random = pythia_cpu.load(make_model_file(checkpoint, "f32"))
    rng = np.random.default_rng(5)
    for num_beams in (2, 4, 7):
        prompt = rng.integers(2, 300, 6).tolist()
        check(random, reference(checkpoint), prompt, num_beams=num_beams, num_return_sequences=num_beams,
              max_new_tokens=16, eos_token_id=list(range(2, 40)))  # fmt: skip


@pytest.mark.parametrize("stop", [["the"], [" a", "man"], [", a", "\n"], ["never to be seen"]], ids=str)
def test_stop_strings(
    model: pythia_cpu.Model, mini_checkpoint: Path, reference: Callable[[Path], Reference], stop: list[str]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(mini_checkpoint)
    reasons = set()
    for prompt, early_stopping in itertools.product(PROMPTS, (True, False)):
        ids = model.tokenizer.encode(prompt)
        theirs = reference(mini_checkpoint).model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), pad_token_id=PAD,
            do_sample=False, num_beams=3, num_return_sequences=3, max_new_tokens=16, stop_strings=stop,
            early_stopping=early_stopping,
            tokenizer=tokenizer,
        )[:, len(ids) :].tolist()  # fmt: skip
        options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 3, "early_stopping": early_stopping}
        ours = model.generate(ids, max_new_tokens=16, stop=stop, **options)
        width = max(len(text.tokens) for text in ours)
        assert [text.tokens + [PAD] * (width - len(text.tokens)) for text in ours] == theirs
        for text in ours:
            whole = model.tokenizer.decode(text.tokens)
            assert not any(string in text.text for string in stop)
            assert (text.text != whole) == (text.finish_reason == "stop") == any(string in whole for string in stop)
            reasons.add(text.finish_reason)
    assert ("stop" in reasons) == ("never" not in stop[0])


def test_logprobs(model: pythia_cpu.Model) -> None:
    """Those of the model for the text's own tokens, whatever the penalties."""
    for options in ({}, {"repetition_penalty": 1.2, "eos_token_id": [13, 15]}):
        plain = model.generate(PROMPTS[0], num_beams=4, num_return_sequences=4, max_new_tokens=12, **options)
        texts = model.generate(
            PROMPTS[0], num_beams=4, num_return_sequences=4, max_new_tokens=12, logprobs=2, **options
        )
        assert texts == plain
        assert plain[0].logprobs is None and plain[0].top_logprobs is None
        for text in texts:
            logits = model.logits(text.prompt_tokens + text.tokens[:-1])[len(text.prompt_tokens) - 1 :]
            expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
            assert text.logprobs is not None and text.top_logprobs is not None
            np.testing.assert_allclose(text.logprobs, expected[np.arange(len(text.tokens)), text.tokens], atol=3e-6)
            for row, top in zip(expected, text.top_logprobs, strict=True):
                assert [id for id, _ in top] == np.argsort(-row, kind="stable")[:2].tolist()
    options = {"num_beams": 2, "repetition_penalty": 1.5}
    chosen, more = (model.generate(PROMPTS[0], **options, logprobs=count) for count in (0, 1))
    assert chosen.top_logprobs is None and more.top_logprobs is not None
    np.testing.assert_array_equal(chosen.logprobs, more.logprobs)


def test_a_batch_gives_what_each_prompt_gives_alone(model: pythia_cpu.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {
        "num_beams": 4,
        "num_return_sequences": 3,
        "max_new_tokens": 10,
        "eos_token_id": [13, 15],
    }
    alone = [model.generate(prompt, **options) for prompt in PROMPTS]
    assert model.generate(PROMPTS * 6, **options) == alone * 6
    with monkeypatch.context() as patch:
        patch.setattr(_beam_search, "_MAX_ROWS", 1)
        assert model.generate(PROMPTS, **options) == alone
    assert model.generate(PROMPTS, max_kv_bytes=1, **options) == alone
    del options["num_return_sequences"]
    assert model.generate(PROMPTS, **options) == [several[0] for several in alone]


def test_prompts_are_taken_as_there_is_room(model: pythia_cpu.Model) -> None:
    taken = 0

    def endless() -> Iterator[list[int]]:
        nonlocal taken
        for i in itertools.count(1):
            taken += 1
            yield [i]

    for limit, most in ((None, 100 + 33), (1, 100 + 2)):
        taken = 0
        options: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 2}
        results = model.generate_each(endless(), max_kv_bytes=limit, **options)
        found = dict(itertools.islice(results, 100))
        assert (len(found), taken <= most) == (100, True)
        assert found[7] == model.generate([8], **options)
    cache = 2 * 4 * model.config.num_hidden_layers * model.config.hidden_size * 3  # of two tokens and the last one
    for limit, together in ((None, 32), (12 * cache, 3), (12 * cache - 1, 2), (4 * cache, 1)):
        taken = 0
        next(model.generate_each(endless(), max_kv_bytes=limit, **options))
        assert taken == together + 1
    with pytest.raises(ValueError, match=r"prompts\[1\] has no tokens"):
        list(model.generate_each(["Once", ""], **options))
    assert list(model.generate_each([], **options)) == []


def test_beams_find_likelier_texts_than_greedy_decoding(model: pythia_cpu.Model) -> None:
    def total(tokens: list[int], prompt: list[int]) -> float:
        logits = torch.from_numpy(model.logits(prompt + tokens[:-1])[len(prompt) - 1 :])
        return float(torch.log_softmax(logits.double(), -1)[range(len(tokens)), tokens].sum())

    gains = []
    for prompt in PROMPTS:
        ids = model.tokenizer.encode(prompt)
        greedy, beam = (model.generate(ids, num_beams=n, max_new_tokens=16, ignore_eos=True).tokens for n in (1, 6))
        gains.append(total(beam, ids) - total(greedy, ids))
    assert max(gains) > 1


def test_limits(model: pythia_cpu.Model) -> None:
    nothing = model.generate("Once", num_beams=3, max_new_tokens=0, num_return_sequences=2)
    assert [(one.tokens, one.text, one.finish_reason) for one in nothing] == [([], "", "length")] * 2
    prompt = np.random.default_rng(0).integers(1, 4096, model.context_length - 2)
    full = model.generate(prompt, num_beams=2, max_new_tokens=50, ignore_eos=True)
    assert (len(full.tokens), full.finish_reason) == (3, "length")
    one = model.generate(prompt[:5], num_beams=3, max_new_tokens=1, num_return_sequences=3)
    best = np.argsort(-model.logits(prompt[:5])[-1], kind="stable")[:3]
    assert [text.tokens for text in one] == [[id] for id in best]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_return_sequences": 4}, "num_return_sequences is 4, but num_beams is 3"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"length_penalty": 11}, "length_penalty is 11.0, expected -10 to 10"),
        ({"length_penalty": "long"}, "length_penalty is 'long'"),
        ({"early_stopping": "always"}, "early_stopping is 'always'"),
        ({"early_stopping": 1}, "early_stopping is 1, expected True"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"eos_token_id": 5000}, "eos_token_id is 5000"),
    ],
)
def test_errors(model: pythia_cpu.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate("Once", num_beams=3, **options)


@pytest.mark.filterwarnings("error")
def test_numpys_numbers_are_numbers(model: pythia_cpu.Model) -> None:
    options: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 100, "early_stopping": True}
    narrow = {"num_beams": np.int8(3), "max_new_tokens": np.int8(100), "early_stopping": np.True_}
    prompt = list(range(10, 70))  # with the new tokens more than an int8 holds
    found = model.generate(prompt, eos_token_id=13, **narrow)
    assert found == model.generate(prompt, eos_token_id=13, **options)
    assert found != model.generate(prompt, eos_token_id=13, **{**options, "early_stopping": False})


def test_length_factors_are_those_of_exact_powers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math, "pow", None)  # the machine's own
    for penalty in (1.0, 0.0, 2.0, -1.5, 0.1, 0.7, 1 / 3, 9.99, -10.0):
        for length in (1, 2, 3, 4, 7, 49, 100, 2047, 2048):
            with mpmath.workdps(80):
                exact = np.float32(float(mpmath.power(length, mpmath.mpf(penalty))))
            assert length_factor(length, penalty) == exact


def test_the_largest_come_in_order_and_ties_by_place() -> None:
    values = np.random.default_rng(0).integers(0, 9, 300).astype(np.float32)
    values[::7] = -np.inf
    expected = sorted(range(300), key=lambda i: (-values[i], i))
    for count in (0, 1, 2, 40, 299, 300, 400):
        assert _core.largest(values, count).tolist() == expected[:count]
    values[5::7] = np.nan
    expected = [i for i in expected if not np.isnan(values[i])]
    for count in (1, 40, 200, 300):
        assert _core.largest(values, count).tolist() == expected[:count]
    with pytest.raises(ValueError, match="2 dimensions, expected one"):
        _core.largest(values[None], 1)


def test_streams_have_no_beams(model: pythia_cpu.Model) -> None:
    with pytest.raises(ValueError, match="num_beams is 3, but a stream"):
        model.stream("Once", num_beams=3)


def test_log_softmax() -> None:
    logits = np.random.default_rng(0).standard_normal((3, 1001)).astype(np.float32) * 5
    expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
    logprobs = _core.log_softmax(logits)
    assert (logprobs.dtype, logprobs.shape) == (np.float32, (3, 1001))
    np.testing.assert_allclose(logprobs, expected, atol=3e-6)
    assert _core.log_softmax(logits[:0]).shape == (0, 1001)
    with pytest.raises(ValueError, match="1 dimensions"):
        _core.log_softmax(logits[0])
