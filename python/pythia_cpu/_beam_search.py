"""Beam search with transformers' rules (transformers 5, generation/utils.py, _beam_search), batched over prompts.

Each step scores all continuations of a prompt's beams by their summed log-probability and takes the best. Those that
end are kept by ``sum / length ** length_penalty``, the others are the next beams. Among equal scores the lower beam and
then the lower id wins, so the result depends on the logits alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core

_NEVER = np.float32(-1e9)  # transformers' score of a beam that is not there
_MAX_ROWS = 64  # beams that run together: weights are read once for all of them
_MAX_KV_BYTES = 1 << 32  # of all of them; one prompt may always run

FloatArray = npt.NDArray[np.float32]


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


@dataclass
class Hypothesis:
    """A finished text: its new tokens, and the score that ranks it."""

    tokens: list[int]
    score: np.float32
    finish_reason: Literal["eos", "length"]


class _Search:
    """One prompt's search."""

    def __init__(self, model: _core.Model, prompt: list[int], options: BeamOptions) -> None:
        self._model = model
        self._options = options
        self._prompt = prompt
        context = model.file.config["max_position_embeddings"]
        # The last position of a full context still predicts a token, which cannot be read back.
        self._max_tokens = min(options.max_new_tokens, context - len(prompt) + 1)
        self._keep = max(2, 1 + len(options.eos_token_ids)) * options.num_beams
        self._tokens: list[list[int]] = [[] for _ in range(options.num_beams)]
        self._scores: FloatArray = np.full(options.num_beams, _NEVER, np.float32)
        self._scores[0] = 0  # all beams are the same at first
        self._caches = [_core.KvCache(model, len(prompt) + max(self._max_tokens, 1) - 1)]
        self.finished: list[Hypothesis] = []  # the best num_beams, best first
        self.done = self._max_tokens == 0
        if self.done:
            self.finished = [Hypothesis([], np.float32(0), "length") for _ in range(options.num_beams)]

    def slices(self) -> list[tuple[_core.KvCache, npt.NDArray[np.int32], int]]:
        """What the model is to read: the prompt once, then each beam's last token."""
        new = [self._prompt] if not self._tokens[0] else [tokens[-1:] for tokens in self._tokens]
        return [(cache, np.array(ids, np.int32), 1) for cache, ids in zip(self._caches, new, strict=True)]

    def advance(self, logits: FloatArray) -> None:
        """Takes the logits of all slices and makes a step."""
        logprobs = _core.log_softmax(logits)
        if len(logprobs) < len(self._tokens):
            logprobs = np.repeat(logprobs, len(self._tokens), axis=0)
        for row, tokens in zip(logprobs, self._tokens, strict=True):
            self._apply_penalties(row, tokens)
        totals = (logprobs + self._scores[:, None]).reshape(-1)
        totals[np.isnan(totals)] = -np.inf
        best = _largest(totals, self._keep)
        if totals[best[0]] == -np.inf:
            raise ValueError(
                "no token has a score above -infinity: check the weights, and logit_bias if it bans tokens"
            )
        beams, ids = np.divmod(best, logprobs.shape[1])
        length = len(self._tokens[0]) + 1
        at_limit = length == self._max_tokens
        ends = np.array([at_limit or int(id) in self._options.eos_token_ids for id in ids])

        top = np.arange(len(best)) < self._options.num_beams
        self._add_finished(totals, best[ends & top], beams[ends & top], ids[ends & top])
        if at_limit:
            self.done = True
            return
        running = totals[best] + ends.astype(np.float32) * _NEVER
        order = _largest(running, self._options.num_beams)
        self._continue(beams[order], ids[order], running[order])
        self.done = not self._can_improve(length) or (self._options.early_stopping is True and self._full())

    def _apply_penalties(self, row: FloatArray, tokens: list[int]) -> None:
        """In the order of Model.generate, on log-probabilities as transformers does it."""
        options = self._options
        for id, bias in options.logit_bias:
            row[id] += np.float32(bias)
        if options.repetition_penalty == 1 and options.presence_penalty == options.frequency_penalty == 0:
            return
        seen = np.array(sorted({*self._prompt, *tokens}))
        penalty = np.float32(options.repetition_penalty)
        row[seen] = np.where(row[seen] < 0, row[seen] * penalty, row[seen] / penalty)
        for id, times in Counter(tokens).items():
            row[id] -= np.float32(times) * np.float32(options.frequency_penalty)
            row[id] -= np.float32(options.presence_penalty)

    def _length_factor(self, length: int) -> np.float32:
        factor: np.float32 = np.float32(math.pow(length, self._options.length_penalty))
        return factor

    def _add_finished(
        self,
        totals: FloatArray,
        places: npt.NDArray[np.intp],
        beams: npt.NDArray[np.intp],
        ids: npt.NDArray[np.intp],
    ) -> None:
        factor = self._length_factor(len(self._tokens[0]) + 1)
        for place, beam, id in zip(places, beams, ids, strict=True):
            reason: Literal["eos", "length"] = "eos" if int(id) in self._options.eos_token_ids else "length"
            tokens = [*self._tokens[beam], int(id)]
            self.finished.append(Hypothesis(tokens, totals[place] / factor, reason))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)  # stable: the earlier one of equals
        del self.finished[self._options.num_beams :]

    def _continue(self, parents: npt.NDArray[np.intp], ids: npt.NDArray[np.intp], scores: FloatArray) -> None:
        """The next beams. The first child of a beam takes over its cache, others get copies."""
        self._tokens = [[*self._tokens[parent], int(id)] for parent, id in zip(parents, ids, strict=True)]
        self._scores = scores
        old, taken = self._caches, set()
        if len(old) < len(parents):
            parents = np.zeros_like(parents)
        caches = []
        for parent in parents.tolist():
            caches.append(self._model.fork(old[parent]) if parent in taken else old[parent])
            taken.add(parent)
        self._caches = caches

    def _full(self) -> bool:
        return len(self.finished) == self._options.num_beams

    def _can_improve(self, length: int) -> bool:
        """Whether a beam could still come to a better score than the worst finished one."""
        if not self._full():
            return True
        if self._options.early_stopping == "never" and self._options.length_penalty > 0:
            length = self._max_tokens
        return bool(self._scores[0] / self._length_factor(length) > self.finished[-1].score)


def _largest(values: FloatArray, count: int) -> npt.NDArray[np.intp]:
    """Places of the ``count`` largest values (all, if there are fewer), largest first, the lower place of equals."""
    count = min(count, len(values))
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    places = np.flatnonzero(values >= threshold)
    order: npt.NDArray[np.intp] = places[np.argsort(-values[places], kind="stable")][:count]
    return order


def beam_search(
    model: _core.Model, prompts: list[list[int]], options: BeamOptions
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Runs prompts together, as many as have room; gives each prompt's number and its finished texts, best first, as
    they are done. A prompt's result does not depend on its neighbours.
    """
    config = model.file.config
    position_bytes = 2 * 4 * config["num_hidden_layers"] * config["hidden_size"]
    waiting = list(enumerate(prompts))[::-1]
    active: list[tuple[int, _Search, int]] = []
    while waiting or active:
        while waiting:
            number, prompt = waiting[-1]
            positions = min(len(prompt) + options.max_new_tokens, config["max_position_embeddings"])
            size_bytes = 2 * options.num_beams * positions * position_bytes  # old and new caches, while beams change
            rows = (len(active) + 1) * options.num_beams
            if active and (rows > _MAX_ROWS or sum(a[2] for a in active) + size_bytes > _MAX_KV_BYTES):
                break
            waiting.pop()
            active.append((number, _Search(model, prompt, options), size_bytes))
        running = [search for _, search, _ in active if not search.done]
        slices = [search.slices() for search in running]
        if running:
            logits = model.forward([one for several in slices for one in several])
            ends = np.cumsum([len(several) for several in slices]).tolist()
            for search, begin, end in zip(running, [0, *ends], ends, strict=False):
                search.advance(logits[begin:end])
        for number, search, _ in active:
            if search.done:
                yield number, search.finished
        active = [one for one in active if not one[1].done]
