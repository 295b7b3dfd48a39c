"""Log-probabilities of texts, and perplexity."""

from __future__ import annotations

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._arguments import Prompt, Prompts, boolean, integer, is_batch, token_ids
from pythia_cpu._score_file import FileOptions, score_to_file
from pythia_cpu._score_run import ScoreRequest, all_scores
from pythia_cpu._tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Score:
    """How likely a text is.

    Attributes:
        tokens: the text's token ids; of a continuation its own, without the context's.
        logprobs: float32, natural logarithms. Of a text ``[len(tokens) - 1]``: entry i is log p(token i+1 | tokens 0 to
            i). Of a continuation ``[len(tokens)]``: entry i is log p(token i | the context and tokens 0 to i-1).
        is_greedy: bool, same shape: the token is the most likely one in its place (the lowest id of equals).
        ranks: int32, same shape: how many tokens are more likely in its place, or as likely with a lower id; 0 is the
            most likely one; -1 where the log-probability is NaN, by a model whose logits are no numbers.
        entropies: float32, same shape: the entropy of the model's distribution over the tokens in its place, in nats.
        greedy_tokens: int32, same shape: the most likely token in its place; -1 where all logits are NaN.
    """

    tokens: list[int]
    logprobs: npt.NDArray[np.float32]
    is_greedy: npt.NDArray[np.bool_]
    ranks: npt.NDArray[np.int32]
    entropies: npt.NDArray[np.float32]
    greedy_tokens: npt.NDArray[np.int32]

    @property
    def total(self) -> float:
        """The sum of ``logprobs``, exact before its one rounding."""
        return math.fsum(self.logprobs.tolist())


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        value: exp(nll / num_tokens), the perplexity per token.
        nll: the negative log-likelihood of all scored tokens together, in nats.
        num_tokens: how many tokens were scored.
        num_words: pieces of the text between runs of white space, as lm-evaluation-harness counts them; None for token
            ids.
        num_bytes: the text's length in UTF-8; None for token ids.
    """

    value: float = field(init=False)
    nll: float
    num_tokens: int
    num_words: int | None = None
    num_bytes: int | None = None

    def __post_init__(self) -> None:
        """Sets ``value``."""
        object.__setattr__(self, "value", _exp(self.nll / self.num_tokens))

    @property
    def word_perplexity(self) -> float | None:
        """exp(nll / num_words); None for token ids."""
        return _exp(self.nll / self.num_words) if self.num_words else None

    @property
    def byte_perplexity(self) -> float | None:
        """exp(nll / num_bytes); None for token ids."""
        return _exp(self.nll / self.num_bytes) if self.num_bytes else None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits (not nats) of ``nll`` per byte; None for token ids."""
        return self.nll / self.num_bytes / math.log(2) if self.num_bytes else None


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


class ScoringModel:
    """What scoring needs of a model, and the ways to it; ``Model`` has one."""

    def __init__(self, core: _core.Model, tokenizer: Tokenizer, eos_token_id: int | None) -> None:
        """``Model`` makes these."""
        self.core = core
        self.tokenizer = tokenizer
        self._eos_token_id = eos_token_id
        config = core.file.config
        self.vocab_size: int = config["vocab_size"]
        self.context_length: int = config["max_position_embeddings"]

    def score(
        self, text: Prompt | Prompts, continuation: Prompt | Prompts | None, *, progress: bool
    ) -> Score | list[Score]:
        """``Model.score``."""
        if continuation is not None:
            batch, requests = self._pairs(text, continuation)
        elif batch := is_batch("text", text):
            requests = [self._whole(f"text[{i}]", one) for i, one in enumerate(text)]
        else:
            requests = [self._whole("text", text)]
        scores = [
            Score(
                tokens=ids if continuation is None else ids[begin:],
                logprobs=one.logprobs,
                is_greedy=one.ranks == 0,
                ranks=one.ranks,
                entropies=one.entropies,
                greedy_tokens=one.argmax,
            )
            for (ids, begin), one in zip(requests, all_scores(self.core, requests, progress=progress), strict=True)
        ]
        return scores if batch else scores[0]

    def _pairs(self, context: Any, continuation: Any) -> tuple[bool, list[ScoreRequest]]:
        """Whether there is a list of continuations, and the requests."""
        context_list = is_batch("context", context)
        # An empty list is a row without token ids, but for beside texts.
        batch = is_batch("continuation", continuation) or (
            isinstance(context, str) and isinstance(continuation, list | tuple) and not continuation
        )
        if not batch and not context_list:
            return False, [self.pair(context, continuation)]
        if not batch:
            raise ValueError("context is a list of texts and continuation is one text: pass a continuation for each")
        if not context_list:
            before = self._context_ids("context", context) if len(continuation) else []
            named = ((f"continuation[{i}]", one) for i, one in enumerate(continuation))
            return True, [self.pair(context, one, names=("context", name), before=before) for name, one in named]
        if len(context) != len(continuation):
            raise ValueError(
                f"found {len(context)} contexts and {len(continuation)} continuations, expected as many of both"
            )
        pairs = enumerate(zip(context, continuation, strict=True))
        return True, [self.pair(a, b, names=(f"context[{i}]", f"continuation[{i}]")) for i, (a, b) in pairs]

    def perplexity(
        self, text: Prompt | Prompts, *, context_length: int | None, stride: int | None, progress: bool
    ) -> Perplexity | list[Perplexity]:
        """``Model.perplexity``."""
        if not is_batch("text", text):
            return self._perplexities({"text": text}, context_length, stride, progress)[0]
        return self._perplexities({f"text[{i}]": one for i, one in enumerate(text)}, context_length, stride, progress)

    def _perplexities(
        self, texts: dict[str, Any], context_length: int | None, stride: int | None, progress: bool
    ) -> list[Perplexity]:
        """Of texts by the names that errors call them by."""
        windows: list[list[ScoreRequest]] = []
        for name, text in texts.items():
            ids = self.some_ids(name, text)
            windows.append(self.windows(ids, context_length=context_length, stride=stride))
            if all(begin >= len(tokens) for tokens, begin in windows[-1]):
                raise ValueError(f"{name} has {len(ids)} tokens and none of them has one before it: pass a longer text")
        scored = iter(all_scores(self.core, [one for several in windows for one in several], progress=progress))
        found = []
        for text, several in zip(texts.values(), windows, strict=True):
            logprobs = [x for _ in several for x in next(scored).logprobs.tolist()]
            nll, num_tokens = -math.fsum(logprobs), len(logprobs)
            if not isinstance(text, str):
                found.append(Perplexity(nll=nll, num_tokens=num_tokens))
                continue
            num_words, num_bytes = len(re.split(r"\s+", text)), len(text.encode("utf-8"))
            found.append(Perplexity(nll=nll, num_tokens=num_tokens, num_words=num_words, num_bytes=num_bytes))
        return found

    def windows(self, ids: list[int], *, context_length: int | None, stride: int | None) -> list[ScoreRequest]:
        """How a text is cut into requests; ``Model.perplexity`` documents it."""
        length = self.context_length
        if context_length is not None:
            length = integer("context_length", context_length, 2, self.context_length)
        if stride is not None:
            return _core.strided_windows(ids, length, integer("stride", stride, 1, length))
        if self._eos_token_id is None:
            raise ValueError("the model has no end-of-text token to begin the text with: pass stride")
        return _core.rolling_windows(ids, self._eos_token_id, length)

    def start_id(self) -> int:
        """The end-of-text token, for a text to begin after."""
        if self._eos_token_id is None:
            raise ValueError("the model has no end-of-text token to begin the text with: use score, which needs none")
        return self._eos_token_id

    def ids(self, name: str, text: object) -> list[int]:
        """Token ids of a text, perhaps none."""
        if isinstance(text, str):
            return self._encode(name, text)
        ids: list[int] = token_ids(name, text, self.vocab_size).tolist()
        return ids

    def _context_ids(self, name: str, context: object) -> list[int]:
        """As in lm-evaluation-harness, and in score_lines.cc, white space at its end is the continuation's."""
        return self._encode(name, context.rstrip()) if isinstance(context, str) else self.ids(name, context)

    def pair(
        self,
        context: object,
        continuation: object,
        *,
        names: tuple[str, str] = ("context", "continuation"),
        before: list[int] | None = None,
    ) -> ScoreRequest:
        """Ids of both together, and where the continuation begins; errors call them by their names. ``before``: the
        context's ids, if they are known.
        """
        if isinstance(context, str) != isinstance(continuation, str):
            raise ValueError(f"one of {names[0]} and {names[1]} is a str and the other is not: pass two of a kind")
        before = self._context_ids(names[0], context) if before is None else before
        if isinstance(context, str) and isinstance(continuation, str):
            after = self._encode(f"{names[0]} + {names[1]}", context + continuation)[len(before) :]
            if continuation and before and not after:
                raise ValueError(
                    f"{names[1]} adds no token to the {len(before)} of {names[0]}, because they are encoded together: "
                    "begin it with a space, or pass token ids of both"
                )
        else:
            after = self.ids(names[1], continuation)
        if not before:
            if self._eos_token_id is None:
                raise ValueError(f"{names[0]} has no tokens, and the model has no end-of-text token to stand for it")
            before = [self._eos_token_id]
        if not after:
            raise ValueError(f"{names[1]} has no tokens, expected at least one")
        self._check_length(f"{names[0]} and {names[1]} have", before + after)
        return before + after, len(before)

    def _encode(self, name: str, text: str) -> list[int]:
        try:
            return self.tokenizer.encode(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def some_ids(self, name: str, text: object) -> list[int]:
        """Token ids of a text that has some."""
        ids = self.ids(name, text)
        if not ids:
            raise ValueError(f"{name} has no tokens, expected at least one")
        return ids

    def _whole(self, name: str, text: object) -> ScoreRequest:
        ids = self.some_ids(name, text)
        self._check_length(f"{name} has", ids)
        return ids, 1

    def _check_length(self, found: str, ids: list[int]) -> None:
        """Refuses more tokens than one request may have."""
        if len(ids) > self.context_length + 1:
            raise ValueError(
                f"{found} {len(ids)} tokens, expected at most {self.context_length + 1}, the model's context and "
                "the token after it: shorten the text, or use perplexity, which cuts it into windows"
            )


class ScoresTexts(ABC):
    """The scoring methods of ``Model``."""

    @abstractmethod
    def _scoring(self) -> ScoringModel:
        """The model's parts that scoring uses."""

    @overload
    def score(self, text: Prompt, continuation: Prompt | None = None, *, progress: bool = True) -> Score: ...
    @overload
    def score(self, text: Prompts, continuation: None = None, *, progress: bool = True) -> list[Score]: ...
    @overload
    def score(self, text: Prompt | Prompts, continuation: Prompts, *, progress: bool = True) -> list[Score]: ...
    def score(
        self, text: Prompt | Prompts, continuation: Prompt | Prompts | None = None, *, progress: bool = True
    ) -> Score | list[Score]:
        """How likely the model finds a text, token by token. Ctrl-C ends it within a pass of 512 tokens.

        ``score(text)`` scores a text, all but its first token, which has nothing before it. ``score(context,
        continuation)`` scores the continuation only, ``score(context, [a, b])`` several of one context. In lists,
        requests run together, and contexts that they share are computed once; each Score is, bit for bit, what it would
        be alone.

        Args:
            text: a str, a sequence of token ids, or a list of these; with ``continuation`` the context. Arrays of str
                and a pandas.Series are lists.
            continuation: what follows the context, of the same kind, or a list of such; for a list of contexts a list
                of equal length. Two str are encoded as one text, whose tokens beyond the context's own are the
                continuation, as in lm-evaluation-harness: white space at the context's end counts as the
                continuation's. A context without tokens is the end-of-text token.
            progress: show a bar on standard error, if that is a terminal and it takes longer than a second.

        Returns:
            a Score; for lists a list of them in the same order.

        Raises:
            ValueError: a text or continuation without tokens, more tokens than ``context_length`` and one that is only
                predicted, or ids that are not the model's; in a list, its place is named.
        """
        return self._scoring().score(text, continuation, progress=progress)

    @overload
    def perplexity(
        self, text: Prompt, *, context_length: int | None = None, stride: int | None = None, progress: bool = True
    ) -> Perplexity: ...
    @overload
    def perplexity(
        self, text: Prompts, *, context_length: int | None = None, stride: int | None = None, progress: bool = True
    ) -> list[Perplexity]: ...
    def perplexity(
        self,
        text: Prompt | Prompts,
        *,
        context_length: int | None = None,
        stride: int | None = None,
        progress: bool = True,
    ) -> Perplexity | list[Perplexity]:
        """Perplexity of a text of any length, which is cut into windows. Ctrl-C ends it within a pass of 512 tokens.

        Without ``stride``, the rolling windows of lm-evaluation-harness: every token is scored once. The first window
        predicts ``context_length`` tokens, the text's first one from the end-of-text token; each window after it
        predicts the next ``context_length``, from the token before them; the last one what is left, with as many
        earlier tokens before as fit.

        With ``stride``, the windows of Hugging Face's guide "Perplexity of fixed-length models": windows of
        ``context_length`` tokens begin every ``stride`` tokens, and each scores the tokens that none before it held,
        given all before them in the window. The first token of the text is not scored; with ``stride ==
        context_length`` (disjoint windows) nor is the first of any window. The result is exp of the mean over all
        scored tokens; the guide's own code gives a window's mean one token too little weight where windows overlap.

        Args:
            text: a str, a sequence of token ids, or a list of these, each of which gets a perplexity of its own; short
                ones run together.
            context_length: tokens of a window, 2 to the model's ``context_length``, which is the default.
            stride: tokens between the beginnings of windows, 1 to ``context_length``.
            progress: show a bar on standard error, if that is a terminal and it takes longer than a second.

        Raises:
            ValueError: an argument out of its range, or a text without a token to score.
        """
        return self._scoring().perplexity(text, context_length=context_length, stride=stride, progress=progress)

    def score_to_file(
        self,
        inputs: Iterable[Any],
        path: str | os.PathLike[str],
        *,
        per_token: bool = True,
        context_length: int | None = None,
        stride: int | None = None,
        progress: bool = True,
    ) -> int:
        """Scores many texts into a file of JSON lines, one a text, written as they come.

        A file that is there already is continued: records in it are compared with the inputs, and scoring begins
        after them. So a run that was interrupted (Ctrl-C, a crash) is called again as it was, and costs at most about
        ten seconds again (or 2,048 tokens). Records are those of an uninterrupted run, byte for byte.

        Every record has ``index``, ``id`` (if the input has one), ``model`` (``Model.key``), ``input`` (a hash of the
        input and the options), ``num_text_tokens``, ``num_tokens`` (those scored), ``num_bytes`` (None for token ids),
        ``log_likelihood``, ``num_greedy``, and with ``per_token`` the arrays ``tokens``, ``logprobs``, ``ranks`` and
        ``entropies`` of the scored tokens (see Score). Numbers that JSON lacks, NaN and infinities, are null.
        ``pandas.read_json(path, lines=True)`` reads it.

        Args:
            inputs: any iterable, perhaps longer than memory, of texts (a str or token ids), or of dicts with ``text``,
                or ``context`` and ``continuation``, and perhaps ``id``, a str or a number; None is as if it were
                missing, and other members are ignored.
                Texts are cut into windows as by ``perplexity``, and one without tokens gets a record of 0 tokens;
                continuations are scored as by ``score``.
            path: the file.
            per_token: write the arrays.
            context_length: as in ``perplexity``.
            stride: as in ``perplexity``.
            progress: show a bar on standard error, if that is a terminal.

        Returns:
            how many records were added.

        Raises:
            ValueError: an input that cannot be scored, by its number; a file whose records are of another model, of
                other inputs or options, or that another process writes.
            OSError: the file cannot be written.
        """
        options = FileOptions(
            boolean("per_token", per_token),
            None if context_length is None else integer("context_length", context_length, 2),
            None if stride is None else integer("stride", stride, 1),
        )
        return score_to_file(self._scoring(), inputs, path, options, progress=progress)
