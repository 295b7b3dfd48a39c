"""Which token is drawn, by the rule of docs/numerics.md ("Sampling"), in numpy and Python's integers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pythia_cpu import _core


def options(**changes: Any) -> _core.SamplingOptions:
    return _core.SamplingOptions(do_sample=True, **changes)


def uniform_bits(seed: int, sequence: int, step: int) -> Iterator[int]:
    """64 bits after the other, as docs/numerics.md says."""
    mask = 2**32 - 1
    block = (step & mask, step >> 32, sequence & mask, sequence >> 32)
    while True:
        block = tuple(_core.philox4x32_10(block, (seed & mask, seed >> 32)))
        yield block[0] | block[1] << 32
        yield block[2] | block[3] << 32


def group_bounds(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Of groups' largest scores, as docs/numerics.md says: 9 * 2^16 * (floor(2^22 l) + 1)."""
    steepness = np.float32(math.log2(math.e) / float(np.float32(temperature)))
    exponents = np.maximum(scores - scores.max(), np.float32(-40) / steepness) * steepness
    bits = np.rint(((127 + 22) * 2.0**23 + exponents * 2.0**23).astype(np.float32)).astype(np.int32)
    return 9 * 2**16 * (np.floor(bits.view(np.float32)).astype(np.int64) + 1)


def expected_draw_under_bounds(logits: np.ndarray, changes: dict[str, Any], bits: Iterator[int]) -> tuple[int, int]:
    """The same without filters."""
    ids, _, weights = _core.filter_logits(logits, options(**changes))
    padding = -len(ids) % 128
    places = np.concatenate([ids, np.full(padding, -1)]).reshape(-1, 8, 16).swapaxes(1, 2).reshape(-1, 8)
    in_groups = np.concatenate([weights, np.zeros(padding, np.int64)])[places]
    largest = np.concatenate([logits[ids], np.full(padding, -np.inf, np.float32)])[places].max(1)
    bounds = group_bounds(largest, changes.get("temperature", 1.0))
    assert (in_groups.sum(1) <= bounds).all()
    ends = np.cumsum(bounds)
    for tries in range(1, 33):
        point = next(bits) * int(ends[-1]) >> 64
        group = int(np.searchsorted(ends, point, side="right"))
        weight_ends = np.cumsum(in_groups[group])
        place = np.searchsorted(weight_ends, point - (ends[group] - bounds[group]), side="right")
        if place < 8:
            return int(places[group, place]), tries
    ends = np.cumsum(weights)
    return int(ids[np.searchsorted(ends, next(bits) * int(ends[-1]) >> 64, side="right")]), 33


def expected_draw(logits: np.ndarray, changes: dict[str, Any], bits: Iterator[int]) -> tuple[int, int]:
    """The token that docs/numerics.md says is drawn, and how many draws that took."""

    if not changes.keys() & {"top_k", "top_p", "min_p", "typical_p"}:
        return expected_draw_under_bounds(logits, changes, bits)

    def draw(kept: dict[str, Any]) -> int:
        ids, _, weights = _core.filter_logits(logits, options(**kept))
        ends = np.cumsum(weights)
        return int(ids[np.searchsorted(ends, next(bits) * int(ends[-1]) >> 64, side="right")])

    kept = set(_core.filter_logits(logits, options(**changes))[0].tolist())
    if changes.get("top_p", 1.0) < 1.0 and not changes.keys() & {"top_k", "typical_p"}:
        for tries in range(1, 9):
            id = draw({key: value for key, value in changes.items() if key != "top_p"})
            if id in kept:
                return id, tries
    return draw(changes), 9
