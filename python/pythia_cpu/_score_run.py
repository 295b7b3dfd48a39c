"""Runs the core's scorer pass by pass, with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._edits import Activation, Editor
from pythia_cpu._passes import runs_of_a_pass
from pythia_cpu._progress import ProgressBar

IdsRequest = tuple[list[int], int]
"""Token ids, and the first of them that is scored; 1 or more."""
ScoreRequest = IdsRequest | tuple[npt.NDArray[np.int32], int]
"""The same, or with an array of them."""


class TargetScores(NamedTuple):
    """Scores of a request's tokens, one entry each."""

    logprobs: npt.NDArray[np.float32]
    argmax: npt.NDArray[np.int32]
    ranks: npt.NDArray[np.int32]
    entropies: npt.NDArray[np.float32]
    varentropies: npt.NDArray[np.float32]


def run_requests(
    core: _core.Model, requests: Sequence[ScoreRequest], *, progress: bool
) -> Iterator[tuple[int, TargetScores]]:
    """Yields each request's number and scores when it has ended, in the order in which they end.

    Args:
        core: the model.
        requests: what to score.
        progress: show a bar on standard error, in a terminal or notebook, if it takes longer than a second.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the pass in which it came.
        ValueError: a request that the core refuses.
    """
    scorer = _core.Scorer(core, list(requests))
    for number, (tokens, first_target) in enumerate(requests):
        if first_target >= len(tokens):
            yield number, TargetScores(*scorer.scores(number))
    with ProgressBar(scorer.num_inputs, what="scoring", unit=" tokens", enabled=progress) as bar:
        while not scorer.done:
            before = scorer.num_inputs_done
            ended = scorer.step()
            bar.update(scorer.num_inputs_done - before)
            for number in ended:
                yield number, TargetScores(*scorer.scores(number))


def run_edited(
    core: _core.Model, requests: Sequence[ScoreRequest], editor: Editor, *, progress: bool
) -> Iterator[tuple[int, TargetScores]]:
    """As ``run_requests``, with activations edited on their way, those of all texts alike; without a change the scores
    have the same bits.
    """

    def edited(_: int, name: str, array: Activation) -> Activation | None:
        return editor.apply(0, name, array)

    def scores(logits: npt.NDArray[np.float32], targets: npt.ArrayLike) -> TargetScores:
        return TargetScores(*_core.score_rows(logits, np.array(targets, np.int32), threads=core.threads))

    numbers = []
    for number, (tokens, first_target) in enumerate(requests):
        if first_target < len(tokens):
            numbers.append(number)
        else:
            yield number, scores(np.empty((0, core.file.config["vocab_size"]), np.float32), [])
    inputs = [np.array(requests[number][0][:-1], np.int32) for number in numbers]
    with ProgressBar(sum(map(len, inputs)), what="scoring", unit=" tokens", enabled=progress) as bar:
        for begin, end in runs_of_a_pass([len(ids) for ids in inputs]):
            targets = [tokens[first:] for tokens, first in (requests[number] for number in numbers[begin:end])]
            counts = [len(ids) for ids in targets]
            logits = core.inspect(inputs[begin:end], editor.names, edited, counts)
            bar.update(sum(len(ids) for ids in inputs[begin:end]))
            rows = np.split(logits, np.cumsum(counts)[:-1])
            for number, of_one, ids in zip(numbers[begin:end], rows, targets, strict=True):
                yield number, scores(of_one, ids)
