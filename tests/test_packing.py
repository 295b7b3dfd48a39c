"""Packing in q8 and q4, against the same search written in numpy: the same float32 operations, so the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from pythia_cpu import _core

F = np.float32
GROUP, UNIT, MAX_SCALE = 32, F(2**-8), F(65504 * 2**-8)
Q8_CANDIDATES = [127, *np.arange(121, 127, 0.5), *np.arange(127.5, 129.5, 0.5)]
Q4_CANDIDATES = [s * c for c in (127, 106, 98, 110, 114, 118, 122, 131, 135, 140) for s in (1, -1)]


def q4_levels() -> np.ndarray:
    """The sixteen levels, from a group that holds each of them exactly."""
    packed = np.zeros(_core.pack_matrix(np.zeros((16, GROUP), F), "f32", 16, GROUP, "q4").size, np.uint8)
    packed[:64].view(np.uint16)[:16] = np.float16(256).view(np.uint16)
    packed[64 : 64 + 256].reshape(4, 16, 4)[:] = np.arange(16, dtype=np.uint8).reshape(4, 1, 4) * 17
    return _core.unpack_matrix(packed, "q4", 16, GROUP)[0, :16]


def nearest_q8(y: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(y, F(-127), F(127)))


def nearest_q4(y: np.ndarray) -> np.ndarray:
    levels = q4_levels()
    return levels[np.abs(np.rint(np.clip(y, F(-128), F(127)))[..., None] - levels).argmin(-1)]


def inverse(scale: np.ndarray) -> np.ndarray:
    return np.divide(F(1), scale, out=np.zeros_like(scale), where=scale != 0)


def in_sequence(terms: np.ndarray) -> np.ndarray:
    total = np.zeros(terms.shape[:-1], F)
    for i in range(terms.shape[-1]):
        total += terms[..., i]
    return total


def quantize(x: np.ndarray, weights: str) -> np.ndarray:
    """What groups x [n, 32] become."""
    candidates, nearest = {"q8": (Q8_CANDIDATES, nearest_q8), "q4": (Q4_CANDIDATES, nearest_q4)}[weights]
    largest, best, best_error = np.abs(x).max(-1), np.zeros(len(x), F), np.zeros(len(x), F)

    def consider(scale: np.ndarray) -> None:
        stored = (np.clip(scale, -MAX_SCALE, MAX_SCALE) / UNIT).astype(np.float16).astype(F) * UNIT
        y = x * inverse(stored)[:, None]
        error = stored * stored * in_sequence((y - nearest(y)) ** 2)
        better = (stored != 0) & ((best == 0) | (error < best_error))
        best[better], best_error[better] = stored[better], error[better]

    for candidate in candidates:
        consider(largest / F(candidate))
    levels = nearest(x * inverse(best)[:, None])
    consider(in_sequence(x * levels) * inverse(in_sequence(levels * levels)))
    return best[:, None] * nearest(x * inverse(best)[:, None])


@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_scales_are_the_searched_ones(weights: str) -> None:
    rows, cols = 37, 700  # a part of a panel and of a group at the ends, several blocks of inputs
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, cols)).astype(F)
    x *= np.exp2(rng.integers(-34, 10, (rows, 1))).astype(F)  # scales from below the smallest half to near the largest
    x[3] = 0
    x[4, 5:90] = 0
    x[5] = np.abs(x[5])
    x[6, 7] = 200 * np.abs(x[6]).max()
    padded = np.zeros((rows, -(-cols // GROUP) * GROUP), F)
    padded[:, :cols] = x
    expected = quantize(padded.reshape(-1, GROUP), weights).reshape(rows, -1)[:, :cols]
    unpacked = _core.unpack_matrix(_core.pack_matrix(x, "f32", rows, cols, weights), weights, rows, cols)
    np.testing.assert_array_equal(unpacked, expected)
    assert np.count_nonzero(np.abs(expected).max(1) == 0) < rows / 3


@pytest.mark.parametrize("weights", ["q8", "q4"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 33000.0])
def test_values_without_a_scale_are_refused(weights: str, value: float) -> None:
    x = np.zeros((20, 300), F)
    x[17, 290], x[18, 270] = value, value
    with pytest.raises(ValueError, match=rf"at row 17, column 290 .*{weights}"):
        _core.pack_matrix(x, "f32", 20, 300, weights)
