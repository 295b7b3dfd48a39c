"""``past_key_values``: what rows have been read so far, to go on from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pythia_cpu._model import Model
from pythia_cpu._session import Session, append_each
from pythia_cpu.hf._arrays import id_rows
from pythia_cpu.hf._forward import Rows


class PastKeyValues:
    """A session for each row; given to the next forward pass, it grows by what that reads, as transformers' caches do.

    ``copy.deepcopy`` gives one that goes its own way.
    """

    def __init__(self, sessions: Sequence[Session], width: int) -> None:
        """``width`` is the rows' length so far, with padding."""
        self.sessions = list(sessions)
        self.width = width

    @classmethod
    def of(cls, model: Model, rows: Rows, spans: Sequence[slice]) -> PastKeyValues:
        """Reads rows again, into sessions.

        Raises:
            ValueError: a row with padding on the right, after which positions would not go on.
        """
        width, sessions = rows.shape[1], []
        for i, span in enumerate(spans):
            if span.stop != width:
                raise ValueError(
                    f"past_key_values are asked for, but row {i} has padding on the right, after which it cannot go "
                    "on: pad on the left"
                )
            sessions.append(model.session())
        append_each(sessions, [row[span] for row, span in zip(rows, spans, strict=True)], logits=False)
        return cls(sessions, width)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The rows' length so far, with padding; that of every layer."""
        return self.width

    def crop(self, max_length: int) -> None:
        """Forgets all columns from ``max_length`` on; below 0: so many of the last."""
        width = max(0, max_length if max_length >= 0 else self.width + max_length)
        for session in self.sessions:
            session.truncate(max(0, len(session) - max(0, self.width - width)))
        self.width = min(self.width, width)

    def __deepcopy__(self, memo: object) -> PastKeyValues:
        """Copies of the keys and values."""
        return PastKeyValues([session.fork() for session in self.sessions], self.width)

    def check(self, model: Model, rows: Rows, attention_mask: Any, position_ids: Any) -> None:
        """Whether rows may follow.

        Raises:
            ValueError: another model or number of rows, a mask that is not that of all columns, padding, positions that
                do not go on, or too many ids.
        """
        num_new = rows.shape[1]
        if any(session._model is not model._core for session in self.sessions):
            raise ValueError("past_key_values are another model's: pass those that this model has given")
        if len(rows) != len(self.sessions):
            raise ValueError(f"input_ids has {len(rows)} rows, but past_key_values has {len(self.sessions)}")
        if attention_mask is not None:
            mask = id_rows("attention_mask", attention_mask, floats=True)
            padding = [self.width - len(session) for session in self.sessions]
            expected = np.arange(self.width + num_new) >= np.array(padding)[:, None]
            if mask.shape != expected.shape:
                raise ValueError(
                    f"attention_mask has shape {list(mask.shape)}, expected {list(expected.shape)}, past columns too"
                )
            if (mask.astype(bool) != expected).any():
                raise ValueError(
                    "attention_mask has ones where past_key_values hold padding, or zeros elsewhere: pass that of the "
                    "earlier calls, and ones for the new ids"
                )
        if position_ids is not None:
            self._check_positions(id_rows("position_ids", position_ids), len(rows), num_new)
        longest = max(map(len, self.sessions))
        if longest + num_new > model.context_length:
            raise ValueError(
                f"past_key_values has {longest} tokens and input_ids {num_new} more, but the model's context holds "
                f"{model.context_length}: use fewer"
            )

    def _check_positions(self, positions: Rows, num_rows: int, num_new: int) -> None:
        """They go on from those that the past's columns have, or its tokens."""
        if positions.shape[1] != num_new or len(positions) not in (1, num_rows):
            raise ValueError(f"position_ids has shape {list(positions.shape)}, expected {[num_rows, num_new]}")
        for session, row in zip(self.sessions, np.broadcast_to(positions, (num_rows, num_new)), strict=True):
            if not any((row - begin == np.arange(num_new)).all() for begin in (len(session), self.width)):
                raise ValueError(
                    f"position_ids do not go on from the {len(session)} tokens of past_key_values: leave them out"
                )

    @contextlib.contextmanager
    def growing(self, num_new: int) -> Iterator[None]:
        """Around a pass that reads so many ids more into every row; where it fails, the past is as it was."""
        lengths = [len(session) for session in self.sessions]
        try:
            yield
        except BaseException:
            for session, length in zip(self.sessions, lengths, strict=True):
                session.truncate(length)
            raise
        self.width += num_new

    def __repr__(self) -> str:
        """How much it holds."""
        return f"PastKeyValues({len(self.sessions)} rows of {self.width})"


def as_past(value: object) -> PastKeyValues:
    """Checks its type."""
    if not isinstance(value, PastKeyValues):
        kind = type(value).__name__
        raise ValueError(f"past_key_values is of type {kind}, expected what a forward pass of this model has given")
    return value
