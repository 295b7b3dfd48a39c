"""Scores that a script changes before a token is chosen: the same texts as transformers'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pythia_cpu import hf

PROMPT = torch.tensor([[510, 1711, 373, 247]])
OPTIONS: dict[str, Any] = {"max_new_tokens": 20, "eos_token_id": None, "pad_token_id": 0, "do_sample": False}


class Watermark(transformers.LogitsProcessor):
    """Raises a third of the vocabulary, which one depends on the text so far; notes what it was given."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen += ids.tolist()
        raised = scores.clone()
        raised[:, int(ids.sum()) * 7919 % 1000 :: 3] += 4
        return raised


def allowed(number: int, ids: torch.Tensor) -> list[int]:
    return [(int(ids[-1]) + i) % 4096 for i in range(300)]


@pytest.mark.parametrize(
    "options",
    [
        {"prefix_allowed_tokens_fn": allowed},
        {"suppress_tokens": [13, 11, 15]},
        {"bad_words_ids": [[13], [11], [15, 247], [309, 574, 13]]},
        {"bad_words_ids": [[13], [15]], "suppress_tokens": [11], "prefix_allowed_tokens_fn": allowed},
        {"suppress_tokens": [13, 11], "num_beams": 3},
        {"suppress_tokens": [13], "min_new_tokens": 20, "eos_token_id": 15},
        {"suppress_tokens": [13], "min_new_tokens": 5, "eos_token_id": 15},
    ],
    ids=str,
)
def test_options(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any, options: dict[str, Any]) -> None:
    rows = torch.cat([PROMPT, PROMPT.flip(1)])
    found, plain = (hf_model.generate(rows, **{**OPTIONS, **more}) for more in (options, {}))
    assert found.tolist() == their_hf_model.generate(rows, **{**OPTIONS, **options}).tolist()
    assert found.tolist() != plain.tolist()


@pytest.mark.parametrize("more", [{}, {"bad_words_ids": [[13], [15, 247]]}, {"no_repeat_ngram_size": 2}], ids=str)
def test_logits_processor(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any, more: dict[str, Any]) -> None:
    texts, seen = [], []
    for model in (hf_model, their_hf_model):
        processor = Watermark()
        processors = transformers.LogitsProcessorList([processor])
        texts.append(model.generate(PROMPT, logits_processor=processors, **OPTIONS, **more).tolist())
        seen.append(processor.seen)
    assert texts[0] == texts[1] and seen[0] == seen[1] and len(seen[0]) == 20


@pytest.mark.parametrize("length", [1, 2, 3])
def test_words_longer_than_the_prompt(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any, length: int) -> None:
    """And the word that ends right after it."""
    options = {**OPTIONS, "max_new_tokens": 6}
    rows = PROMPT[:, :length]
    (plain,) = hf_model.generate(rows, **options).tolist()
    for word, differs in (([309, 574, 13, 15, 7], False), (plain[:5], True), (plain[: length + 1], True)):
        (found,) = hf_model.generate(rows, bad_words_ids=[word], **options).tolist()
        assert [found] == their_hf_model.generate(rows, bad_words_ids=[word], **options).tolist()
        assert (found != plain) == differs


def test_rows_and_their_numbers(hf_model: hf.GPTNeoXForCausalLM) -> None:
    rows = torch.tensor([[0, 0, 510, 1711], [309, 574, 13, 15]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    processor = Watermark()
    options = {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 4, "seed": 1, "eos_token_id": None}
    found = hf_model.generate(rows, attention_mask=mask, logits_processor=[processor], **options)
    assert found.shape == (4, 8)
    expected = [row[: 4 + i] for i in range(4) for row in found.tolist()]
    assert processor.seen == expected
    numbers = []
    hf_model.generate(
        rows, attention_mask=mask, prefix_allowed_tokens_fn=lambda n, ids: numbers.append(n) or [7], **options
    )
    assert numbers == [0, 0, 1, 1] * 4


def test_what_they_cannot_go_with(hf_model: hf.GPTNeoXForCausalLM) -> None:
    processor = {"logits_processor": [Watermark()]}
    for options, message in (
        ({**processor, "num_beams": 2}, "are not supported by pythia_cpu with num_beams"),
        ({"bad_words_ids": [[1, 2]], "num_beams": 2}, "are not supported by pythia_cpu with num_beams"),
        ({"prefix_allowed_tokens_fn": lambda n, ids: []}, "prefix_allowed_tokens_fn returned no token ids"),
        ({"bad_words_ids": [[]]}, r"bad_words_ids is \[\[\]\], expected a list of lists of token ids"),
        ({"bad_words_ids": [5]}, r"bad_words_ids is \[5\], expected a list of lists"),
        ({"suppress_tokens": [-1]}, "suppress_tokens is -1"),
        ({"suppress_tokens": [1], "output_scores": True, "return_dict_in_generate": True}, "use output_logits"),
        ({"logits_processor": [lambda ids, scores: scores[:, :5]]}, r"a logits_processor returned shape \[1, 5\]"),
        ({"logits_processor": [lambda ids, scores: scores * np.nan]}, "a logits_processor returned NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            hf_model.generate(PROMPT, **{**OPTIONS, "eos_token_id": 15, **options})
