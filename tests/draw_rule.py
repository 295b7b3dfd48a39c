"""Which token is drawn, by the rule of docs/numerics.md ("Sampling"), in numpy and Python's integers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pythia_cpu import _core


def options(**changes: Any) -> _core.SamplingOptions:
    return _core.SamplingOptions(do_sample=True, **changes)


def random_logits(vocab_size: int, seed: int, scale: float = 3.0) -> np.ndarray:
    """Float32 [vocab_size], long-tailed as a language model's."""
    rng = np.random.default_rng([vocab_size, seed])
    return (scale * rng.standard_normal(vocab_size) + rng.exponential(scale, vocab_size)).astype(np.float32)


def uniform_bits(seed: int, sequence: int, step: int) -> Iterator[int]:
    """64 bits after the other, as docs/numerics.md says."""
    mask = 2**32 - 1
    block = (step & mask, step >> 32, sequence & mask, sequence >> 32)
    while True:
        block = tuple(_core.philox4x32_10(block, (seed & mask, seed >> 32)))
        yield block[0] | block[1] << 32
        yield block[2] | block[3] << 32


def in_groups(values: np.ndarray, fill: Any) -> np.ndarray:
    """[groups, 8]: values of a vocabulary, blocks of 128 in 16 groups each."""
    padded = np.concatenate([values, np.full(-len(values) % 128, fill, values.dtype)])
    return padded.reshape(-1, 8, 16).swapaxes(1, 2).reshape(-1, 8)


def group_bounds(largest: np.ndarray, temperature: float) -> np.ndarray:
    """Of groups' largest scores, as docs/numerics.md says: floor(2^22 l) + 1."""
    steepness = np.float32(math.log2(math.e) / float(np.float32(temperature)))
    exponents = np.maximum(largest - largest.max(), np.float32(-40) / steepness) * steepness
    bits = np.rint(((127 + 22) * 2.0**23 + exponents * 2.0**23).astype(np.float32)).astype(np.int32)
    return np.floor(bits.view(np.float32)).astype(np.int64) + 1


def draws_under_bounds(logits: np.ndarray, changes: dict[str, Any], bits: Iterator[int]) -> Iterator[int | None]:
    """What 64 points fall on: tokens that min_p keeps, or nothing."""
    temperature = changes.get("temperature", 1.0)
    ids, _, some_weights = _core.filter_logits(logits, options(temperature=temperature))
    kept = _core.filter_logits(logits, options(temperature=temperature, min_p=changes.get("min_p", 0.0)))[0]
    weights, is_kept = np.zeros(len(logits), np.int64), np.zeros(len(logits), bool)
    weights[ids], is_kept[kept] = some_weights, True
    group_weights = in_groups(np.where(is_kept, weights, 0), 0)
    largest = in_groups(np.nan_to_num(logits, nan=-np.inf), -np.inf).max(1)
    bounds = np.where(in_groups(is_kept, False).any(1), group_bounds(largest, temperature), 0)
    heavy = np.flatnonzero(bounds > bounds.sum() // 16)
    bounds[heavy] = 0
    heavy_weights = group_weights[heavy].ravel()
    rooms = bounds * 8 * (2**16 + 4)
    ends = np.cumsum(rooms)
    assert (group_weights <= bounds[:, None] * (2**16 + 4))[rooms > 0].all()
    for _ in range(64):
        point = next(bits) * int(heavy_weights.sum() + ends[-1]) >> 64
        if point < heavy_weights.sum():
            place = int(np.searchsorted(np.cumsum(heavy_weights), point, side="right"))
            group, place = int(heavy[place // 8]), place % 8
        else:
            point -= int(heavy_weights.sum())
            group = int(np.searchsorted(ends, point, side="right"))
            place, rest = divmod(point - int(ends[group] - rooms[group]), int(rooms[group]) // 8)
            if rest >= group_weights[group, place]:
                yield None
                continue
        yield group // 16 * 128 + group % 16 + 16 * place


def expected_draw(logits: np.ndarray, changes: dict[str, Any], bits: Iterator[int]) -> tuple[int, int]:
    """The token that docs/numerics.md says is drawn, and how many points that took; 65 where a list was made first."""
    ids, _, weights = _core.filter_logits(logits, options(**changes))
    filters = changes.keys() - {"temperature"}
    if "top_k" not in filters and ("typical_p" not in filters or filters == {"typical_p"}):
        kept = set(ids.tolist())
        for points, id in enumerate(draws_under_bounds(logits, changes, bits), 1):
            if id in kept:
                return id, points
    ends = np.cumsum(weights)
    return int(ids[np.searchsorted(ends, next(bits) * int(ends[-1]) >> 64, side="right")]), 65
