"""The fused head: log-probabilities, arg-max, ranks and entropies without logits, against the logits themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from bits import assert_same_bits
from checkpoints import neox_config, random_tensors
from pythia_cpu import _core

ISAS = _core.supported_isas()
PORTABLE = _core.Kernels("portable")
# The fused sums' own error: float32 sums of 48 terms in each lane, and the rounding of the result.
SUM_ERROR = 5e-7
# Whole chunks of 768 logits, one logit more, and a part; tokens over a block of rows (96) and a pass (512).
VOCAB_SIZES = (4099, 4608, 4609)
NUM_TOKENS = 600


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, by rows."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def score(
    model: _core.Model, tokens: np.ndarray, targets: np.ndarray, splits: Sequence[int] = ()
) -> tuple[np.ndarray, ...]:
    """(log-probabilities, arg-max, ranks, entropies, varentropies) of the targets after all tokens, in calls that end
    at `splits`.
    """
    cache = _core.KvCache(model)
    ends = [*splits, len(tokens)]
    parts = [
        model.score([(cache, tokens[begin:end], targets[begin:end])])
        for begin, end in zip([0, *splits], ends, strict=True)
    ]
    return tuple(np.concatenate([part[i] for part in parts]) for i in range(5))


@pytest.fixture(scope="module", params=[(v, w) for v in VOCAB_SIZES for w in ("f32", "q8")], ids=str)
def path(
    request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> Path:
    vocab_size, weights = request.param
    checkpoint = make_checkpoint(
        hidden_size=96, num_attention_heads=2, num_hidden_layers=2, vocab_size=vocab_size, dtype="float32"
    )
    return make_model_file(checkpoint, weights)


def sequence(path: Path) -> tuple[np.ndarray, np.ndarray]:
    vocab_size = _core.PcpuFile.open(str(path)).config["vocab_size"]
    rng = np.random.default_rng(vocab_size)
    ids = rng.integers(0, vocab_size, NUM_TOKENS + 1).astype(np.int32)
    ids[1:20] = [0, vocab_size - 1, *range(max(0, 768 - 17), 768)]  # the edges of chunks are targets too
    return ids[:-1], ids[1:]


def test_against_the_logits(path: Path) -> None:
    model = _core.Model.open(str(path), 2)
    tokens, targets = sequence(path)
    logits = model.forward([(_core.KvCache(model), tokens, len(tokens))])
    logprobs, argmax, ranks, entropies, varentropies = score(model, tokens, targets)
    assert [a.dtype for a in (logprobs, argmax, ranks)] == [np.float32, np.int32, np.int32]
    assert entropies.dtype == varentropies.dtype == np.float32
    np.testing.assert_array_equal(argmax, logits.argmax(1))  # NumPy's is the lowest index too
    all_logprobs = log_softmax(logits)
    expected = all_logprobs[np.arange(len(targets)), targets]
    rounding = np.spacing(np.abs(expected).astype(np.float32)) / 2
    assert (np.abs(logprobs - expected) <= rounding + SUM_ERROR).all()
    np.testing.assert_array_equal(ranks, reference_ranks(logits, targets))
    np.testing.assert_array_equal(ranks == 0, targets == argmax)
    # The sums that an entropy is made of are larger than a log-sum-exp's.
    expected_entropies = -(np.exp(all_logprobs) * all_logprobs).sum(1)
    assert np.abs(entropies - expected_entropies).max() <= 1e-6 * (1 + expected_entropies.max())
    moments = [(np.exp(all_logprobs) * all_logprobs**power).sum(1) for power in (1, 2)]
    assert np.abs(varentropies - (moments[1] - moments[0] ** 2)).max() <= 1e-6 * (1 + moments[1].max())


def reference_ranks(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    own = logits[np.arange(len(targets)), targets][:, None]
    ties_before = (logits == own) & (np.arange(logits.shape[1]) < targets[:, None])
    return ((logits > own) | ties_before).sum(1)


def test_ties(make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]) -> None:
    """A head whose rows are three different ones: ranks follow the ids."""
    arguments = {"hidden_size": 32, "num_attention_heads": 1, "num_hidden_layers": 1, "vocab_size": 1700}
    tensors = random_tensors(neox_config(**arguments), dtype="float32")  # type: ignore[arg-type]
    tensors["embed_out.weight"] = tensors["embed_out.weight"][np.arange(1700) * 7919 % 3]
    model = _core.Model.open(str(make_model_file(make_checkpoint(tensors=tensors, **arguments), "f32")), 2)
    rng = np.random.default_rng(6)
    tokens, targets = (rng.integers(0, 1700, 200).astype(np.int32) for _ in range(2))
    logits = model.forward([(_core.KvCache(model), tokens, len(tokens))])
    assert len(np.unique(logits[0])) == 3
    np.testing.assert_array_equal(score(model, tokens, targets)[2], reference_ranks(logits, targets))


@pytest.mark.parametrize("isa", ISAS)
def test_same_bits_over_threads_instruction_sets_and_splits(path: Path, isa: str) -> None:
    tokens, targets = sequence(path)
    tokens, targets = tokens[:200], targets[:200]
    expected = score(_core.Model.open(str(path), 1), tokens, targets)
    for threads in (1, 3):
        model = _core.Model.open(str(path), threads, isa)
        for splits in ((), (1, 2, 7, 100), (97,)):
            for actual, wanted in zip(score(model, tokens, targets, splits), expected, strict=True):
                assert_same_bits(actual, wanted, f"{threads} threads, split at {splits}")


def test_company_in_a_call(path: Path) -> None:
    model = _core.Model.open(str(path), 2)
    tokens, targets = sequence(path)
    cuts = [(0, 300, 300), (5, 3, 1), (100, 150, 0), (40, 97, 97), (0, 1, 1)]  # begin, tokens, targets
    slices = [(_core.KvCache(model), tokens[b : b + n], targets[b + n - k : b + n]) for b, n, k in cuts]
    together = model.score(slices)
    alone = [model.score([(_core.KvCache(model), t, wanted)]) for _, t, wanted in slices]
    for i in range(4):
        assert_same_bits(together[i], np.concatenate([one[i] for one in alone]))
    assert [slice[0].length for slice in slices] == [300, 3, 150, 97, 1]


def test_bad_targets(path: Path) -> None:
    model = _core.Model.open(str(path), 1)
    cache = _core.KvCache(model)
    one, two = np.array([1], np.int32), np.array([1, 2], np.int32)
    with pytest.raises(ValueError, match="logits of 2 tokens"):
        model.score([(cache, one, two)])
    for bad in (-1, 2**31 - 1):
        with pytest.raises(ValueError, match=f"target 0 is {bad}"):
            model.score([(cache, one, np.array([bad], np.int32))])
    assert cache.length == 0
    assert len(model.score([])[0]) == 0


class TestSummarizeLogits:
    @pytest.mark.parametrize("isa", ISAS)
    def test_against_numpy(self, isa: str) -> None:
        kernels = _core.Kernels(isa)
        rng = np.random.default_rng(3)
        for n in [*range(1, 70), 767, 768]:
            x = (rng.standard_normal(n) * rng.choice([0.1, 3.0, 40.0])).astype(np.float32)
            for bound in (x[n // 2], x.max(), x.min(), x.max() + np.float32(3)):
                largest, reference, total, weighted, squared, above = kernels.summarize_logits(x, bound=bound)
                assert kernels.summarize_logits(x, bound=bound) == PORTABLE.summarize_logits(x, bound=bound)
                assert (largest, above) == (x.max(), (x > bound).sum())
                assert reference == (bound if largest - bound <= 8 else largest)
                below = reference - x.astype(np.float64)
                assert total == pytest.approx(np.exp(-below).sum(), rel=SUM_ERROR)
                scale = (np.exp(-below) * abs(below)).sum()
                assert weighted == pytest.approx((np.exp(-below) * below).sum(), abs=2 * SUM_ERROR * scale + 1e-30)
                assert squared == pytest.approx((np.exp(-below) * below**2).sum(), rel=3 * SUM_ERROR, abs=1e-30)

    @pytest.mark.parametrize("isa", ISAS)
    def test_logits_far_apart(self, isa: str) -> None:
        x = np.full(37, -3e38, np.float32)
        x[20] = 3e38
        for bound, above in ((-3e38, 1), (3e38, 0)):
            largest, reference, total, weighted, squared, count = _core.Kernels(isa).summarize_logits(x, bound=bound)
            assert (largest, reference, total, count) == (np.float32(3e38), np.float32(3e38), 1.0, above)
            assert 0 <= weighted < 1e-30 and 0 <= squared < 1e-30

    @pytest.mark.parametrize("isa", ISAS)
    def test_count_above(self, isa: str) -> None:
        kernels = _core.Kernels(isa)
        rng = np.random.default_rng(5)
        for n in [*range(70), 767, 768]:
            x = rng.integers(-3, 3, n).astype(np.float32)
            for bound in (-4.0, -1.0, -0.0, 0.0, float(np.nextafter(np.float32(0), np.float32(-1))), 2.5):
                assert kernels.count_above(x, bound) == (x > bound).sum()

    @pytest.mark.parametrize("isa", ISAS)
    def test_first_above(self, isa: str) -> None:
        kernels = _core.Kernels(isa)
        rng = np.random.default_rng(4)
        for n in [*range(1, 70), 767, 768]:
            x = rng.integers(-3, 3, n).astype(np.float32)
            x[rng.random(n) < 0.2] = np.nan
            for bound in (-4.0, -0.0, 1.0):
                if (x > bound).any():
                    assert kernels.first_above(x, bound) == (x > bound).argmax()

    @pytest.mark.parametrize("isa", ISAS)
    def test_above_by_the_least_difference(self, isa: str) -> None:
        smallest = np.float32(1e-45)
        x = np.array([0.0, -0.0, smallest, -smallest, 3e38, -3e38] * 17, np.float32)
        for bound in (0.0, -0.0, smallest, -smallest, 3e38, -3e38):
            assert _core.Kernels(isa).summarize_logits(x, bound=bound)[-1] == (x > np.float32(bound)).sum()
