"""Which tokens the sampler draws: by the rule of docs/numerics.md, whatever the filters and the threads."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from draw_rule import expected_draw, options, random_logits, uniform_bits
from pythia_cpu import _core


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"top_k": 20},
        {"min_p": 0.02},
        {"top_p": 0.5},
        {"top_p": 0.1},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.7, "top_p": 0.6, "min_p": 0.01},
        {"temperature": 0.9, "top_p": 0.8, "top_k": 40},
        {"top_p": 0.8, "typical_p": 0.7},
        {"typical_p": 0.02},
        {"temperature": 0.6, "typical_p": 0.5},
        {"temperature": 1.3, "typical_p": 0.95},
    ],
    ids=str,
)
@pytest.mark.parametrize("ties", [False, True])
def test_draws_follow_the_documented_rule(changes: dict[str, Any], ties: bool) -> None:
    """floor(bits * total / 2^64) falls on a token's weights, tokens in order of their ids."""
    logits = random_logits(2600, 3, scale=0.5)
    if ties:
        logits = np.round(3 * logits) * np.float32(0.3)
    tries = []
    for step in range(60):
        expected, needed = expected_draw(logits, changes, uniform_bits(11 + 2**40, 4, step + 2**33))
        tries.append(needed)
        drawn = _core.sample_logits(
            logits, options(**changes), seed=11 + 2**40, sequence=4, first_step=step + 2**33, num_draws=1
        )
        assert drawn[0] == expected
    if "top_k" not in changes and "typical_p" not in changes:
        assert {1, 2, 3, 4, 5} <= set(tries)
    if changes == {"top_p": 0.1}:
        assert {1, 65} <= set(tries)


@pytest.mark.parametrize(
    "changes",
    [{"top_p": 0.9}, {"top_p": 0.3}, {"top_p": 0.6, "min_p": 0.3}, {"typical_p": 0.9}, {"typical_p": 0.2}],
    ids=str,
)
@pytest.mark.parametrize("ties", [False, True])
def test_draws_from_many_likely_tokens_follow_the_documented_rule(changes: dict[str, Any], ties: bool) -> None:
    """Whether top_p keeps a token follows from estimates of masses, from exact ones where it is near the border."""
    logits = random_logits(20000, 4, scale=0.3)
    if ties:
        logits = np.round(logits) * np.float32(0.3)
    for step in range(80):
        expected, _ = expected_draw(logits, changes, uniform_bits(5, 0, step))
        assert _core.sample_logits(logits, options(**changes), seed=5, first_step=step)[0] == expected


@pytest.mark.parametrize("vocab_size", [1, 16, 17, 128, 130, 2000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_draws_without_filters_follow_the_documented_rule(vocab_size: int, scale: float) -> None:
    """Also where one token has nearly all of the mass: its group is weighed before."""
    logits = random_logits(vocab_size, 1, scale)
    tries = []
    for step in range(200):
        expected, needed = expected_draw(logits, {"temperature": 0.8}, uniform_bits(3, 0, step))
        assert _core.sample_logits(logits, options(temperature=0.8), seed=3, first_step=step)[0] == expected
        tries.append(needed)
    if scale == 100:
        assert max(tries) == 1


def test_draws_from_groups_with_one_likely_token_each() -> None:
    """The worst case: of a group's room an eighth is a token's, and now and then no point of 64 falls on any."""
    logits = np.where(np.arange(8192) % 128 < 16, 0.0, -60.0).astype(np.float32)
    tries = []
    for step in (*range(200), 37577):
        expected, needed = expected_draw(logits, {}, uniform_bits(3, 0, step))
        assert _core.sample_logits(logits, options(), seed=3, first_step=step)[0] == expected
        tries.append(needed)
    assert 6 < np.mean(tries) < 10
    assert tries[-1] == 65


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.7}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.05}, {"top_p": 0.95, "min_p": 0.001}],
    ids=str,
)
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_threads_change_no_draw(changes: dict[str, Any], scale: float) -> None:
    logits = random_logits(50304, 5, scale)
    one, three = (_core.sample_logits(logits, options(**changes), num_draws=40, threads=n) for n in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_every_token_can_be_drawn() -> None:
    counts = Counter(_core.sample_logits(np.zeros(130, np.float32), options(), num_draws=5000).tolist())
    assert set(counts) == set(range(130))


def test_draws_are_keyed_by_seed_sequence_and_step() -> None:
    logits = np.zeros(4096, np.float32)
    base = _core.sample_logits(logits, options(), seed=1, num_draws=64)
    np.testing.assert_array_equal(base, _core.sample_logits(logits, options(), seed=1, num_draws=64))
    np.testing.assert_array_equal(
        base[10:], _core.sample_logits(logits, options(), seed=1, first_step=10, num_draws=54)
    )
    for change in ({"seed": 2}, {"seed": 1 + 2**32}, {"seed": 1, "sequence": 1}, {"seed": 1, "sequence": 2**32}):
        other = _core.sample_logits(logits, options(), num_draws=64, **change)
        assert (base != other).mean() > 0.9
    far = _core.sample_logits(logits, options(), seed=2**64 - 1, sequence=2**64 - 1, first_step=2**63, num_draws=8)
    assert len(set(far.tolist())) > 4
