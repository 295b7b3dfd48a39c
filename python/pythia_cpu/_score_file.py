"""Scores of many texts in a file of JSON lines, written as they come and continued after an interruption."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pythia_cpu import _core
from pythia_cpu._arguments import iterator, refuse_table
from pythia_cpu._file_inputs import identity_of, members
from pythia_cpu._identity import model_key
from pythia_cpu._record_file import Head, add_records, batches, record_head, record_line, shortest
from pythia_cpu._score_run import IdsRequest, ScoreRequest, TargetScores

# Inputs are scored and written together until they have as many tokens as take about this long, within bounds: what an
# interruption costs at most.
_SECONDS_PER_WRITE = 10.0
_LEAST_TOKENS_PER_WRITE, _MOST_TOKENS_PER_WRITE = 1 << 11, 1 << 16

_MEMBERS = ("text", "context", "continuation")  # beside "id"; others are ignored
_KEYS = ({"text"}, {"context", "continuation"})


class Encoder(Protocol):
    """How inputs become requests; ``ScoringModel`` is one."""

    core: _core.Model

    def ids(self, name: str, text: object) -> list[int]:
        """Token ids of a text, perhaps none."""

    def pair(self, context: object, continuation: object) -> IdsRequest:
        """The request of a continuation."""

    def windows(self, ids: list[int], *, context_length: int | None, stride: int | None) -> Sequence[ScoreRequest]:
        """The requests of a text."""

    def num_scored_bytes(self, text: str, num_tokens: int, windows: Sequence[ScoreRequest]) -> int:
        """The bytes of those of a text's tokens that its windows score."""

    def run(self, requests: Sequence[ScoreRequest], *, progress: bool) -> list[TargetScores]:
        """The scores of all requests, in their order."""


@dataclass(frozen=True)
class FileOptions:
    """What beside the inputs decides on the records."""

    per_token: bool
    context_length: int | None
    stride: int | None


@dataclass(frozen=True)
class _Record:
    """An input on its way into the file."""

    head: Head
    requests: Sequence[ScoreRequest]
    num_text_tokens: int
    num_bytes: int | None

    @property
    def num_inputs(self) -> int:
        """Tokens of all requests, which is what they cost."""
        return sum(len(tokens) for tokens, _ in self.requests)

    def line(self, scores: Sequence[TargetScores], *, per_token: bool) -> bytes:
        """The record as it is written, from the scores of each request."""
        log_likelihood = math.fsum(x for one in scores for x in one.logprobs.tolist())
        num_tokens = sum(len(one.logprobs) for one in scores)
        fields: dict[str, object] = {
            "num_text_tokens": self.num_text_tokens,
            "num_tokens": num_tokens,
            "num_bytes": self.num_bytes,
            "log_likelihood": log_likelihood,
            "num_greedy": sum(int((one.ranks == 0).sum()) for one in scores),
        }
        if per_token:
            fields["tokens"] = [int(token) for ids, first in self.requests for token in ids[first:]]
            fields["logprobs"] = [x for one in scores for x in shortest(one.logprobs)]
            fields["ranks"] = [rank for one in scores for rank in one.ranks.tolist()]
            fields["entropies"] = [x for one in scores for x in shortest(one.entropies)]
            fields["varentropies"] = [x for one in scores for x in shortest(one.varentropies)]
        return record_line(self.head, fields)


class _Pace:
    """How many tokens are written at once: few at first, then as many as the model's speed allows."""

    def __init__(self) -> None:
        self.tokens_per_write = _LEAST_TOKENS_PER_WRITE

    @contextlib.contextmanager
    def measuring(self, num_tokens: int) -> Iterator[None]:
        """Around the scoring of so many tokens: from how long it takes comes what is written at once next."""
        begin = time.monotonic()
        yield
        seconds = max(time.monotonic() - begin, 1e-6)
        allowed = int(num_tokens / seconds * _SECONDS_PER_WRITE)
        self.tokens_per_write = max(_LEAST_TOKENS_PER_WRITE, min(allowed, _MOST_TOKENS_PER_WRITE))


def score_to_file(
    encoder: Encoder, inputs: Iterable[object], path: str | os.PathLike[str], options: FileOptions, *, progress: bool
) -> int:
    """``Model.score_to_file``."""
    refuse_table("inputs", inputs, ".to_dict('records')")
    coming = iterator("inputs", inputs, "texts one after the other, e.g. a list")
    key = model_key(encoder.core.file)
    items = ((item, _head(number, item, key, options)) for number, item in enumerate(coming))
    total = len(inputs) if isinstance(inputs, Sized) else None

    def lines(items: Iterator[tuple[object, Head]]) -> Iterator[list[bytes]]:
        records = (_record(encoder, item, head, options) for item, head in items)
        pace = _Pace()
        for batch in batches(records, lambda record: max(1, record.num_inputs), lambda: pace.tokens_per_write):
            requests = [request for record in batch for request in record.requests]
            with pace.measuring(sum(record.num_inputs for record in batch)):
                scores = iter(encoder.run(requests, progress=False))
            yield [
                record.line([next(scores) for _ in record.requests], per_token=options.per_token) for record in batch
            ]

    return add_records(path, items, lines, total=total, unit=" texts", progress=progress)


def _head(number: int, item: object, key: str, options: FileOptions) -> Head:
    fields = members(item, "text")
    used = {name: fields[name] for name in _MEMBERS if name in fields}
    if used.keys() not in _KEYS:
        raise ValueError(
            f"inputs[{number}] has {sorted(map(str, fields))}, expected 'text', or 'context' and 'continuation', "
            "and perhaps 'id'"
        )
    identity = identity_of(fields, f"inputs[{number}]")
    try:
        content = {
            name: value if isinstance(value, str) else np.asarray(value).tolist() for name, value in used.items()
        }
        return record_head(number, identity, key, [content, options.per_token, options.context_length, options.stride])
    except (TypeError, ValueError) as error:
        raise ValueError(f"inputs[{number}] is neither str nor token ids: {error}") from None


def _record(encoder: Encoder, item: Any, head: Head, options: FileOptions) -> _Record:
    name = f"inputs[{head['index']}]"
    fields = members(item, "text")
    try:
        if "text" in fields:
            text = fields["text"]
            ids = encoder.ids("text", text)
            requests = encoder.windows(ids, context_length=options.context_length, stride=options.stride)
            num_tokens = len(ids)
            num_bytes = encoder.num_scored_bytes(text, num_tokens, requests) if isinstance(text, str) else None
        else:
            text = fields["continuation"]
            tokens, first = encoder.pair(fields["context"], text)
            requests, num_tokens = [(tokens, first)], len(tokens) - first
            num_bytes = None
            if isinstance(text, str):  # with the white space that is its own
                context: str = fields["context"]
                num_bytes = len(text.encode()) + len(context.encode()) - len(context.rstrip().encode())
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return _Record(head, requests, num_tokens, num_bytes)
