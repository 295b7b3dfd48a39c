"""Texts of all rows written in step, for functions of a script that see whole batches, as in transformers' own loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pythia_cpu import _core
from pythia_cpu._generation_arguments import GenerationArguments
from pythia_cpu._model import Model
from pythia_cpu.hf._forward import Floats, Rows
from pythia_cpu.hf._processors import Process
from pythia_cpu.hf._scores import FILTERS

_PENALTIES = "repetition_penalty", "no_repeat_ngram_size"


@dataclass(frozen=True)
class Functions:
    """What a script has a say with.

    Attributes:
        processors: change the scores of all rows, in order.
        criteria: of the ids of all rows and their scores; say of each row, or of all, whether it ends.
        max_time_s: ends all rows.
        put: gets the tokens of the only row.
    """

    processors: Sequence[Process] = ()
    criteria: Sequence[Callable[[Rows, Floats], Any]] = ()
    max_time_s: float = math.inf
    put: Callable[[int], None] | None = None


@dataclass(frozen=True)
class Ends:
    """Where new texts end, beside at stop strings.

    Attributes:
        max_new_tokens: the most tokens that they have.
        min_new_tokens: the tokens before the first of ``eos_token_ids``, at least.
        eos_token_ids: the ids that end them.
    """

    max_new_tokens: int
    min_new_tokens: int
    eos_token_ids: list[int]


class Stepwise:
    """The rows of one call on their way."""

    def __init__(self, model: Model, rows: Rows, prompts: Sequence[Rows], *, fill: int, engine: dict[str, Any]) -> None:
        """Padded rows ``[n, width]`` and their prompts without padding; ``fill`` goes on where a row has ended;
        ``engine`` has options of ``Model.generate``, its seed a list.
        """
        count = engine.get("num_return_sequences", 1)
        seeds = engine["seed"] if isinstance(engine.get("seed"), list) else [0] * len(rows)
        self._model, self._fill = model, fill
        self._prompts = [prompt.tolist() for prompt in prompts for _ in range(count)]
        self._ids = np.repeat(rows, count, axis=0)
        self._draws = [(seed, k) for seed in seeds for k in range(count)]
        self._tokens: list[list[int]] = [[] for _ in self._prompts]
        self._done = np.zeros(len(self._prompts), np.bool_)
        self._engine = engine

    def run(self, functions: Functions, ends: Ends, is_stopped: Callable[[int, list[int]], bool]) -> list[list[int]]:
        """The new tokens of all rows; ``is_stopped`` says of a row's number and tokens whether a stop string is
        complete.
        """
        begin_s = time.monotonic()
        context_length = self._model.context_length
        caches = [
            _core.KvCache(self._model._core, min(context_length, len(prompt) + ends.max_new_tokens))
            for prompt in self._prompts
        ]
        for step in range(ends.max_new_tokens):
            running = np.flatnonzero(~self._done).tolist()
            unread = [self._tokens[i][-1:] or self._prompts[i] for i in running]
            passes = [(caches[i], np.array(ids, np.int32), 1) for i, ids in zip(running, unread, strict=True)]
            scores = np.zeros((len(caches), self._model.config["vocab_size"]), np.float32)  # of rows that have ended
            scores[running] = self._model._core.forward(passes)
            banned = dict.fromkeys(ends.eos_token_ids, -math.inf) if step < ends.min_new_tokens else {}
            scores = self._with_penalties(scores, running, banned)
            for process in functions.processors:
                scores = process(self._ids, scores)
            new = np.full(len(caches), self._fill, np.int64)
            for i in running:
                new[i] = self._choose(i, scores[i], step)
                self._tokens[i].append(int(new[i]))
            self._ids = np.concatenate([self._ids, new[:, None]], axis=1)
            if functions.put is not None:
                functions.put(int(new[0]))
            for i in running:
                is_full = len(self._prompts[i]) + len(self._tokens[i]) > context_length
                self._done[i] = is_full or new[i] in ends.eos_token_ids or is_stopped(i, self._tokens[i])
            for criterion in functions.criteria:
                self._done |= np.asarray(criterion(self._ids, scores)).astype(np.bool_)
            if self._done.all() or time.monotonic() - begin_s > functions.max_time_s:
                break
        return self._tokens

    def _with_penalties(self, scores: Floats, running: list[int], banned: dict[int, float]) -> Floats:
        """Scores after what transformers applies before a script's own processors."""
        bias = {**self._engine.get("logit_bias", {}), **banned}
        penalties = {name: self._engine[name] for name in _PENALTIES if name in self._engine}
        if not bias and not penalties:
            return scores
        sampling = GenerationArguments(do_sample=True, logit_bias=bias or None, **penalties).sampling()
        left = np.zeros_like(scores)
        left[running] = -np.inf
        for i in running:
            of_row = {"prompt": self._prompts[i], "generated": self._tokens[i]}
            ids, kept, _ = _core.filter_logits(scores[i], sampling, **of_row)
            left[i, ids] = kept
        return left

    def _choose(self, i: int, scores: Floats, step: int) -> int:
        names = ("do_sample", *(FILTERS if self._engine.get("do_sample") else ()))
        options = {name: self._engine[name] for name in names if name in self._engine}
        seed, sequence = self._draws[i]
        sampling = GenerationArguments(**options).sampling()
        (token,) = _core.sample_logits(scores, sampling, seed=seed, sequence=sequence, first_step=step)
        return int(token)
