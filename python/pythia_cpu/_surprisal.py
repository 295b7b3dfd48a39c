"""Surprisal of words: the log-probabilities of their tokens, put together."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import overload

import numpy as np

from pythia_cpu import _core
from pythia_cpu._arguments import Texts, integer, iterator, refuse_table
from pythia_cpu._score_run import ScoreRequest
from pythia_cpu._scoring_model import ScoringModel
from pythia_cpu._tokenizer import Tokenizer

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class WordSurprisal:
    """How unexpected a word is: -log p(the word | the text before it).

    Attributes:
        word: the word, with the punctuation that touches it.
        start: where it begins in the text, in characters.
        end: where it ends, in characters; ``text[start:end] == word``.
        nats: the surprisal with the natural logarithm.
        num_tokens: how many tokens it is the sum of.
        bits: the surprisal with the logarithm of base 2.
    """

    word: str
    start: int
    end: int
    nats: float
    num_tokens: int
    bits: float = field(init=False)

    def __post_init__(self) -> None:
        """Computes ``bits``."""
        object.__setattr__(self, "bits", self.nats / math.log(2))


class MeasuresSurprisal(ABC):
    """The methods of ``Model`` that score words."""

    @abstractmethod
    def _scoring(self) -> ScoringModel:
        """The model's parts that scoring uses."""

    @overload
    def word_surprisals(
        self, text: str, *, context_length: int | None = None, stride: int | None = None, progress: bool = True
    ) -> list[WordSurprisal]: ...
    @overload
    def word_surprisals(
        self,
        text: Texts | Iterator[str],
        *,
        context_length: int | None = None,
        stride: int | None = None,
        progress: bool = True,
    ) -> list[list[WordSurprisal]]: ...
    def word_surprisals(
        self,
        text: str | Texts | Iterator[str],
        *,
        context_length: int | None = None,
        stride: int | None = None,
        progress: bool = True,
    ) -> list[WordSurprisal] | list[list[WordSurprisal]]:
        """Surprisal (Hale 2001, Levy 2008) of each word of a text of any length. Ctrl-C ends it within a pass of 512
        tokens.

        Words are what ``text.split()`` gives. A word's surprisal is the sum of its tokens', and a token belongs to the
        word that it ends in: the token " dog" to "dog", a line break to the word after it, white space at the text's
        end to the last word. So all words together have the surprisal of the whole text. This is the usual convention
        (that of minicons, Misra 2022); it counts the end of a word as part of the next one. Oh & Schuler 2024 and
        Pimentel & Meister 2024 say what that changes, and how to correct it.

        The text is read after the end-of-text token, so its first word has a surprisal too. A text longer than
        ``context_length`` is cut into windows that overlap, and each token is scored in the first one that holds it:
        after the first window, with at least ``context_length - stride`` tokens before it.

        Args:
            text: a str, or several in a list or another iterable, such as a pandas.Series, which run together; each
                result is, bit for bit, what it would be alone.
            context_length: tokens of a window, 2 to the model's ``context_length``, which is the default.
            stride: tokens between the beginnings of windows, 1 to ``context_length - 1``; the default is half of
                ``context_length``.
            progress: show a bar on standard error, in a terminal or notebook, if it takes longer than a second.

        Returns:
            a WordSurprisal for each word, in order; for a list of texts a list of these lists.
            ``pandas.DataFrame(model.word_surprisals(text))`` makes a table of it.

        Raises:
            ValueError: an argument out of its range, something other than a str, or a text without tokens.
        """
        scoring = self._scoring()
        length = scoring.context_length
        if context_length is not None:
            length = integer("context_length", context_length, 2, length)
        step = length // 2 if stride is None else integer("stride", stride, 1, length - 1)
        refuse_table("text", text, "its rows, one at a time")
        texts = [text] if isinstance(text, str) else list(iterator("text", text, "a str or a list of them"))
        requests: list[ScoreRequest] = []
        counts = []
        for i, one in enumerate(texts):
            name = "text" if isinstance(text, str) else f"text[{i}]"
            if not isinstance(one, str):
                raise ValueError(f"{name} is of type {type(one).__name__}, expected str: words are cut from a text")
            windows = _core.strided_windows([scoring.start_id(), *scoring.some_ids(name, one)], length, step)
            requests += windows
            counts.append(len(windows))
        scores = iter(scoring.run(requests, progress=progress))
        found = []
        for one, count in zip(texts, counts, strict=True):
            logprobs = [x for _ in range(count) for x in next(scores).logprobs.tolist()]
            found.append(_words(one, logprobs, scoring.tokenizer))
        return found[0] if isinstance(text, str) else found


def _words(text: str, logprobs: list[float], tokenizer: Tokenizer) -> list[WordSurprisal]:
    """The words of a text whose tokens have these log-probabilities."""
    words = list(_WORD.finditer(text))
    ends = np.array([word.end() for word in words])
    # The first word that ends after a token's beginning: a token that begins with white space is the next word's.
    owners = np.searchsorted(ends, tokenizer.offsets(text)[:, 0], side="right")
    parts: list[list[float]] = [[] for _ in words]
    for owner, logprob in zip(owners.tolist(), logprobs, strict=True):
        if parts:
            parts[min(owner, len(parts) - 1)].append(logprob)
    return [
        WordSurprisal(word[0], word.start(), word.end(), -math.fsum(part), len(part))
        for word, part in zip(words, parts, strict=True)
    ]
