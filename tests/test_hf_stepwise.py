"""Functions that see whole batches while texts are written: what they are given, and the texts, are transformers'."""

from __future__ import annotations

import functools
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pythia_cpu import hf
from pythia_cpu.hf import _stepwise

ROWS = torch.tensor([[0, 0, 510, 1711], [309, 574, 13, 15], [0, 510, 1711, 373]])
MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "pad_token_id": 0, "attention_mask": MASK, "do_sample": False}


class Notes:
    """Passes ids on to a function, and keeps them."""

    def __init__(self, function: Any) -> None:
        self.seen: list[Any] = []
        self.function = function

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> Any:
        self.seen.append(ids.tolist())
        return self.function(ids, scores)


def raised_by_row(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Each row has words of its own, at each step others."""
    for i in range(len(ids)):
        scores[i, (i + ids.shape[1]) % 7 :: 7] += 5
    return scores


def damped(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return scores * 0.5 + (torch.arange(scores.shape[1]) % 3 == 0)


@pytest.mark.parametrize(
    "more",
    [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2, "suppress_tokens": [13]}, {"min_new_tokens": 6}],
    ids=str,
)
def test_processors(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any, more: dict[str, Any]) -> None:
    found = []
    for model in (hf_model, their_hf_model):
        notes = Notes(raised_by_row)
        processors = transformers.LogitsProcessorList([notes, damped])
        texts = model.generate(ROWS, logits_processor=processors, eos_token_id=15, **{**OPTIONS, **more})
        found.append((texts.tolist(), notes.seen))
    assert found[0] == found[1]


def test_processors_come_after_penalties(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any) -> None:
    """Of scores with the sign turned: a penalty after that would make repetitions rare, before it makes them common."""
    options = {**OPTIONS, "eos_token_id": None, "repetition_penalty": 3.0}
    processors = transformers.LogitsProcessorList([lambda ids, scores: -scores])
    ours, theirs = (
        model.generate(ROWS, logits_processor=processors, **options).tolist() for model in (hf_model, their_hf_model)
    )
    assert ours == theirs
    assert all(len(set(row[4:])) < 12 for row in ours)


def test_criteria(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any) -> None:
    plain = hf_model.generate(ROWS, eos_token_id=None, **OPTIONS)
    wanted = int(plain[0, 7])
    found = []
    for model in (hf_model, their_hf_model):
        of_each = Notes(lambda ids, scores: (ids[:, 4:] == wanted).any(1))
        at_length = Notes(lambda ids, scores: torch.full((len(ids),), ids.shape[1] >= 13))
        criteria = transformers.StoppingCriteriaList([of_each, at_length])
        texts = model.generate(ROWS, stopping_criteria=criteria, eos_token_id=15, **OPTIONS)
        found.append((texts.tolist(), of_each.seen, at_length.seen))
    assert found[0] == found[1]
    assert found[0][0] != plain.tolist()
    whole = hf_model.generate(ROWS, stopping_criteria=[lambda ids, scores: True], eos_token_id=None, **OPTIONS)
    assert whole.tolist() == plain[:, :5].tolist()
    limit = transformers.StoppingCriteriaList([transformers.MaxLengthCriteria(9)])
    assert hf_model.generate(ROWS, stopping_criteria=limit, eos_token_id=None, **OPTIONS).shape == (3, 9)


def test_numbers_of_prefix_functions(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any) -> None:
    """Those of prompts. In transformers before 5.24 a processor has to be made by hand for that."""
    options = {**OPTIONS, "do_sample": True, "num_return_sequences": 2, "max_new_tokens": 2, "eos_token_id": None}
    found = []
    for model in (hf_model, their_hf_model):
        seen: list[Any] = []

        def allowed(number: int, ids: torch.Tensor, seen: list[Any] = seen) -> list[int]:
            seen.append((number, ids.tolist()))
            return [number + 7]

        given: dict[str, Any] = {"prefix_allowed_tokens_fn": allowed}
        if model is their_hf_model:
            given = {"logits_processor": [transformers.PrefixConstrainedLogitsProcessor(allowed, 2)]}
        texts = model.generate(ROWS, **given, **options)
        found.append((texts.tolist(), seen))
    assert found[0] == found[1]
    assert [number for number, _ in found[0][1]] == 2 * [0, 0, 1, 1, 2, 2]


def test_draws_are_those_without_functions(hf_model: hf.GPTNeoXForCausalLM) -> None:
    """And of streams."""
    options = {**OPTIONS, "do_sample": True, "seed": 7, "num_return_sequences": 2, "eos_token_id": 13, "top_k": 30}
    expected = hf_model.generate(ROWS, **options)
    for functions in (
        {"logits_processor": [lambda ids, scores: scores]},
        {"stopping_criteria": [lambda ids, scores: False]},
        {"max_time": 1000},
    ):
        assert hf_model.generate(ROWS, **options, **functions).tolist() == expected.tolist()
    assert len({tuple(row) for row in expected.tolist()}) == 6


def test_least_lengths_of_drawn_texts(hf_model: hf.GPTNeoXForCausalLM) -> None:
    options = {**OPTIONS, "do_sample": True, "seed": 3, "temperature": 3.0, "eos_token_id": list(range(1, 3000))}
    for least in (1, 4, 11):
        rows = hf_model.generate(ROWS, min_new_tokens=least, **options)
        ends = [next((i for i, id in enumerate(row[4:]) if 1 <= id < 3000), 99) for row in rows.tolist()]
        assert min(ends) >= least
    stopped = hf_model.generate(ROWS, min_new_tokens=2, eos_token_id=15, stop_strings=["e"], **OPTIONS)
    assert stopped.tolist() == hf_model.generate(ROWS, eos_token_id=None, stop_strings=["e"], **OPTIONS).tolist()


def test_time_limit(hf_model: hf.GPTNeoXForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which each step takes two seconds."""
    assert hf_model.generate(ROWS, max_time=0.0, eos_token_id=None, **OPTIONS).shape == (3, 5)
    plain = hf_model.generate(ROWS, eos_token_id=None, **OPTIONS)
    for max_time, steps in ((1.5, 1), (2, 2), (7.9, 4), (10**6, 12)):
        monkeypatch.setattr(_stepwise, "time", SimpleNamespace(monotonic=functools.partial(next, count(100, 2))))
        rows = hf_model.generate(ROWS, max_time=max_time, eos_token_id=None, **OPTIONS)
        assert rows.tolist() == plain[:, : 4 + steps].tolist()


def test_the_context_ends(hf_model: hf.GPTNeoXForCausalLM) -> None:
    ids = np.random.default_rng(0).integers(2, 4096, (2, 2045))
    options = {"max_new_tokens": 20, "eos_token_id": None, "logits_processor": [lambda ids, scores: scores]}
    expected = hf_model.generate(ids, max_new_tokens=20, eos_token_id=None)
    assert hf_model.generate(ids, **options).tolist() == expected.tolist()


def test_ends_are_no_bad_words(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any) -> None:
    options = {**OPTIONS, "eos_token_id": 15, "bad_words_ids": [[15], [13], [309, 574]]}
    texts = [model.generate(ROWS, **options).tolist() for model in (hf_model, their_hf_model)]
    assert texts[0] == texts[1]


def test_assistants(hf_model: hf.GPTNeoXForCausalLM) -> None:
    """They propose tokens, and change none."""
    options = {**OPTIONS, "max_new_tokens": 30, "eos_token_id": 15}
    for more in ({}, {"do_sample": True, "seed": 3}, {"logits_processor": [damped]}):
        expected = hf_model.generate(ROWS, **{**options, **more})
        assert hf_model.generate(ROWS, assistant_model=hf_model, **{**options, **more}).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="num_beams=2 and a draft do not go together"):
        hf_model.generate(ROWS, assistant_model=hf_model, num_beams=2, **OPTIONS)
    with pytest.raises(ValueError, match="draft is of type str"):
        hf_model.generate(ROWS, assistant_model="pythia-70m", **OPTIONS)
    config = hf.GenerationConfig.from_dict({"max_new_tokens": 3}, do_sample=False)
    assert hf_model.generate(ROWS, config, attention_mask=MASK, eos_token_id=None).shape == (3, 7)
