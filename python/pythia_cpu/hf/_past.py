"""``past_key_values``: what rows have been read so far, to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        width = max_length if max_length >= 0 else self.width + max_length
        for session in self.sessions:
            session.truncate(max(0, len(session) - max(0, self.width - width)))
        self.width = min(self.width, width)

    def __deepcopy__(self, memo: object) -> PastKeyValues:
        """Copies of the keys and values."""
        return PastKeyValues([session.fork() for session in self.sessions], self.width)

    def check(self, rows: Rows, attention_mask: Any, context_length: int) -> None:
        """Whether rows may follow.

        Raises:
            ValueError: another number of rows, a mask that is not one of all columns, padding, or too many ids.
        """
        num_new = rows.shape[1]
        if len(rows) != len(self.sessions):
            raise ValueError(f"input_ids has {len(rows)} rows, but past_key_values has {len(self.sessions)}")
        if attention_mask is not None:
            mask = id_rows("attention_mask", attention_mask, floats=True)
            expected = [len(rows), self.width + num_new]
            if list(mask.shape) != expected or not mask[:, -num_new:].all():
                raise ValueError(
                    f"attention_mask has shape {list(mask.shape)}, expected {expected}, past columns too, and ones for "
                    "the new ids"
                )
        longest = max(map(len, self.sessions))
        if longest + num_new > context_length:
            raise ValueError(
                f"past_key_values has {longest} tokens and input_ids {num_new} more, but the model's context holds "
                f"{context_length}: use fewer"
            )

    def __repr__(self) -> str:
        """How much it holds."""
        return f"PastKeyValues({len(self.sessions)} rows of {self.width})"


def as_past(value: object) -> PastKeyValues:
    """Checks its type."""
    if not isinstance(value, PastKeyValues):
        kind = type(value).__name__
        raise ValueError(f"past_key_values is of type {kind}, expected what a forward pass of this model has given")
    return value
