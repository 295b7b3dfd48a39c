"""How much of its training text a model writes down again (Biderman et al. 2023, arXiv:2304.11158)."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._arguments import TokenIds, boolean, integer, is_batch, iterator, refuse_table, token_ids, unwrapped
from pythia_cpu._file_inputs import identity_of, members
from pythia_cpu._identity import model_key
from pythia_cpu._passes import PASS_TOKENS
from pythia_cpu._progress import ProgressBar
from pythia_cpu._record_file import Head, add_records, batches, record_head, record_line
from pythia_cpu._results import Result

_MAX_KV_BYTES = 1 << 30  # of the rows that are decoded together; one may always run
_MAX_ROWS = 64  # decoded together: weights are read once for all of them
_MAX_LOGITS_BYTES = 1 << 26  # of one forward pass
_FIRST_PLACES = 4  # of a continuation, which are looked at first


@dataclass(frozen=True, eq=False, repr=False)
class Memorization(Result):
    """How well rows were reproduced.

    Attributes:
        exact_match: bool ``[num_rows]``: the whole continuation is what greedy decoding writes.
        matches: int64 ``[num_rows]``: how many tokens of the continuation greedy decoding writes in their places. It
            goes on from its own tokens, so a token may match after one that did not.
        first_mismatch: int64 ``[num_rows]``: how many tokens match before the first that does not, so that the first k
            tokens of the continuation are an exact match where it is k or more.
        continuation_length: the most that ``matches`` and ``first_mismatch`` can be.
    """

    exact_match: npt.NDArray[np.bool_]
    matches: npt.NDArray[np.int64]
    first_mismatch: npt.NDArray[np.int64]
    continuation_length: int

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """The memorization score of each row, ``matches / continuation_length``, 0 to 1."""
        return self.matches / self.continuation_length


class MemorizationScorer:
    """Scores rows by a model; holds the caches of the rows that run together."""

    def __init__(
        self, model: _core.Model, prefix_length: object, continuation_length: object, suppress_eos: object
    ) -> None:
        """Checks the lengths against the model's context."""
        config = model.file.config
        self._model = model
        self._vocab_size: int = config["vocab_size"]
        self._prefix = integer("prefix_length", prefix_length, 1)
        self._length = integer("continuation_length", continuation_length, 1)
        positions = self._prefix + self._length - 1  # the last token is only compared
        if positions > config["max_position_embeddings"]:
            raise ValueError(
                f"prefix_length {self._prefix} and continuation_length {self._length} need {positions} positions, but "
                f"the model's context holds {config['max_position_embeddings']}: shorten one of them"
            )
        self._banned: int | None = None
        if boolean("suppress_eos", suppress_eos):
            if config["eos_token_id"] < 0:
                raise ValueError("suppress_eos is True, but the checkpoint has no end-of-text token: leave it out")
            self._banned = config["eos_token_id"]
        row_bytes = model.kv_bytes_per_position * positions
        self._num_caches = max(1, min(_MAX_ROWS, _MAX_KV_BYTES // row_bytes))
        self._positions = positions
        self._places = max(1, _MAX_LOGITS_BYTES // (4 * self._vocab_size))  # with logits, in one forward pass
        self._caches: list[_core.KvCache] = []

    def score(self, rows: Any, *, progress: bool) -> Memorization:
        """Scores rows, an array ``[n, length]`` or a sequence of sequences; a group of them is in memory at a time."""
        total = len(rows)
        exact_match, (matches, first_mismatch) = np.zeros(total, np.bool_), np.zeros((2, total), np.int64)
        with ProgressBar(total, what="memorization", unit=" rows", enabled=progress) as bar:
            for begin in range(0, total, self._num_caches):
                end = min(total, begin + self._num_caches)
                equal = self._equal(np.stack([self._row(i, rows[i]) for i in range(begin, end)]))
                matches[begin:end], exact_match[begin:end] = equal.sum(axis=1), equal.all(axis=1)
                first_mismatch[begin:end] = _first_mismatch(equal)
                bar.update(end - begin)
        return Memorization(exact_match, matches, first_mismatch, self._length)

    def score_to_file(
        self, rows: Iterator[Any], total: int | None, path: str | os.PathLike[str], *, progress: bool
    ) -> int:
        """``Model.memorization_to_file``; ``total``: how many rows there are, if that is known."""
        key = model_key(self._model.file)
        options = ["memorization", self._prefix, self._length, self._banned]

        def checked() -> Iterator[tuple[npt.NDArray[np.int32], Head]]:
            for number, row in enumerate(rows):
                fields = members(row, "tokens")
                if "tokens" not in fields:
                    raise ValueError(f"rows[{number}] has {sorted(map(str, fields))}, expected 'tokens', perhaps 'id'")
                ids = self._row(number, fields["tokens"])
                identity = identity_of(fields, f"rows[{number}]")
                yield ids, record_head(number, identity, key, [ids.tolist(), *options])

        def lines(items: Iterator[tuple[npt.NDArray[np.int32], Head]]) -> Iterator[list[bytes]]:
            for group in batches(items, lambda _: 1, lambda: self._num_caches):
                equal = self._equal(np.stack([ids for ids, _ in group]))
                yield [self._line(head, row) for (_, head), row in zip(group, equal, strict=True)]

        return add_records(path, checked(), lines, total=total, unit=" rows", progress=progress)

    def _line(self, head: Head, equal: npt.NDArray[np.bool_]) -> bytes:
        matches = {"exact_match": bool(equal.all()), "matches": int(equal.sum())}
        first_mismatch = int(_first_mismatch(equal[None])[0])
        return record_line(head, {**matches, "first_mismatch": first_mismatch, "continuation_length": self._length})

    def _equal(self, group: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Bool ``[rows, continuation_length]`` of at most ``_num_caches`` rows: greedy decoding writes the token."""
        while len(self._caches) < len(group):
            self._caches.append(_core.KvCache(self._model, self._positions))
        written = self._teacher_forced(group)
        self._decode_from_first_mismatch(group, written)
        equal: npt.NDArray[np.bool_] = written == group[:, self._prefix :]
        return equal

    def _row(self, number: int, row: Any) -> npt.NDArray[np.int32]:
        need = self._prefix + self._length
        row = unwrapped(row)
        if isinstance(row, Mapping):
            raise ValueError(
                f"rows[{number}] is of type {type(row).__name__}, expected token ids: pass that member of it"
            )
        if not hasattr(row, "__len__") or getattr(row, "shape", None) == ():
            raise ValueError(f"rows[{number}] is of type {type(row).__name__}, expected token ids")
        if len(row) < need:
            raise ValueError(
                f"rows[{number}] has {len(row)} tokens, expected prefix_length + continuation_length = {need} or more"
            )
        return token_ids(f"rows[{number}]", row[:need], self._vocab_size)

    def _choose(self, passes: list[tuple[_core.KvCache, npt.NDArray[np.int32], int]]) -> npt.NDArray[np.int32]:
        """The greedy token after each of the last tokens of each pass."""
        if self._banned is None:
            chosen = self._model.choose(passes)
        else:
            logits = self._model.forward(passes)
            logits[:, self._banned] = -np.inf
            chosen = np.where(logits.max(axis=1) > -np.inf, logits.argmax(axis=1), -1).astype(np.int32)  # -1 for NaN
        if (chosen < 0).any():
            raise ValueError(
                "the model gave no usable logits (all are NaN or -infinity), expected numbers: check the checkpoint's "
                "weights"
            )
        return chosen

    def _teacher_forced(self, group: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The greedy token in each place of the continuation, given the row's own tokens before it. Up to the first
        difference from the row, this is what greedy decoding writes, since both have the same bits of logits.

        Most rows differ soon: those that do in the first places are -1 in all others.
        """
        written = np.full((len(group), self._length), -1, np.int32)
        begin, going_on = 0, np.arange(len(group))
        for end in (min(_FIRST_PLACES, self._length), self._length):
            read = (end - begin) if begin else self._prefix - 1 + end  # tokens of each row
            rows_together = max(1, min(self._places // max(1, end - begin), PASS_TOKENS // max(1, read)))
            for first in range(0, len(going_on), rows_together):
                self._force(group, going_on[first : first + rows_together], begin, end, written)
            expected = group[going_on, self._prefix + begin : self._prefix + end]
            going_on = going_on[(written[going_on, begin:end] == expected).all(axis=1)]
            begin = end
        return written

    def _force(
        self, group: npt.NDArray[np.int32], rows: npt.NDArray[np.intp], begin: int, end: int, written: Any
    ) -> None:
        """Columns ``begin`` to ``end`` of ``written`` for some rows, whose caches hold what comes before."""
        read = self._prefix - 1 + begin if begin else 0
        for i in rows:
            self._caches[i].truncate(read)
        for column in range(begin, end, self._places):
            until = min(column + self._places, end)
            read_until = self._prefix - 1 + until
            passes = [(self._caches[i], group[i, read:read_until], until - column) for i in rows]
            written[rows, column:until] = self._choose(passes).reshape(len(rows), until - column)
            read = read_until

    def _decode_from_first_mismatch(self, group: npt.NDArray[np.int32], written: npt.NDArray[np.int32]) -> None:
        """Replaces what follows each row's first difference by what greedy decoding writes from there."""
        differs = written != group[:, self._prefix :]
        columns = np.where(differs.any(axis=1), differs.argmax(axis=1), self._length)
        for i, column in enumerate(columns):
            if column < self._length - 1:
                self._caches[i].truncate(self._prefix + int(column))
        while len(running := np.flatnonzero(columns < self._length - 1)):
            passes = [(self._caches[i], written[i, columns[i] : columns[i] + 1], 1) for i in running]
            columns[running] += 1
            written[running, columns[running]] = self._choose(passes)


def _first_mismatch(equal: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Of each row ``[rows, length]`` the place of the first that is False, or the length."""
    places: npt.NDArray[np.int64] = np.where(equal.all(axis=1), equal.shape[1], equal.argmin(axis=1))
    return places


class MeasuresMemorization(ABC):
    """The memorization methods of ``Model``."""

    @abstractmethod
    def _core_model(self) -> _core.Model:
        """The core's model."""

    def memorization(
        self,
        rows: Sequence[TokenIds] | npt.NDArray[np.integer[Any]],
        *,
        prefix_length: int = 32,
        continuation_length: int = 32,
        suppress_eos: bool = False,
        progress: bool = True,
    ) -> Memorization:
        """How much of each row greedy decoding writes, given the row's beginning. Ctrl-C ends it between passes.

        Rows are read with teacher forcing first, those that differ soon only so far; rows that differ are decoded from
        their first difference. The result is that of ``generate`` with ``ignore_eos``, token by token.

        Args:
            rows: token ids ``[num_rows, length]``, e.g. a ``np.memmap`` of training data, or a list of rows, or what
                has ``len(rows)`` and ``rows[i]``, as the dataset of Pythia's own tools. The first ``prefix_length +
                continuation_length`` of each count.
            prefix_length: tokens that are given.
            continuation_length: tokens after them, which are compared.
            suppress_eos: never write the end-of-text token (the first, where config.json has several). The Pythia
                paper's own script does that, through ``min_length``; it matters where rows hold the end of a document.
            progress: show a bar on standard error, in a terminal or notebook, if it takes longer than a second.

        Raises:
            ValueError: a row that is too short or has ids that are not the model's; lengths beyond the context; logits
                that are no numbers.
        """
        if isinstance(rows, str | Mapping) or not hasattr(rows, "__len__") or getattr(rows, "shape", None) == ():
            raise ValueError("rows is not a list of rows, expected token ids [num_rows, length]")
        refuse_table("rows", rows, ".to_numpy()")
        is_dataset = not isinstance(rows, Sequence) and not hasattr(rows, "__array__")  # rows[i] is all it has
        if not is_dataset and len(rows) and not is_batch("rows", rows):
            raise ValueError("rows is not a list of rows, expected token ids [num_rows, length]")
        if not isinstance(rows, Sequence) and not is_dataset:
            rows = np.asarray(rows)  # rows[i] of a pandas.Series goes by its index
        scorer = MemorizationScorer(self._core_model(), prefix_length, continuation_length, suppress_eos)
        return scorer.score(rows, progress=progress)

    def memorization_to_file(
        self,
        rows: Iterable[TokenIds | Mapping[str, Any]],
        path: str | os.PathLike[str],
        *,
        prefix_length: int = 32,
        continuation_length: int = 32,
        suppress_eos: bool = False,
        progress: bool = True,
    ) -> int:
        """``memorization`` of many rows into a file of JSON lines, one a row, written as they come.

        A file that is there already is continued, as by ``score_to_file``: a run that was interrupted is called
        again as it was, and costs at most the last 64 rows again.

        Every record has ``index``, ``id`` (if the row has one), ``model`` (a key that is equal for equal checkpoints in
        equal formats only), ``input`` (a hash of the row and the options), ``exact_match``, ``matches``,
        ``first_mismatch`` and ``continuation_length`` (see Memorization). ``pandas.read_json(path, lines=True)`` reads
        it.

        Args:
            rows: any iterable of rows as in ``memorization``, perhaps longer than memory, or of dicts with ``tokens``
                and perhaps ``id``, a str or a number; other members are ignored.
            path: the file.
            prefix_length: as in ``memorization``.
            continuation_length: as in ``memorization``.
            suppress_eos: as in ``memorization``.
            progress: show a bar on standard error, in a terminal or notebook, if it takes longer than a second.

        Returns:
            how many records were added.

        Raises:
            ValueError: as ``memorization``, for a bad row when its turn comes; a file whose records are of another
                model, of other rows or options, or that another process writes.
            OSError: the file cannot be written.
        """
        refuse_table("rows", rows, ".to_numpy()")
        several = iterator("rows", rows, "rows of token ids, e.g. an array [num_rows, length]")
        total = len(rows) if isinstance(rows, Sized) else None
        scorer = MemorizationScorer(self._core_model(), prefix_length, continuation_length, suppress_eos)
        return scorer.score_to_file(several, total, path, progress=progress)
