"""Forward passes over rows with padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core, _passes
from pythia_cpu._arguments import sequence_ids
from pythia_cpu._model import Model
from pythia_cpu._results import ByIdentity
from pythia_cpu._session import Session, append_each
from pythia_cpu.hf._arrays import id_rows

_IGNORED_LABEL = -100
_LOSS_ROWS = 128  # of logits at a time

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class ModelOutput(ByIdentity, Mapping[str, Any]):
    """The fields of a dataclass by name and by place; those that are None are not there, as in transformers."""

    def __getattr__(self, name: str) -> Any:
        """Says what there is."""
        names = ", ".join(self._names())
        raise AttributeError(f"pythia_cpu's {type(self).__name__} has no {name!r}: it has {names}")

    def _names(self) -> list[str]:
        return [field.name for field in fields(self) if not field.name.startswith("_")]  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[str]:
        """Names of the fields that are there."""
        return (name for name in self._names() if getattr(self, name) is not None)

    def __len__(self) -> int:
        """How many fields are there."""
        return sum(1 for _ in self)

    def _places(self) -> list[str]:
        """Names in their order."""
        return list(self)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are there, in their order."""
        return tuple(getattr(self, name) for name in self._places())

    def __getitem__(self, key: str | int | slice) -> Any:
        """A field by name, or by its place among those that are there."""
        if isinstance(key, str):
            if key not in self._places() and not (key == "cache" and "past_key_values" in self._places()):
                raise KeyError(key)
            return getattr(self, key)
        names = self._places()[key]
        return getattr(self, names) if isinstance(names, str) else tuple(getattr(self, name) for name in names)


@dataclass(frozen=True, eq=False)
class CausalLMOutput(ModelOutput):
    """What a forward pass gives; everything is 0 where the attention mask is 0.

    ``past_key_values``, between logits and hidden states by place, is not among the names: it is made when it is asked
    for. ``cache`` is another name of it, that of transformers from 5.24 on.

    Attributes:
        loss: mean cross-entropy of ``labels``, in nats for each token; None without labels.
        logits: float32 ``[batch, length, vocab_size]``.
        hidden_states: of ``output_hidden_states``: float32 ``[batch, length, hidden_size]``, the embeddings and then
            what each layer gives, the last one after the final LayerNorm, as in transformers.
        attentions: of ``output_attentions``: float32 ``[batch, num_heads, length, num_keys]``, queries by keys, one for
            each layer.
    """

    loss: Any = None
    logits: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    _past: Any = field(default=None, repr=False)  # or a function that gives it

    @property
    def past_key_values(self) -> Any:
        """What the next forward pass can go on from; None with ``use_cache=False``. After a pass that was not given one
        the rows are read once more for it.
        """
        if callable(self._past):
            object.__setattr__(self, "_past", self._past())
        return self._past

    @property
    def cache(self) -> Any:
        """``past_key_values``."""
        return self.past_key_values

    def _places(self) -> list[str]:
        names = list(self)
        if self._past is not None:
            names.insert(1 + names.index("logits"), "past_key_values")
        return names


def rows_and_spans(input_ids: Any, attention_mask: Any) -> tuple[Rows, list[slice]]:
    """Ids ``[batch, length]``, and where the tokens of each row are."""
    if input_ids is None:
        raise ValueError("input_ids is None, expected token ids [batch, length], e.g. tokenizer(text)['input_ids']")
    rows = id_rows("input_ids", input_ids)
    if attention_mask is None:
        return rows, [slice(0, rows.shape[1])] * len(rows)
    mask = id_rows("attention_mask", attention_mask, floats=True)
    if mask.shape != rows.shape:
        raise ValueError(f"attention_mask has shape {list(mask.shape)}, expected input_ids' {list(rows.shape)}")
    spans = []
    for i, row in enumerate(mask):
        places = np.flatnonzero(row)
        if len(places) == 0:
            raise ValueError(f"attention_mask[{i}] is 0 everywhere, expected at least one token")
        span = slice(int(places[0]), int(places[-1]) + 1)
        if len(places) != span.stop - span.start:
            raise ValueError(f"attention_mask[{i}] has zeros between ones, expected padding at the sides only")
        spans.append(span)
    return rows, spans


def check_positions(position_ids: Any, rows: Rows, spans: Sequence[slice]) -> None:
    """Only the distances between positions count (rotary embeddings), and only distances of 1 are supported.

    Raises:
        ValueError: others.
    """
    positions = id_rows("position_ids", position_ids)
    if positions.shape[1] != rows.shape[1] or len(positions) not in (1, len(rows)):
        raise ValueError(f"position_ids has shape {list(positions.shape)}, expected input_ids' {list(rows.shape)}")
    for row, span in zip(np.broadcast_to(positions, rows.shape), spans, strict=True):
        if (np.diff(row[span]) != 1).any():
            raise ValueError("position_ids do not count up by 1 from token to token, as in pythia_cpu: leave them out")


def last_logits(model: Model, sequences: Sequence[Rows], num_logits: Sequence[int]) -> Iterator[Floats]:
    """Logits ``[num_logits[i], vocab_size]`` of the last tokens of each sequence, whose ids are checked first."""
    sizes = model.config["vocab_size"], model.context_length
    checked = [sequence_ids(f"input_ids[{i}]", sequence, *sizes) for i, sequence in enumerate(sequences)]
    yield from _passes.last_logits(model._core, checked, num_logits)


def forward(
    model: Model,
    rows: Rows,
    spans: list[slice],
    labels: Rows | None,
    *,
    hidden_states: bool,
    attentions: bool,
    num_logits: int,
    convert: Callable[[npt.NDArray[Any]], Any],
    sessions: Sequence[Session] | None,
    past: Any,
) -> CausalLMOutput:
    """``GPTNeoXForCausalLM.__call__``; ``convert`` is applied to every array that it gives. Logits are those of the
    last ``num_logits`` columns.

    With ``sessions`` the rows go on from these. ``past`` is the output's ``past_key_values``, or gives it.
    """
    config, (batch, length) = model.config, rows.shape
    tokens = [rows[i, span] for i, span in enumerate(spans)]
    layers = range(config["num_hidden_layers"])
    states = ["hook_embed", *(f"blocks.{i}.hook_resid_post" for i in layers[:-1]), "ln_final.hook_normalized"]
    patterns = [f"blocks.{i}.attn.hook_pattern" for i in layers]
    states, patterns = states if hidden_states else [], patterns if attentions else []

    num_keys = length if sessions is None else length + past.width
    logits = np.zeros((batch, num_logits, config["vocab_size"]), np.float32)
    first = length - num_logits
    kept = [slice(max(first, span.start) - first, max(first, span.stop) - first) for span in spans]
    counts = [rows.stop - rows.start for rows in kept]
    of_state = {name: np.zeros((batch, length, config["hidden_size"]), np.float32) for name in states}
    heads = config["num_attention_heads"]
    of_pattern = {name: np.zeros((batch, heads, length, num_keys), np.float32) for name in patterns}
    if states or patterns:
        names = [*states, *patterns]
        runs = (
            model.run(tokens, capture=names)
            if sessions is None
            else [session.run(ids, capture=names) for session, ids in zip(sessions, tokens, strict=True)]
        )
        for i, (span, run) in enumerate(zip(spans, runs, strict=True)):
            logits[i, kept[i]] = run.logits[len(run.logits) - counts[i] :]
            for name in states:
                of_state[name][i, span] = run.activations[name]
            for name in patterns:
                found = run.activations[name]
                keys = span if sessions is None else slice(num_keys - found.shape[2], num_keys)
                of_pattern[name][i, :, span, keys] = found
    elif sessions is not None:
        for i, of_row in enumerate(append_each(sessions, tokens)):
            logits[i] = of_row[first:]
    else:
        for i, of_row in enumerate(last_logits(model, tokens, counts)):
            logits[i, kept[i]] = of_row
    return CausalLMOutput(
        loss=None if labels is None else convert(np.array(_loss(logits, labels, spans)))[()],
        logits=convert(logits),
        hidden_states=tuple(map(convert, of_state.values())) if hidden_states else None,
        attentions=tuple(map(convert, of_pattern.values())) if attentions else None,
        _past=past,
    )


def _loss(logits: Floats, labels: Rows, spans: Sequence[slice]) -> np.float32:
    """Mean of -log p(labels[i + 1] | ids[0..i]), over labels other than -100; what comes first after padding is not
    predicted from anything.
    """
    if labels.shape != logits.shape[:2]:
        raise ValueError(f"labels has shape {list(labels.shape)}, expected input_ids' {list(logits.shape[:2])}")
    losses = []
    for i, (span, wanted) in enumerate(zip(spans, labels, strict=True)):
        padding = np.ones(len(wanted), bool)
        padding[span] = False
        if (wanted[1:][padding[1:]] != _IGNORED_LABEL).any():
            raise ValueError(
                f"labels[{i}] holds ids where attention_mask is 0, but how well padding is predicted is no loss of a "
                f"text: set labels[attention_mask == 0] = {_IGNORED_LABEL}"
            )
        places = 1 + span.start + np.flatnonzero(wanted[span][1:] != _IGNORED_LABEL)
        ids = wanted[places]
        if ids.size and not (ids.min() >= 0 and ids.max() < logits.shape[2]):
            raise ValueError(f"labels holds ids outside 0 to {logits.shape[2] - 1} that are not {_IGNORED_LABEL}")
        for begin in range(0, len(ids), _LOSS_ROWS):
            end = min(len(ids), begin + _LOSS_ROWS)
            rows = logits[i, places[begin:end] - 1]
            losses.append(_core.log_sum_exps(rows) - rows[np.arange(end - begin), ids[begin:end]])
    all_losses = np.concatenate(losses) if losses else np.zeros(0)
    loss: np.float32 = np.float32(all_losses.mean() if all_losses.size else np.nan)
    return loss
