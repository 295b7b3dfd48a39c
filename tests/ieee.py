"""The arithmetic that docs/numerics.md describes, in numpy: float32 steps with one rounding each, and sums in lanes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

F32 = np.float32
LANES = 16
MAGIC = F32(1.5 * 2**23)
LOG2_E = F32(1.44269504)
LN2_HIGH, LN2_LOW = F32(0.693145752), F32(1.42860677e-06)
EXP_LOW, EXP_HIGH = F32(-87.33654), F32(88.72283)  # ln 2^-126 and ln FLT_MAX
EXP_POLYNOMIAL = (5.0e-01, 1.6666667e-01, 4.166627e-02, 8.333264e-03, 1.394612e-03, 1.9918424e-04)
EXP2_POLYNOMIAL = (6.93147e-01, 2.4022242e-01, 5.5507336e-02, 9.671513e-03, 1.3264721e-03)


def round_to_float32(value: Fraction) -> np.float32:
    """The nearest float32 to a rational number in its normal range, ties to even."""
    nearest = F32(float(value))  # rounded twice: right, or next to the right one
    around = [np.nextafter(nearest, F32(-np.inf)), nearest, np.nextafter(nearest, F32(np.inf))]
    return min(around, key=lambda f: (abs(Fraction(float(f)) - value), int(f.view(np.uint32)) & 1))


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of float32 numbers, rounded once, as the float64 sum with the exact product was rounded to odd."""
    product, addend = np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = total.view(np.int64)
    step = np.where((error > 0) == (total > 0), 1, -1)
    return (bits + np.where((error != 0) & (bits & 1 == 0), step, 0)).view(np.float64).astype(F32)


def polynomial(coefficients: Sequence[float], x: np.ndarray) -> np.ndarray:
    """By Horner's rule."""
    value = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = fma(value, x, F32(coefficient))
    return value


def exp(x: np.ndarray) -> np.ndarray:
    """e^x; 0 below EXP_LOW, infinity above EXP_HIGH."""
    inside = np.clip(np.asarray(x, F32), EXP_LOW, EXP_HIGH)
    n = fma(inside, LOG2_E, MAGIC) - MAGIC
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, inside))
    value = np.ldexp(fma(r * r, polynomial(EXP_POLYNOMIAL, r), r) + F32(1), n.astype(int))
    return np.where(x < EXP_LOW, F32(0), np.where(x > EXP_HIGH, F32(np.inf), value))


def exp2_parts(n: np.ndarray, f: np.ndarray) -> np.ndarray:
    """2^(n + f)."""
    return np.ldexp(fma(polynomial(EXP2_POLYNOMIAL, f), f, F32(1)), n.astype(int))


def exp2(x: np.ndarray) -> np.ndarray:
    """2^x, x clamped to [-126, 1]."""
    inside = np.clip(x, F32(-126), F32(1))
    n = np.rint(inside)
    return exp2_parts(n, inside - n)


def log64(x: float) -> float:
    """The log in float64."""
    m, exponent = float(np.frexp(x)[0]) * 2, int(np.frexp(x)[1]) - 1
    if m >= 2**0.5:
        m, exponent = m / 2, exponent + 1
    s = (m - 1) / (m + 1)
    tail = 0.0
    for k in range(23, 1, -2):
        tail = (tail + 1 / k) * (s * s)
    return exponent * float.fromhex("0x1.62e42fefa39efp-1") + (2 * s + 2 * s * tail)


def exp64(x: float) -> float:
    """The exponential in float64."""
    n = math.floor(x * float.fromhex("0x1.71547652b82fep0") + 0.5)
    r = (x - n * float.fromhex("0x1.62e42feep-1")) - n * float.fromhex("0x1.a39ef35793c76p-33")
    total = 1.0
    for k in range(13, 2, -1):
        total = 1 + r / k * total
    return math.ldexp(1 + (r + r * r / 2 * total), n)


def fold(lanes: np.ndarray) -> np.ndarray:
    """The sum of [..., 16]: lane i + lane i+8, then +4, +2, +1."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def in_lanes(x: np.ndarray, fill: float) -> np.ndarray:
    """[..., n] as [..., steps, 16], the last step's lanes without an element filled."""
    steps = -(-x.shape[-1] // LANES)
    padded = np.full((*x.shape[:-1], steps * LANES), fill, F32)
    padded[..., : x.shape[-1]] = x
    return padded.reshape(*x.shape[:-1], steps, LANES)


def lane_sums(step: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """`acc = step(acc, element of each array)` with element i in lane i mod 16, folded."""
    lanes = [in_lanes(x, 0.0) for x in arrays]
    sums = np.zeros((*lanes[0].shape[:-2], LANES), F32)
    for i in range(lanes[0].shape[-2]):
        sums = step(sums, *(x[..., i, :] for x in lanes))
    return fold(sums)
