"""Forward passes over whole sequences, as many as fit in one, and long ones in several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core

PASS_TOKENS = _core.ROWS_PER_PASS  # of a forward pass: Ctrl-C is seen between passes


def append_in_chunks(
    model: _core.Model, cache: _core.KvCache, ids: npt.NDArray[np.int32], *, logits: bool = True
) -> npt.NDArray[np.float32]:
    """Logits ``[len(ids), vocab_size]`` of ids that go into a cache, or none of them. On an error the cache is as it
    was.
    """
    found = np.empty((len(ids) if logits else 0, model.file.config["vocab_size"]), np.float32)
    length = cache.length
    try:
        for begin in range(0, len(ids), PASS_TOKENS):
            chunk = ids[begin : begin + PASS_TOKENS]
            num_logits = len(chunk) if logits else 0
            model.forward([(cache, chunk, num_logits)], out=found[begin : begin + num_logits] if logits else found)
    except BaseException:
        cache.truncate(length)
        raise
    return found


def last_logits(
    model: _core.Model, sequences: Sequence[npt.NDArray[np.int32]], num_logits: Sequence[int]
) -> Iterator[npt.NDArray[np.float32]]:
    """Logits ``[num_logits[i], vocab_size]`` of the last tokens of each sequence, in order. Short ones run together, as
    many as make one pass, which reads the weights once; the bits are those that each has alone.
    """
    for begin, end in runs_of_a_pass([len(ids) for ids in sequences]):
        caches = [_core.KvCache(model, len(ids)) for ids in sequences[begin:end]]
        if len(sequences[begin]) > PASS_TOKENS:  # it alone
            yield append_in_chunks(model, caches[0], sequences[begin])[len(sequences[begin]) - num_logits[begin] :]
        else:
            counts = num_logits[begin:end]
            together = model.forward(list(zip(caches, sequences[begin:end], counts, strict=True)))
            yield from np.split(together, np.cumsum(counts)[:-1])


def passes_of(model: _core.Model, sequences: Sequence[npt.NDArray[np.int32]]) -> Iterator[npt.NDArray[np.float32]]:
    """Logits ``[num_rows, vocab_size]`` of every position, pass by pass, the sequences one after the other. The next
    pass's are written over them.
    """
    longest = min(PASS_TOKENS, sum(map(len, sequences)))
    room = np.empty((longest, model.file.config["vocab_size"]), np.float32)
    for first, end in runs_of_a_pass([len(ids) for ids in sequences]):
        caches = [_core.KvCache(model, len(ids)) for ids in sequences[first:end]]
        for begin in range(0, max(map(len, sequences[first:end])), PASS_TOKENS):
            chunks = [ids[begin : begin + PASS_TOKENS] for ids in sequences[first:end]]
            num_rows = sum(map(len, chunks))
            yield model.forward(
                [(cache, chunk, len(chunk)) for cache, chunk in zip(caches, chunks, strict=True)], out=room[:num_rows]
            )


def runs_of_a_pass(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Which sequences, from and to, run together: as many as make one pass, or one that is longer."""
    begin = 0
    while begin < len(lengths):
        end, num_tokens = begin + 1, lengths[begin]
        while end < len(lengths) and num_tokens + lengths[end] <= PASS_TOKENS:
            num_tokens += lengths[end]
            end += 1
        yield begin, end
        begin = end
