"""What a script has to say of the scores that the next token is chosen from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pythia_cpu._arguments import float_array, integer
from pythia_cpu.hf._arrays import to_lists
from pythia_cpu.hf._forward import Floats, Rows

Process = Callable[[Rows, Floats], Floats]
"""Changes scores ``[rows, vocab_size]`` of rows with these ids so far, ``[rows, length]``, padding included."""


def take_banned(given: dict[str, Any], eos_token_ids: list[int]) -> dict[int, float]:
    """``suppress_tokens``, and ``bad_words_ids`` of one token, as ``logit_bias``; the other words stay. Ends of texts
    are no bad words, as in transformers.
    """
    banned = [integer("suppress_tokens", id, 0) for id in to_lists(given.pop("suppress_tokens", None)) or ()]
    words = to_lists(given.pop("bad_words_ids", None)) or []
    if not all(isinstance(word, list) and word for word in words):
        raise ValueError(f"bad_words_ids is {words!r}, expected a list of lists of token ids")
    ids = [[integer("bad_words_ids", id, 0) for id in word] for word in words]
    banned += [word[0] for word in ids if len(word) == 1 and word[0] not in eos_token_ids]
    if longer := [word for word in ids if len(word) > 1]:
        given["bad_words_ids"] = longer
    return dict.fromkeys(banned, -math.inf)


def take_processors(given: dict[str, Any], convert: Callable[[npt.NDArray[Any]], Any]) -> list[Process]:
    """The others, in transformers' order; ``convert`` is applied to what their functions get.

    Raises:
        ValueError: an option that scores cannot be changed beside.
    """
    words = given.pop("bad_words_ids", ())
    allowed = given.pop("prefix_allowed_tokens_fn", None)
    theirs = list(given.pop("logits_processor", None) or ())
    per_prompt = given.get("num_return_sequences") or 1
    processors: list[Process] = []
    if words:
        processors.append(lambda rows, scores: _without_words(words, rows, scores))
    if allowed is not None:
        processors.append(lambda rows, scores: _with_only(allowed, convert, per_prompt, rows, scores))
    for processor in theirs:

        def process(rows: Rows, scores: Floats, processor: Any = processor) -> Floats:
            found = float_array("what a logits_processor returned", processor(convert(rows), convert(scores)))
            if found.shape != scores.shape:
                shapes = f"shape {list(found.shape)}, expected {list(scores.shape)}"
                raise ValueError(f"a logits_processor returned {shapes}")
            if not (found < np.inf).all():  # False for NaN
                raise ValueError("a logits_processor returned NaN or infinity, expected scores, or -infinity")
            return found

        processors.append(process)
    if processors and given.get("num_beams", 1) not in (None, 1):
        raise ValueError(
            "logits_processor, prefix_allowed_tokens_fn and bad_words_ids of several tokens are not supported by "
            "pythia_cpu with num_beams: leave these out"
        )
    return processors


def _without_words(words: list[list[int]], rows: Rows, scores: Floats) -> Floats:
    """As transformers' NoBadWordsLogitsProcessor: words that the last ids have begun do not end."""
    for *beginning, last in words:
        if rows.shape[1] >= len(beginning):
            begun = (rows[:, -len(beginning) :] == beginning).all(axis=1)
            scores[begun, last] = -np.inf
    return scores


def _with_only(
    allowed: Any, convert: Callable[[npt.NDArray[Any]], Any], per_prompt: int, rows: Rows, scores: Floats
) -> Floats:
    """As transformers' PrefixConstrainedLogitsProcessor: the rows of a prompt have its number."""
    kept = np.full_like(scores, -np.inf)
    for number, row in enumerate(rows):
        ids = to_lists(allowed(number // per_prompt, convert(row)))
        if not ids:
            raise ValueError("prefix_allowed_tokens_fn returned no token ids, expected those that may come next")
        kept[number, ids] = scores[number, ids]
    return kept
