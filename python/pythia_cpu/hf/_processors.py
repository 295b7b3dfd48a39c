"""What a script has to say of the scores that the next token is chosen from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pythia_cpu._arguments import integer
from pythia_cpu.hf._arrays import to_lists
from pythia_cpu.hf._forward import Floats

Process = Callable[[int, list[int], Floats], Any]
"""Changes scores: of a prompt's number, the ids of its row so far, without padding, and scores ``[1, vocab_size]``."""


def take_banned(given: dict[str, Any]) -> dict[int, float]:
    """``suppress_tokens``, and ``bad_words_ids`` of one token, as ``logit_bias``; the other words stay."""
    banned = [integer("suppress_tokens", id, 0) for id in to_lists(given.pop("suppress_tokens", None)) or ()]
    words = to_lists(given.pop("bad_words_ids", None)) or []
    if not all(isinstance(word, list) and word for word in words):
        raise ValueError(f"bad_words_ids is {words!r}, expected a list of lists of token ids")
    ids = [[integer("bad_words_ids", id, 0) for id in word] for word in words]
    banned += [word[0] for word in ids if len(word) == 1]
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
    processors: list[Process] = []
    if words:
        processors.append(lambda number, ids, scores: _without_words(words, ids, scores))
    if allowed is not None:
        processors.append(lambda number, ids, scores: _with_only(allowed(number, convert(np.array(ids))), scores))
    for processor in theirs:

        def process(number: int, ids: list[int], scores: Floats, processor: Any = processor) -> Any:
            return processor(convert(np.array([ids])), convert(scores))

        processors.append(process)
    if processors and given.get("num_beams", 1) not in (None, 1):
        raise ValueError(
            "logits_processor, prefix_allowed_tokens_fn and bad_words_ids of several tokens are not supported by "
            "pythia_cpu with num_beams: leave these out"
        )
    if theirs and given.get("repetition_penalty", 1) not in (None, 1):
        raise ValueError(
            "logits_processor is given with repetition_penalty, which pythia_cpu applies after it and transformers "
            "before: put RepetitionPenaltyLogitsProcessor into logits_processor instead"
        )
    return processors


def _without_words(words: list[list[int]], ids: list[int], scores: Floats) -> Floats:
    """As transformers' NoBadWordsLogitsProcessor: words that the last ids have begun do not end."""
    for *beginning, last in words:
        if ids[-len(beginning) :] == beginning:
            scores[:, last] = -np.inf
    return scores


def _with_only(allowed: Any, scores: Floats) -> Floats:
    """As transformers' PrefixConstrainedLogitsProcessor."""
    ids = to_lists(allowed)
    if not ids:
        raise ValueError("prefix_allowed_tokens_fn returned no token ids, expected those that may come next")
    kept = np.full_like(scores, -np.inf)
    kept[:, ids] = scores[:, ids]
    return kept
