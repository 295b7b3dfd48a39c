"""Comparison of float32 arrays bit by bit."""

from __future__ import annotations

import numpy as np


def assert_same_bits(actual: np.ndarray, expected: np.ndarray, context: object = "") -> None:
    """Equal shape, dtype and bits; one NaN is as good as another, their payloads differ between machines."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape, f"{context}: shape {actual.shape}, expected {expected.shape}"
    if actual.tobytes() == expected.tobytes():
        return
    unsigned = np.dtype(f"u{actual.dtype.itemsize}")
    differ = np.ascontiguousarray(actual).view(unsigned) != np.ascontiguousarray(expected).view(unsigned)
    if actual.dtype.kind == "f":
        differ &= ~(np.isnan(actual) & np.isnan(expected))
    where = np.argwhere(differ)
    if len(where):
        first = tuple(int(i) for i in where[0])
        found, wanted = actual[first], expected[first]
        raise AssertionError(
            f"{context}: {len(where)} of {actual.size} differ, first at {first}: {found!r}, expected {wanted!r}"
        )
