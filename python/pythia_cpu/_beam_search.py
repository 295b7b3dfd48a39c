"""Beam search with transformers' rules (transformers 5, generation/utils.py, _beam_search), batched over prompts.

Each step scores all continuations of a prompt's beams by their summed log-probability and takes the best. Those that
end are kept by ``sum / length ** length_penalty``, the others are the next beams. Among equal scores the lower beam and
then the lower id wins, so the result depends on the logits alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._coming import Coming
from pythia_cpu._generation import FinishReason, TopLogprobs
from pythia_cpu._tokenizer import Tokenizer

_NEVER = np.float32(-1e9)  # transformers' score of a beam that is not there
_DECIMAL = Context(prec=40)
_MAX_ROWS = 64  # beams that run together: weights are read once for all of them

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BeamOptions:
    """Checked options of a search."""

    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    max_new_tokens: int
    eos_token_ids: frozenset[int]
    logit_bias: list[tuple[int, float]]
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int
    stop: list[str]
    num_logprobs: int  # -1: none, 0: of the chosen tokens, n: of the n most likely too


@dataclass(frozen=True)
class _Beam:
    """New tokens, and what is reported of them."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[np.float32] = field(default_factory=list)
    top: list[TopLogprobs] = field(default_factory=list)


@dataclass
class Hypothesis:
    """A finished text: its new tokens, and the score that ranks it."""

    tokens: list[int]
    score: np.float32
    finish_reason: FinishReason
    text: str
    logprobs: FloatArray | None
    top_logprobs: list[TopLogprobs] | None


class _Search:
    """One prompt's search."""

    def __init__(self, model: _core.Model, tokenizer: Tokenizer, prompt: list[int], options: BeamOptions) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._options = options
        self.prompt = prompt
        context = model.file.config["max_position_embeddings"]
        # The last position of a full context still predicts a token, which cannot be read back.
        self._max_tokens = min(options.max_new_tokens, context - len(prompt) + 1)
        self._keep = max(2, 1 + len(options.eos_token_ids)) * options.num_beams
        self._beams = [_Beam() for _ in range(options.num_beams)]
        self._scores: FloatArray = np.full(options.num_beams, _NEVER, np.float32)
        self._scores[0] = 0  # all beams are the same at first
        self._caches = [_core.KvCache(model, len(prompt) + max(self._max_tokens, 1) - 1)]
        self.finished: list[Hypothesis] = []  # the best num_beams, best first
        self.done = self._max_tokens == 0
        if self.done:
            self.finished = [self._hypothesis(beam, np.float32(0)) for beam in self._beams]

    def slices(self) -> list[tuple[_core.KvCache, npt.NDArray[np.int32], int]]:
        """What the model is to read: the prompt once, then each beam's last token."""
        new = [beam.tokens[-1:] for beam in self._beams] if self._beams[0].tokens else [self.prompt]
        return [(cache, np.array(ids, np.int32), 1) for cache, ids in zip(self._caches, new, strict=True)]

    def advance(self, logits: FloatArray) -> None:
        """Takes the logits of all slices and makes a step."""
        logprobs = _core.log_softmax(logits)
        if len(logprobs) < len(self._beams):
            logprobs = np.repeat(logprobs, len(self._beams), axis=0)
        for row, beam in zip(logprobs, self._beams, strict=True):
            self._apply_penalties(row, beam.tokens)
        logprobs += self._scores[:, None]
        totals = logprobs.reshape(-1)
        best = _core.largest(totals, self._keep)
        if len(best) < min(self._keep, len(totals)):
            totals[np.isnan(totals)] = -np.inf
            best = _core.largest(totals, self._keep)
        if totals[best[0]] == -np.inf:
            raise ValueError(
                "no token has a score above -infinity: check the weights, and logit_bias and no_repeat_ngram_size if "
                "they ban tokens"
            )
        beams, ids = np.divmod(best, logprobs.shape[1])
        candidates = self._extended(beams, ids, logits)
        length = len(candidates[0].tokens)
        at_limit = length == self._max_tokens
        ends = np.array([at_limit or self._ends(candidate) for candidate in candidates])

        factor = length_factor(length, self._options.length_penalty)
        for i in np.flatnonzero(ends[: self._options.num_beams]):
            self.finished.append(self._hypothesis(candidates[i], totals[best[i]] / factor))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)  # stable: the earlier one of equals
        del self.finished[self._options.num_beams :]
        if at_limit:
            self.done = True
            return
        running = totals[best] + ends.astype(np.float32) * _NEVER
        order = _core.largest(running, self._options.num_beams)
        self._scores = running[order]
        before = [beam.tokens for beam in self._beams]
        self._beams = [candidates[i] for i in order]
        self._pass_caches_on(beams[order].tolist(), before)
        self.done = not self._can_improve(length) or (self._options.early_stopping is True and self._full())

    def _apply_penalties(self, row: FloatArray, tokens: list[int]) -> None:
        """In the order of Model.generate, on log-probabilities as transformers does it."""
        options = self._options
        for id, bias in options.logit_bias:
            row[id] += np.float32(bias)
        if options.repetition_penalty != 1 or options.presence_penalty != 0 or options.frequency_penalty != 0:
            self._penalize(row, tokens)
        if options.no_repeat_ngram_size > 0:
            row[repeats([*self.prompt, *tokens], options.no_repeat_ngram_size)] = -np.inf

    def _penalize(self, row: FloatArray, tokens: list[int]) -> None:
        options = self._options
        seen = np.array(sorted({*self.prompt, *tokens}))
        penalty = np.float32(options.repetition_penalty)
        row[seen] = np.where(row[seen] < 0, row[seen] * penalty, row[seen] / penalty)
        for id, times in Counter(tokens).items():
            row[id] -= np.float32(times) * np.float32(options.frequency_penalty)
            row[id] -= np.float32(options.presence_penalty)

    def _extended(self, parents: IntArray, ids: IntArray, logits: FloatArray) -> list[_Beam]:
        """Beams with one token more each. What is reported of tokens has the bits of ``Model.score``."""
        beams, count = [self._beams[parent] for parent in parents], self._options.num_logprobs
        if count < 0:
            return [_Beam([*beam.tokens, id]) for beam, id in zip(beams, ids.tolist(), strict=True)]
        rows = parents if len(logits) > 1 else np.zeros_like(parents)  # a prompt's beams have one row at first
        found = self._logprobs(logits, rows, ids)
        tops = {row: self._top(logits, row) if count else [] for row in set(rows.tolist())}
        return [
            _Beam([*beam.tokens, id], [*beam.logprobs, logprob], [*beam.top, tops[row]])
            for beam, row, id, logprob in zip(beams, rows.tolist(), ids.tolist(), found, strict=True)
        ]

    def _top(self, logits: FloatArray, row: int) -> TopLogprobs:
        ids = _core.largest(logits[row], self._options.num_logprobs)
        return list(zip(ids.tolist(), self._logprobs(logits, np.full_like(ids, row), ids).tolist(), strict=True))

    def _logprobs(self, logits: FloatArray, rows: IntArray, ids: IntArray) -> FloatArray:
        logprobs: FloatArray = _core.score_rows(logits[rows], ids.astype(np.int32), threads=self._model.threads)[0]
        return logprobs

    def _ends(self, beam: _Beam) -> bool:
        if beam.tokens[-1] in self._options.eos_token_ids:
            return True
        return bool(self._options.stop) and _stop_place(self._tokenizer.decode(beam.tokens), self._options.stop) >= 0

    def _hypothesis(self, beam: _Beam, score: np.float32) -> Hypothesis:
        """A text that ends here."""
        reason: FinishReason = "eos" if beam.tokens and beam.tokens[-1] in self._options.eos_token_ids else "length"
        text = self._tokenizer.decode(beam.tokens[:-1] if reason == "eos" else beam.tokens)
        if (place := _stop_place(text, self._options.stop)) >= 0:
            reason, text = "stop", text[:place]
        count = self._options.num_logprobs
        return Hypothesis(
            beam.tokens,
            score,
            reason,
            text,
            np.array(beam.logprobs, np.float32) if count >= 0 else None,
            beam.top if count > 0 else None,
        )

    def _pass_caches_on(self, parents: list[int], tokens: list[list[int]]) -> None:
        """The first child of a beam takes over its cache, others get copies, in caches of beams that have no child;
        ``tokens`` are those of the beams so far.
        """
        old, caches = self._caches, []
        if len(old) < len(parents):  # the prompt alone
            self._caches = [old[0], *(self._model.fork(old[0]) for _ in parents[1:])]
            return
        childless = [i for i in range(len(old)) if i not in parents]
        for place, parent in enumerate(parents):
            if parent not in parents[:place]:
                caches.append(old[parent])
                continue
            other = childless.pop()
            num_equal = next(
                (i for i, (a, b) in enumerate(zip(tokens[parent], tokens[other], strict=True)) if a != b), 0
            )
            old[other].become(old[parent], len(self.prompt) + num_equal)
            caches.append(old[other])
        self._caches = caches

    def _full(self) -> bool:
        return len(self.finished) == self._options.num_beams

    def _can_improve(self, length: int) -> bool:
        """Whether a beam could still come to a better score than the worst finished one."""
        if not self._full():
            return True
        if self._options.early_stopping == "never" and self._options.length_penalty > 0:
            length = self._max_tokens
        return bool(self._scores[0] / length_factor(length, self._options.length_penalty) > self.finished[-1].score)


def repeats(tokens: list[int], n: int) -> list[int]:
    """The tokens that would end a run of ``n`` tokens which is there already."""
    known = n - 1
    last = tokens[len(tokens) - known :] if known <= len(tokens) else None
    return [tokens[i + known] for i in range(len(tokens) - known) if tokens[i : i + known] == last]


def length_factor(length: int, penalty: float) -> np.float32:
    """``length ** penalty``, in decimal: the last bits of ``math.pow`` are those of a machine's own library."""
    factor: np.float32 = np.float32(float(_DECIMAL.power(Decimal(length), Decimal(penalty))))
    return factor


def _stop_place(text: str, stop: list[str]) -> int:
    """Where the stop string begins that ends first, of those that end together the longest; -1: there is none."""
    found = [(place + len(string), place) for string in stop if (place := text.find(string)) >= 0]
    return min(found)[1] if found else -1


def beam_search(
    model: _core.Model,
    tokenizer: Tokenizer,
    prompts: Iterable[list[int]],
    options: BeamOptions,
    max_kv_bytes: int,
) -> Iterator[tuple[int, list[int], list[Hypothesis]]]:
    """Runs prompts together, as many as have room, taken from the iterable as there is; gives each one's number, itself
    and its finished texts, best first, as they are done. A prompt's result does not depend on its neighbours. Keys and
    values take at most ``max_kv_bytes``, but one prompt may always run.
    """
    config = model.file.config
    coming = Coming(prompts)
    following = coming.take()
    active: list[tuple[int, _Search, int]] = []
    while following or active:
        while following:
            number, prompt = following
            positions = min(len(prompt) + options.max_new_tokens, config["max_position_embeddings"])
            size_bytes = (
                2 * options.num_beams * positions * model.kv_bytes_per_position
            )  # old and new caches, while beams change
            rows = (len(active) + 1) * options.num_beams
            if active and (rows > _MAX_ROWS or sum(a[2] for a in active) + size_bytes > max_kv_bytes):
                break
            active.append((number, _Search(model, tokenizer, prompt, options), size_bytes))
            following = coming.take()
        running = [search for _, search, _ in active if not search.done]
        slices = [search.slices() for search in running]
        if running:
            logits = model.forward([one for several in slices for one in several])
            ends = np.cumsum([len(several) for several in slices]).tolist()
            for search, begin, end in zip(running, [0, *ends], ends, strict=False):
                search.advance(logits[begin:end])
        for number, search, _ in active:
            if search.done:
                yield number, search.prompt, search.finished
        active = [one for one in active if not one[1].done]
    coming.finish()
