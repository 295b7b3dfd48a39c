"""The sampler alone: its generator, its filters beside transformers' processors, and the frequencies it draws with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from draw_rule import options, random_logits
from pythia_cpu import _core

VOCAB_SIZES = (1, 2, 7, 127, 128, 129, 1000, 4096, 50304)


def processors(changes: dict[str, Any]) -> transformers.LogitsProcessorList:
    """What transformers' generate() would run, in its order (generation/utils.py, _get_logits_processor)."""
    config = transformers.GenerationConfig(
        do_sample=True,
        **{"top_k": 0, **{key: value for key, value in changes.items() if key != "logit_bias"}},
        sequence_bias={(id,): bias for id, bias in changes.get("logit_bias", [])} or None,
    )
    mixin = transformers.generation.GenerationMixin()
    mixin.config = transformers.GPTNeoXConfig()
    return mixin._get_logits_processor(config, input_ids_seq_length=1)


def reference_scores(logits: np.ndarray, changes: dict[str, Any], prompt: list[int]) -> np.ndarray:
    scores = processors(changes)(torch.tensor([prompt or [0]]), torch.tensor(logits)[None])
    return scores[0].numpy()


def assert_same_tokens(logits: np.ndarray, changes: dict[str, Any], prompt: list[int] | None = None) -> np.ndarray:
    """The tokens left and their scores are transformers', the weights those of unrounded quotients."""
    prompt = prompt or []
    expected = reference_scores(logits, changes, prompt)
    ids, scores, weights = _core.filter_logits(logits, options(**changes), prompt=prompt)
    np.testing.assert_array_equal(ids, np.flatnonzero(expected > -np.inf))
    np.testing.assert_array_equal(scores, expected[ids])
    unfiltered = {
        key: value
        for key, value in changes.items()
        if key in ("repetition_penalty", "logit_bias", "no_repeat_ngram_size")
    }
    quotients = reference_scores(logits, unfiltered, prompt)[ids].astype(np.float64) / changes.get("temperature", 1.0)
    probabilities = torch.softmax(torch.tensor(quotients), -1).numpy()
    np.testing.assert_allclose(weights / weights.sum(), probabilities, rtol=2e-6, atol=1e-10)
    return ids


# Random123's known answers (kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert tuple(_core.philox4x32_10(counter, key)) == expected


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.7},
        {"temperature": 1.9},
        {"top_k": 1},
        {"top_k": 40},
        {"top_k": 500},
        {"top_k": 2000},
        {"top_k": 10**6},
        {"top_p": 0.9},
        {"top_p": 0.5},
        {"top_p": 0.999},
        {"top_p": 1e-6},
        {"min_p": 0.05},
        {"min_p": 1.0},
        {"min_p": 1e-9},
        {"typical_p": 0.9},
        {"typical_p": 0.2},
        {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
        {"temperature": 1.3, "top_p": 0.9, "min_p": 0.1},
        {"temperature": 0.5, "top_k": 100, "top_p": 0.97, "min_p": 0.01, "typical_p": 0.8},
    ],
    ids=str,
)
def test_filters_keep_what_transformers_keeps(vocab_size: int, changes: dict[str, Any]) -> None:
    for seed in range(5):
        assert_same_tokens(random_logits(vocab_size, seed), changes)


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize(
    "changes", [{"top_p": 0.8}, {"min_p": 0.2}, {"typical_p": 0.7}, {"top_k": 17}, {"top_k": 1700}], ids=str
)
def test_filters_on_flat_and_sharp_distributions(scale: float, changes: dict[str, Any]) -> None:
    for seed in range(5):
        assert_same_tokens(random_logits(3000, seed, scale), changes)


@given(
    values=st.lists(st.integers(-6, 6), min_size=1, max_size=300),
    top_k=st.integers(0, 40),
    top_p=st.sampled_from([1.0, 0.9317, 0.7123, 0.3719, 0.1113]),
    min_p=st.sampled_from([0.0, 0.0301, 0.3017, 1.0]),
)
def test_ties_are_kept_as_transformers_keeps_them(values: list[int], top_k: int, top_p: float, min_p: float) -> None:
    """Few distinct values: nearly every border has a tie."""
    logits = np.array(values, np.float32) * 0.731
    assert_same_tokens(logits, {"top_k": top_k, "top_p": top_p, "min_p": min_p})


def test_processors_before_the_filters() -> None:
    prompt = [3, 5, 5, 17, 250]
    for seed in range(20):
        logits = random_logits(300, seed)
        bias = [(5, 4.0), (17, -2.5), (40, 30.0), (41, -math.inf)]
        assert_same_tokens(logits, {"repetition_penalty": 1.3}, prompt)
        assert_same_tokens(logits, {"repetition_penalty": 0.8, "temperature": 0.9}, prompt)
        assert 41 not in assert_same_tokens(logits, {"logit_bias": bias})
        changes = {"logit_bias": bias, "repetition_penalty": 1.7, "temperature": 0.6, "top_k": 30, "top_p": 0.9}
        assert_same_tokens(logits, changes, prompt)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9, 30])
@pytest.mark.parametrize("changes", [{}, {"repetition_penalty": 1.7, "temperature": 0.6, "top_k": 3}])
def test_no_run_of_tokens_comes_twice(size: int, changes: dict[str, Any]) -> None:
    rng = np.random.default_rng(size)
    banned = 0
    for seed in range(30):
        logits, prompt = random_logits(6, seed), rng.integers(0, 4, rng.integers(1, 40)).tolist()
        left = assert_same_tokens(logits, {**changes, "no_repeat_ngram_size": size}, prompt)
        banned += len(left) < len(assert_same_tokens(logits, changes, prompt))
        cut = int(rng.integers(0, len(prompt)))  # what is generated counts as the prompt does
        sampling = options(**changes, no_repeat_ngram_size=size)
        found, _, _ = _core.filter_logits(logits, sampling, prompt=prompt[:cut], generated=prompt[cut:])
        np.testing.assert_array_equal(found, left)
    assert (banned > 0) == (size < 5 and not (size == 4 and changes))


def test_presence_and_frequency_penalties() -> None:
    """As the OpenAI API defines them: generated tokens only, presence once, frequency as often as the token came."""
    logits = random_logits(50, 0)
    penalties = {"presence_penalty": 0.75, "frequency_penalty": 0.5}
    _, scores, _ = _core.filter_logits(logits, options(**penalties), prompt=[1, 2, 2], generated=[2, 7, 7, 7])
    expected = logits.copy()
    expected[2] -= 0.75 + 0.5
    expected[7] -= 0.75 + 1.5
    np.testing.assert_array_equal(scores, expected)
    # The repetition penalty comes first.
    _, scores, _ = _core.filter_logits(logits, options(**penalties, repetition_penalty=2.0), generated=[7])
    assert scores[7] == np.float32(logits[7] / 2 if logits[7] >= 0 else logits[7] * 2) - np.float32(1.25)


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_greedy_is_argmax(vocab_size: int) -> None:
    for seed in range(20):
        logits = np.round(random_logits(vocab_size, seed))  # ties: the first wins, as in torch
        greedy = _core.sample_logits(logits, _core.SamplingOptions(do_sample=False, temperature=0.5, top_p=0.1))
        assert greedy[0] == int(torch.tensor(logits).argmax()) == int(logits.argmax())


def chi_square_quantile(degrees: int, z: float) -> float:
    """Wilson and Hilferty's approximation."""
    return degrees * (1 - 2 / (9 * degrees) + z * math.sqrt(2 / (9 * degrees))) ** 3


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 2.5}, {"top_k": 12}, {"top_p": 0.9}, {"min_p": 0.02}, {"typical_p": 0.9}], ids=str
)
@pytest.mark.parametrize("vocab_size", [40, 3000])
def test_frequencies_pass_a_chi_square_test(changes: dict[str, Any], vocab_size: int) -> None:
    """At the 1 - 1e-5 quantile, for fixed seeds; one step each of many sequences, and many steps of one sequence."""
    draws = 20000
    logits = random_logits(vocab_size, 1, scale=1.0)
    expected_scores = torch.tensor(reference_scores(logits, changes, []), dtype=torch.float64)
    expected = draws * torch.softmax(expected_scores, -1).numpy()
    many_steps = _core.sample_logits(logits, options(**changes), seed=7, num_draws=draws)
    many_sequences = np.concatenate(
        [_core.sample_logits(logits, options(**changes), seed=7, sequence=i) for i in range(draws)]
    )
    for ids in (many_steps, many_sequences):
        observed = np.bincount(ids, minlength=vocab_size)
        assert not observed[expected == 0].any()
        # Cells with few draws expected are put together, as the test needs.
        common = expected >= 10
        pairs = [*zip(observed[common], expected[common], strict=True)]
        if expected[~common].sum() > 0:
            pairs.append((observed[~common].sum(), max(expected[~common].sum(), 1e-9)))
        statistic = sum((o - e) ** 2 / e for o, e in pairs)
        assert statistic < chi_square_quantile(len(pairs) - 1, 4.26)


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.9, 1e6, 1e37])
def test_borders_under_rounded_temperatures(temperature: float) -> None:
    """Scores next to each other, whose quotients are equal now and then: draws and filters agree about ties."""
    rng = np.random.default_rng(0)
    for base in (0.0, 1.0, -3.7, 300.0):
        steps = rng.integers(-20, 21, 3000).astype(np.int32)
        logits = (np.full(3000, base, np.float32).view(np.int32) + (steps if base else abs(steps))).view(np.float32)
        for changes in ({"top_p": 0.7}, {"top_k": 70}, {"min_p": 1.0}, {"top_p": 0.3, "min_p": 1.0}):
            changes = {"temperature": temperature, **changes}
            expected = reference_scores(logits, {"temperature": temperature}, [])
            ids, scores, _ = _core.filter_logits(logits, options(**changes))
            np.testing.assert_array_equal(scores, expected[ids])
            for step in range(10):
                drawn = _core.sample_logits(logits, options(**changes), first_step=step)[0]
                assert drawn in ids
            if "top_p" not in changes:
                np.testing.assert_array_equal(ids, np.flatnonzero(reference_scores(logits, changes, []) > -np.inf))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize(
    "changes",
    [{}, {"top_k": 298}, {"top_p": 0.9}, {"min_p": 1e-9}, {"typical_p": 0.9}, {"top_k": 298, "typical_p": 0.9}],
)
def test_scores_at_the_end_of_float32(changes: dict[str, Any], temperature: float) -> None:
    """A quotient that overflows to -infinity is no token's, and a difference that overflows counts for nothing."""
    changes = {"temperature": temperature, **changes}
    logits = random_logits(300, 0)
    low = [(3, -3.4e38), (40, -3.4e38)]
    for bias in (low, [*low, (5, 2e38)]):
        ids = assert_same_tokens(logits, {**changes, "logit_bias": bias})
        drawn = _core.sample_logits(logits, options(**changes, logit_bias=bias), num_draws=20)
        assert set(drawn.tolist()) <= set(ids.tolist()) - {3, 40}


@pytest.mark.parametrize("changes", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}, {"typical_p": 0.9}], ids=str)
def test_unusual_logits(changes: dict[str, Any]) -> None:
    low = np.full(200, -1e30, np.float32)
    low[77] = -1e29
    assert _core.sample_logits(low, options(**changes))[0] == 77
    masked = np.full(200, -np.inf, np.float32)
    masked[[5, 150]] = 3.0
    assert set(_core.sample_logits(masked, options(**{**changes, "typical_p": 1.0}), num_draws=50).tolist()) <= {5, 150}
    with_nan = np.where(np.arange(200) == 9, 4.0, np.nan).astype(np.float32)
    assert _core.sample_logits(with_nan, options(**changes))[0] == 9
    infinite = np.zeros(200, np.float32)
    infinite[[30, 60]] = np.inf
    assert set(_core.sample_logits(infinite, options(**changes), num_draws=50).tolist()) == {30, 60}
    # So cold that scores overflow: the limit is the most likely token.
    assert _core.sample_logits(random_logits(200, 5), options(temperature=1e-38, **changes))[0] == int(
        random_logits(200, 5).argmax()
    )
    for hopeless in (np.full(200, np.nan, np.float32), np.full(200, -np.inf, np.float32)):
        for sampling in (options(**changes), _core.SamplingOptions(do_sample=False)):
            with pytest.raises(ValueError, match="no usable logits"):
                _core.sample_logits(hopeless, sampling)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"temperature": 0.0}, "temperature is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": math.nan}, "top_p is nan"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"min_p": 2.0}, "min_p is 2"),
        ({"typical_p": 0.0}, "typical_p is 0"),
        ({"typical_p": 1.5}, "typical_p is 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty is inf"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
        ({"presence_penalty": math.nan}, "presence_penalty is nan"),
        ({"frequency_penalty": math.inf}, "frequency_penalty is inf"),
        ({"logit_bias": [(100, 1.0)]}, "logit_bias names token 100"),
        ({"logit_bias": [(-1, 1.0)]}, "logit_bias names token -1"),
        ({"logit_bias": [(3, math.nan)]}, "logit_bias of token 3 is nan"),
        ({"logit_bias": [(3, math.inf)]}, "logit_bias of token 3 is inf"),
        ({"logit_bias": [(3, 1.0), (3, 2.0)]}, "names token 3 twice"),
        ({"logit_bias": [(i, -math.inf) for i in range(100)]}, "bans all 100 tokens"),
    ],
)
def test_options_out_of_range(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        _core.filter_logits(random_logits(100, 0), options(**changes))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_mass_that_is_reached_exactly_is_enough(count: int) -> None:
    """And one below it by the least difference is not. Of equal tokens top_p takes the higher ids first."""
    for part, kept in (
        (count / 4, count),
        (math.nextafter(count / 4, 0), count),
        (math.nextafter(count / 4, 1), count + 1),
    ):
        if part <= 1 and kept <= 4:
            assert (
                _core.filter_logits(np.zeros(4, np.float32), options(top_p=part))[0].tolist()
                == [3, 2, 1, 0][:kept][::-1]
            )


@pytest.mark.parametrize("scores", [[0.0, 0.0, -1.0, -1.0], [-3.0, -2.0, -1.0, 0.0, -2.5]])
@pytest.mark.parametrize("name", ["top_p", "typical_p"])
def test_parts_between_unequal_tokens(scores: list[float], name: str) -> None:
    logits = np.array(scores, np.float32)
    weights = _core.filter_logits(logits, options())[2]
    parts = weights / weights.sum()
    information = -np.log(parts)
    order = -logits if name == "top_p" else np.abs(information - (parts * information).sum()).round(5)
    for border in np.unique(order)[:-1]:
        wanted = np.flatnonzero(order <= border)
        mass, total = int(weights[wanted].sum()), int(weights.sum())
        exact = next(p for p in (mass / total, math.nextafter(mass / total, 0)) if math.ceil(p * total) == mass)
        assert _core.filter_logits(logits, options(**{name: exact}))[0].tolist() == wanted.tolist()
        more = _core.filter_logits(logits, options(**{name: (mass + 2) / total}))[0]
        assert len(more) > len(wanted)
