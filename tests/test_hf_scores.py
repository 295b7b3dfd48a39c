"""Scores of generated tokens under transformers' names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pythia_cpu import hf

PROMPTS = torch.tensor([[5, 6, 7, 8], [0, 0, 11, 12]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
OUTPUT: dict[str, Any] = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.7, "max_new_tokens": 8},
        {"no_repeat_ngram_size": 2, "max_new_tokens": 8},
        {"min_new_tokens": 5, "max_new_tokens": 8},
        {"min_new_tokens": 8, "max_new_tokens": 8},
    ],
    ids=str,
)
def test_scores_of_greedy_texts(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any, options: dict[str, Any]) -> None:
    """Also of a row that would have ended, and of one prompt with all its tokens."""
    prompts = PROMPTS[:1]
    end = int(their_hf_model.generate(prompts, max_new_tokens=3)[0, -1])  # which the text holds
    ours, theirs = (
        model.generate(prompts, eos_token_id=end, pad_token_id=0, **options, **OUTPUT)
        for model in (hf_model, their_hf_model)
    )
    assert ours.sequences.tolist() == theirs.sequences.tolist() and len(ours.scores) == len(theirs.scores)
    for found, expected in zip(ours.scores, theirs.scores, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)  # -inf where it is
    for normalize in (False, True):
        found, expected = (
            model.compute_transition_scores(ours.sequences, ours.scores, normalize_logits=normalize)
            for model in (hf_model, their_hf_model)
        )
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_scores_of_drawn_texts(hf_model: hf.GPTNeoXForCausalLM) -> None:
    """What transformers' processors make of the logits; rows with padding have those that they have alone."""
    options = {"temperature": 0.7, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.2, "max_new_tokens": 6, "seed": 3}
    out = hf_model.generate(
        PROMPTS, attention_mask=MASK, do_sample=True, num_return_sequences=2, eos_token_id=None, **options, **OUTPUT
    )
    processors = transformers.LogitsProcessorList(
        [
            transformers.RepetitionPenaltyLogitsProcessor(1.2),
            transformers.TemperatureLogitsWarper(0.7),
            transformers.TopKLogitsWarper(30),
            transformers.TopPLogitsWarper(0.9),
        ]
    )
    for step, (scores, logits) in enumerate(zip(out.scores, out.logits, strict=True)):
        for i, (row, of_logits) in enumerate(zip(scores, logits, strict=True)):
            ids = out.sequences[i : i + 1, (0 if i < 2 else 2) : 4 + step]
            expected = processors(ids, of_logits[None])[0]
            np.testing.assert_allclose(row, expected, rtol=1e-6)
            assert row[out.sequences[i, 4 + step]] > -np.inf
    arrays = hf_model.compute_transition_scores(out.sequences.numpy(), [s.numpy() for s in out.scores])
    assert isinstance(arrays, np.ndarray) and arrays.shape == (4, 6) and np.isfinite(arrays).all()
