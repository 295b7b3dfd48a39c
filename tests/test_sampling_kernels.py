"""What the sampler asks of a row of scores: the same bits under every instruction set."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pythia_cpu import _core

ISAS = _core.supported_isas()
PORTABLE = _core.Kernels("portable")
SIZES = [*range(1, 40), 127, 128, 129, 1000, 1023, 1024, 1025, 5000]


@pytest.mark.parametrize("isa", ISAS)
def test_block_maxima(isa: str) -> None:
    kernels = _core.Kernels(isa)
    rng = np.random.default_rng(0)
    for n in SIZES:
        x = rng.standard_normal(n).astype(np.float32) - 3
        x[rng.random(n) < 0.3] = np.nan
        x[rng.random(n) < 0.1] = -np.inf
        with np.errstate(all="ignore"):
            expected = [np.fmax.reduce(x[i : i + 128], initial=-np.inf) for i in range(0, n, 128)]
            numbers = np.concatenate([x, np.full(-n % 128, np.nan, np.float32)]).reshape(-1, 8, 16)
            expected_of_groups = np.fmax.reduce(numbers, 1, initial=-np.inf)
        assert kernels.block_maxima(x).tolist() == expected
        np.testing.assert_array_equal(kernels.group_maxima(x), expected_of_groups)
    assert kernels.block_maxima(np.full(300, np.nan, np.float32)).tolist() == [-np.inf] * 3
    assert kernels.block_maxima(np.empty(0, np.float32)).tolist() == []


@pytest.mark.parametrize("isa", ISAS)
def test_collect_above(isa: str) -> None:
    kernels = _core.Kernels(isa)
    rng = np.random.default_rng(2)
    for n in SIZES:
        x = rng.integers(-3, 4, n).astype(np.float32)
        x[rng.random(n) < 0.1] = np.nan
        x[rng.random(n) < 0.1] = -np.inf
        maxima = PORTABLE.block_maxima(x)
        for bound in (-np.inf, -1.0, 0.0, 2.5, 100.0):
            ids, found = kernels.collect_above(x, maxima, bound)
            expected = np.flatnonzero(x > np.float32(bound))
            np.testing.assert_array_equal(ids, expected)
            np.testing.assert_array_equal(found, x[expected])


def random_scores(rng: np.random.Generator, n: int) -> tuple[np.ndarray, float]:
    """Scores with a few at -infinity or NaN, and the largest."""
    x = (rng.standard_normal(n) * rng.choice([0.1, 3.0, 30.0])).astype(np.float32)
    largest = float(x.max())
    x[rng.random(n) < 0.05] = -np.inf
    x[rng.random(n) < 0.05] = np.nan
    return x, largest


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0, 1e-3, 1e36])
def test_softmax_exps(isa: str, temperature: float) -> None:
    kernels = _core.Kernels(isa)
    rng = np.random.default_rng(1)
    steepness = float(np.float32(1 / (math.log(2) * temperature)))
    for n in SIZES:
        x, largest = random_scores(rng, n)
        exps = kernels.softmax_exps(x, largest, steepness)
        np.testing.assert_array_equal(exps, PORTABLE.softmax_exps(x, largest, steepness))
        below = x - np.float32(largest)
        exponents = np.nan_to_num(below, nan=-np.inf).astype(np.float64) * steepness
        np.testing.assert_allclose(exps, np.exp2(np.maximum(exponents, -40)), rtol=1e-5)
        above = exponents > -39.9
        np.testing.assert_allclose(exps[above], np.exp2(exponents[above]), rtol=2 * 2.0**-23)
        assert (exps[below == 0] == 1).all()
        assert (exps <= 1).all()


def weights_of(x: np.ndarray, largest: float, steepness: float) -> np.ndarray:
    """Rounded in float64, which holds each of them exactly."""
    return np.rint(PORTABLE.softmax_exps(x, largest, steepness).astype(np.float64) * 2.0**38).astype(np.int64)


@pytest.mark.parametrize("steepness", [1.4426950408889634, 2.061, 0.4809, 1.0, 100.0])
def test_weights_fall_by_a_few_units_at_most_where_scores_rise(steepness: float) -> None:
    """Bounds of a group's weights by that of its largest score rest on this."""
    for exponent in (-1e-6, -0.5, -1, -7.3, -20, -36, -38.9):
        highest = np.float32(exponent / steepness)
        # 200,000 floats next to each other, ascending: all of them negative.
        scores = (highest.view(np.int32) + np.arange(200000, 0, -1, dtype=np.int32)).view(np.float32)
        weights = weights_of(scores, 0.0, steepness)
        largest_below = np.maximum.accumulate(weights)
        assert (largest_below - weights <= weights * 2.0**-20 + 1).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("steepness", [1.4426950408889634, 2.061, 0.4809])
def test_softmax_totals(isa: str, steepness: float) -> None:
    """Exactly the sums of the rounded weights."""
    kernels = _core.Kernels(isa)
    rng = np.random.default_rng(1)
    for n in SIZES:
        x, largest = random_scores(rng, n)
        weights = weights_of(x, largest, steepness)
        expected = [int(weights[i : i + 1024].sum()) for i in range(0, n, 1024)]
        assert kernels.softmax_totals(x, largest, steepness).tolist() == expected
        x, weights = x[:1024], weights[:1024]
        for bound in (-np.inf, largest - 2, float(x[0]), largest, np.inf):
            expected_above = weights[x > np.float32(bound)].sum()
            assert kernels.softmax_total_above(x, largest, steepness, bound) == expected_above


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("steepness", [1.4426950408889634, 2.061, 0.4809, 2.0**-120, 1e30])
def test_softmax_moments(isa: str, steepness: float) -> None:
    """What is expected of the exponents, to float32's rounding; the same bits everywhere. NaN, -infinity are none."""
    kernels = _core.Kernels(isa)
    rng = np.random.default_rng(4)
    for n in SIZES:
        x, largest = random_scores(rng, n)
        x[rng.integers(0, n, 3)] = np.nan, -np.inf, -1e38
        totals, moments = kernels.softmax_moments(x, largest, steepness)
        np.testing.assert_array_equal(moments, PORTABLE.softmax_moments(x, largest, steepness)[1])
        np.testing.assert_array_equal(totals, kernels.softmax_totals(x, largest, steepness))
        exponents = np.nan_to_num((largest - x.astype(float)) * steepness, nan=np.inf)
        terms = np.where(exponents < 39.99, np.exp2(-exponents) * np.minimum(exponents, 40), 0)
        expected = [terms[i : i + 1024].sum() for i in range(0, n, 1024)]
        np.testing.assert_allclose(moments, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("steepness", [1.4426950408889634, 2.061, 0.4809, 2.0**-120, 1e30])
def test_softmax_bounds(isa: str, steepness: float) -> None:
    """Above the weights, seldom by more than 6%; sums of 128. Nothing for scores that are not above a bound."""
    rng = np.random.default_rng(2)
    for n in SIZES:
        x, largest = random_scores(rng, n)
        x[0] = -np.inf
        weights = weights_of(x, largest, steepness) / 2.0**16
        for bound in (-np.inf, largest - 2, float(x[n // 2]), largest, np.inf):
            bounds, totals = _core.Kernels(isa).softmax_bounds(x, largest, steepness, bound)
            portable = PORTABLE.softmax_bounds(x, largest, steepness, bound)
            for part, expected in zip((bounds, totals), portable, strict=True):
                np.testing.assert_array_equal(part, expected)
            above = x > np.float32(bound)
            assert (bounds[above] * (1 + 2.0**-16) >= weights[above]).all()
            assert (bounds[above] <= weights[above] * 1.0615 + 2).all()
            assert not bounds[~above].any()
            assert totals.tolist() == [bounds[i : i + 128].sum() for i in range(0, n, 128)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("steepness", [1.4426950408889634, 2.061, 0.4809, 2.0**-120, 1e30])
def test_softmax_estimate(isa: str, steepness: float) -> None:
    """Within the stated distance of the sums; the same bits everywhere."""
    rng = np.random.default_rng(3)
    for n in [*SIZES, 65536]:
        x, largest = random_scores(rng, n)
        weights = weights_of(x, largest, steepness)
        for high, low in ((largest - 1, largest - 3), (float(x[0]), float(x[n // 2])), (np.inf, -np.inf)):
            estimates = _core.Kernels(isa).softmax_estimate(x, largest, steepness, high, low)
            assert estimates == PORTABLE.softmax_estimate(x, largest, steepness, high, low)
            sets = (weights, weights[x > np.float32(high)], weights[x > np.float32(low)])
            for estimate, some in zip(estimates, sets, strict=True):
                estimate, total = estimate * 2.0**38, int(some.sum())
                assert total <= estimate * 1.0001 + n
                assert estimate <= total * 1.0616 + n


@pytest.mark.parametrize("isa", ISAS)
def test_softmax_totals_at_the_limits(isa: str) -> None:
    """Sums as large as they become, and fractions that all fall on one side or on a tie."""
    kernels = _core.Kernels(isa)
    half_nan = np.array([np.nan if i % 2 else 0 for i in range(5000)], np.float32)
    assert kernels.softmax_totals(half_nan, 0.0, 1.0).sum() == 2500 << 38
    assert kernels.softmax_totals(np.zeros(1024, np.float32), 0.0, 1.0).tolist() == [1024 << 38]
    # With a steepness of 1 these are powers of two, 2^-18 in the sum's upper part a tie; and their neighbours.
    for exponent in (-1, -16, -17, -18, -19, -37, -38, -39, -40, -1000):
        for neighbour in (-np.inf, 0, np.inf):
            score = np.nextafter(np.float32(exponent), np.float32(neighbour), dtype=np.float32)
            x = np.full(1024, score, np.float32)
            expected = int(weights_of(x, 0.0, 1.0).sum())
            assert kernels.softmax_totals(x, 0.0, 1.0).tolist() == [expected]
            assert kernels.softmax_total_above(x, 0.0, 1.0, -np.inf) == expected
