"""Packing in q8 and q4, against the same search written in numpy: the same float32 operations, so the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from pythia_cpu import _core

F = np.float32
GROUP = 32
Q8_DIVISORS = [127, *np.arange(121, 127, 0.5), *np.arange(127.5, 129.5, 0.5)]
Q4_DIVISORS = [s * c for c in (127, 106, 98, 110, 114, 118, 122, 131, 135, 140) for s in (1, -1)]


def q4_levels() -> np.ndarray:
    """The sixteen levels, from a group that holds each of them exactly."""
    packed = np.zeros(_core.pack_matrix(np.zeros((16, GROUP), F), "f32", 16, GROUP, "q4").size, np.uint8)
    packed[:16] = 1
    packed[64 : 64 + 256].reshape(4, 16, 4)[:] = np.arange(16, dtype=np.uint8).reshape(4, 1, 4) * 17
    packed[-64:].view(F)[:] = 1
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
    """What rows x [rows, groups, 32] become."""
    divisors, nearest, finest, fewest, most = {
        "q8": (Q8_DIVISORS, nearest_q8, F(121), F(0), F(255)),
        "q4": (Q4_DIVISORS, nearest_q4, F(98), F(-127), F(127)),
    }[weights]
    row_largest = np.abs(x).max((-1, -2))
    row_units = np.where(row_largest < F(2.0**-100), F(0), row_largest / (finest * most))
    units = np.repeat(row_units, x.shape[1])
    x = x.reshape(-1, GROUP)
    largest, best, best_error = np.abs(x).max(-1), np.zeros(len(x), F), np.zeros(len(x), F)

    def consider(multiples: np.ndarray) -> None:
        y = x * inverse(multiples * units)[:, None]
        error = multiples * multiples * in_sequence((y - nearest(y)) ** 2)
        better = (multiples != 0) & ((best == 0) | (error < best_error))
        best[better], best_error[better] = multiples[better], error[better]

    def consider_nearest(scales: np.ndarray) -> None:
        consider(np.clip(np.rint(scales * inverse(units)), fewest, most))

    above = np.clip(np.ceil(largest / F(127) * inverse(units)), fewest, most)
    consider(above)
    if fewest < 0:
        consider(-above)
    for divisor in divisors:
        consider_nearest(largest / F(divisor))
    levels = nearest(x * inverse(best * units)[:, None])
    consider_nearest(in_sequence(x * levels) * inverse(in_sequence(levels * levels)))
    return units[:, None] * (best[:, None] * nearest(x * inverse(best * units)[:, None]))


@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_scales_are_the_searched_ones(weights: str) -> None:
    rows, cols = 37, 700  # a part of a panel and of a group at the ends, several blocks of inputs
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, cols)).astype(F)
    x *= np.exp2(rng.integers(-99, 95, (rows, 1))).astype(F)
    x[3] = 0
    x[4, 5:90] = 0
    x[5] = np.abs(x[5])
    x[6, 7] = 200 * np.abs(x[6]).max()  # the other groups have few units
    x[7, 7] = 30000 * np.abs(x[7]).max()  # and here at most one
    x[8] *= F(2.0**-110) / np.abs(x[8]).max()  # too small for a unit
    padded = np.zeros((rows, -(-cols // GROUP) * GROUP), F)
    padded[:, :cols] = x
    expected = quantize(padded.reshape(rows, -1, GROUP), weights).reshape(rows, -1)[:, :cols]
    unpacked = _core.unpack_matrix(_core.pack_matrix(x, "f32", rows, cols, weights), weights, rows, cols)
    np.testing.assert_array_equal(unpacked, expected)
    assert np.flatnonzero(np.abs(expected).max(1) == 0).tolist() == [3, 8]
    step = {"q8": 2 / 127, "q4": 60 / 127}[weights]  # twice the widest step, of the group's largest weight or the unit
    largest = np.repeat(np.abs(padded).reshape(rows, -1, GROUP).max(2), GROUP, axis=1)[:, :cols]
    assert (np.abs(x - expected) <= step * largest)[[i for i in range(rows) if i not in (7, 8)]].all()


@pytest.mark.parametrize("weights", ["q8", "q4"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "cannot be stored in {}, which holds finite values only"),
        (float("-inf"), "cannot be stored in {}, which holds finite values only"),
        (2.0**101, "is too large for {}; choose a wider format such as f32"),
    ],
)
def test_values_without_a_scale_are_refused(weights: str, value: float, reason: str) -> None:
    x = np.zeros((20, 300), F)
    x[17, 290], x[18, 270] = value, value
    with pytest.raises(ValueError, match=rf"at row 17, column 290 {reason.format(weights)}$"):
        _core.pack_matrix(x, "f32", 20, 300, weights)


@pytest.mark.parametrize("weights", _core.WEIGHT_FORMATS)
def test_what_is_beyond_the_matrix_is_zeros(weights: str) -> None:
    """So that files are the same: outputs up to sixteen, inputs up to a group, bytes up to 64."""
    rows, cols = 18, 287 if weights in ("q8", "q4") else 257
    x = np.random.default_rng(1).standard_normal((rows, cols)).astype(F)
    padded = np.zeros((32, 288 if weights in ("q8", "q4") else cols), F)
    padded[:rows, :cols] = x
    expected = _core.pack_matrix(padded, "f32", *padded.shape, weights)
    np.testing.assert_array_equal(_core.pack_matrix(x, "f32", rows, cols, weights), expected)
    few = np.ascontiguousarray(x[:16, :3])
    expected = _core.pack_matrix(few, "f32", 16, 3, weights)
    for _ in range(8):
        used = np.full(expected.size, 0xFF, np.uint8)
        del used  # its memory may be what the next array gets
        np.testing.assert_array_equal(_core.pack_matrix(few, "f32", 16, 3, weights), expected)
    filling = {"f16": expected[96:], "bf16": expected[96:], "q8": expected[16:64], "q4": expected[16:64]}
    assert not filling.get(weights, expected[:0]).any()
