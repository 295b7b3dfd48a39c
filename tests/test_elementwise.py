"""exp, log, tanh and the activations: the same bits everywhere, within the error that docs/numerics.md states."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest

from bits import assert_same_bits
from pythia_cpu import _core

PORTABLE = _core.Kernels("portable")
ISAS = _core.supported_isas()
SIMD_ISAS = [isa for isa in ISAS if isa != "portable"]
LENGTHS = [*range(1, 50), 63, 64, 65, 100]

# Largest error in units in the last place of the exact result.
MAX_ULP = {"exp": 1.0, "exp2": 2.25, "log": 1.0, "tanh": 1.5}
EXACT: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "exp": mpmath.exp,
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "log": mpmath.log,
    "tanh": mpmath.tanh,
}
DOMAIN = {
    "exp": (-87.3, 88.7),
    "exp2": (-126.0, 1.0),
    "log": (1e-37, 3e38),
    "tanh": (-12.0, 12.0),
}

# Activations by their number in files (csrc/format/config.h), in float64.
ACTIVATIONS: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda x: x * 0.5 * (1 + erf64(x / math.sqrt(2))),
    lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    lambda x: np.maximum(x, 0),
    lambda x: x / (1 + np.exp(-x)),
    lambda x: x / (1 + np.exp(-1.702 * x)),
]


def erf64(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(value) for value in x.tolist()])


FLOAT64 = {"exp": np.exp, "exp2": np.exp2, "log": np.log, "tanh": np.tanh}


def every_nth_float(step: int) -> np.ndarray:
    """Float32 values of all exponents and both signs, NaN and infinities included."""
    return np.arange(0, 1 << 32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)


def error_ulp(actual: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance of float32 results from float64 ones, in float32 units in the last place."""
    return np.abs(actual.astype(np.float64) - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)


@pytest.mark.parametrize("isa", SIMD_ISAS)
@pytest.mark.parametrize("name", MAX_ULP)
def test_same_bits(isa: str, name: str) -> None:
    function, portable = getattr(_core.Kernels(isa), name), getattr(PORTABLE, name)
    x = every_nth_float(4001)
    assert_same_bits(function(x), portable(x))
    for n in LENGTHS:
        assert_same_bits(function(x[-n:]), portable(x[-n:]), n)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MAX_ULP)
def test_same_bits_of_every_float(name: str) -> None:
    portable = getattr(PORTABLE, name)
    functions = [getattr(_core.Kernels(isa), name) for isa in SIMD_ISAS]
    block = 1 << 20
    for start in range(0, 1 << 32, block):
        x = np.arange(start, start + block, dtype=np.uint64).astype(np.uint32).view(np.float32)
        expected = portable(x)
        for isa, function in zip(SIMD_ISAS, functions, strict=True):
            assert_same_bits(function(x), expected, isa)


@pytest.mark.parametrize("isa", SIMD_ISAS)
@pytest.mark.parametrize("act", range(len(ACTIVATIONS)))
def test_activation_same_bits(isa: str, act: int) -> None:
    kernels = _core.Kernels(isa)
    x = np.concatenate([every_nth_float(40009), np.linspace(-12, 12, 100_003, dtype=np.float32)])
    assert_same_bits(kernels.activation(act, x), PORTABLE.activation(act, x))
    for n in LENGTHS:
        assert_same_bits(kernels.activation(act, x[-n:]), PORTABLE.activation(act, x[-n:]), n)


@pytest.mark.parametrize("name", MAX_ULP)
def test_error_bound(name: str) -> None:
    low, high = DOMAIN[name]
    x = every_nth_float(1009)
    with np.errstate(invalid="ignore"):
        x = x[(x >= low) & (x <= high)]
    x = np.concatenate([x, np.linspace(max(low, -12), min(high, 12), 500_000, dtype=np.float32)])
    exact = FLOAT64[name](x.astype(np.float64))
    normal = np.abs(exact) >= np.finfo(np.float32).tiny  # below, a unit in the last place is not relative to the value
    errors = error_ulp(getattr(PORTABLE, name)(x), exact)[normal]
    assert errors.max() <= MAX_ULP[name], f"{errors.max():.3f} ulp at {x[normal][errors.argmax()]!r}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MAX_ULP)
def test_error_bound_of_every_float(name: str) -> None:
    """All of the domain; in units of the exact result before it is rounded, of the smallest normal one's below that."""
    low, high = (np.float32(limit) for limit in DOMAIN[name])
    function = getattr(_core.Kernels(), name)  # the portable one has the same bits, and takes ten times as long
    block = 1 << 16  # small enough for the cache
    largest, at = 0.0, np.float32(0)
    with np.errstate(invalid="ignore"):
        for start in range(0, 1 << 32, block):
            x = np.arange(start, start + block, dtype=np.uint32).view(np.float32)
            x = x[(x >= low) & (x <= high)]
            if not len(x):
                continue
            exact = FLOAT64[name](x.astype(np.float64))
            powers = (exact.view(np.int64) & 0x7FF0000000000000).view(np.float64)  # of two
            errors = np.abs(function(x) - exact) / np.maximum(powers, np.finfo(np.float32).tiny)
            if errors.max() > largest:
                largest, at = errors.max(), x[errors.argmax()]
    assert largest * 2**23 <= MAX_ULP[name], f"{largest * 2**23:.3f} ulp at {at!r}"


@pytest.mark.parametrize("name", MAX_ULP)
def test_float64_reference_is_right(name: str) -> None:
    low, high = DOMAIN[name]
    x = np.random.default_rng(0).uniform(max(low, -12), min(high, 12), 300).astype(np.float32)
    exact = np.array([float(EXACT[name](mpmath.mpf(value))) for value in x.tolist()])
    np.testing.assert_allclose(FLOAT64[name](x.astype(np.float64)), exact, rtol=1e-14)


@pytest.mark.parametrize("act", range(len(ACTIVATIONS)))
def test_activation_right(act: int) -> None:
    x = np.concatenate([np.linspace(-20, 20, 400_001), np.geomspace(1e-30, 1e4, 10_000)]).astype(np.float32)
    with np.errstate(over="ignore"):
        exact = ACTIVATIONS[act](x.astype(np.float64))
    error = np.abs(PORTABLE.activation(act, x) - exact)
    assert (error <= 3e-7 * np.abs(x)).all()


@pytest.mark.parametrize("isa", ISAS)
def test_limits(isa: str) -> None:
    kernels = _core.Kernels(isa)
    inf = np.inf

    def apply(name: str, *values: float) -> list[float]:
        return getattr(kernels, name)(np.array(values, np.float32)).tolist()

    assert apply("exp2", -inf, -200, -126, 0, -0.0, 1, inf) == [2.0**-126] * 3 + [1, 1, 2, 2]
    assert apply("exp", -inf, -200, 0, -0.0, 89, inf) == [0, 0, 1, 1, inf, inf]
    assert apply("log", 0, 1, inf) == [-inf, 0, inf]
    assert np.isnan(apply("log", -1, -inf)).all()
    assert apply("tanh", -inf, -30, 0, 30, inf) == [-1, -1, 0, 1, 1]
    assert math.copysign(1, apply("tanh", -0.0)[0]) == -1
