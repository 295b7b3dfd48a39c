"""Reductions written out from docs/numerics.md: every bit of LayerNorm, attention, scores and divergences."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from bits import assert_same_bits
from ieee import (
    EXP_LOW,
    EXP_POLYNOMIAL,
    F32,
    LOG2_E,
    MAGIC,
    exp,
    exp2,
    exp2_parts,
    exp64,
    fma,
    in_lanes,
    lane_sums,
    log64,
    polynomial,
    round_to_float32,
)
from pythia_cpu import _core

ISAS = _core.supported_isas()
ATTENTION_CHUNK, LOGIT_CHUNK = 256, 768
HALF_LN2 = F32(np.log(2) / 2)


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(F32)


def add(acc: np.ndarray, x: np.ndarray) -> np.ndarray:
    return acc + x


def test_fma_rounds_once() -> None:
    """A tie of float32 that float64's rounding makes is broken by what is left of the exact sum."""
    rng = np.random.default_rng(0)
    a, b = normal(rng, 300), normal(rng, 300)
    c = -(a * b) + normal(rng, 300, scale=1e-9)
    a[:2], b[:2], c[:2] = F32(1 + 2.0**-12), F32(1 + 2.0**-12), [F32(2.0**-60), F32(-(2.0**-60))]
    a[2:4], b[2:4], c[2:4] = 3, 5, -15
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)]
    assert_same_bits(fma(a, b, c), np.array([round_to_float32(value) for value in exact], F32))
    assert (fma(a, b, c)[:2] != F32(a[0] * b[0])).any()


@pytest.mark.parametrize("isa", ISAS)
def test_exponentials(isa: str) -> None:
    kernels = _core.Kernels(isa)
    x = np.concatenate([np.linspace(-130, 130, 40_001), [EXP_LOW, -np.inf, np.inf, 0, -1e-30]]).astype(F32)
    assert_same_bits(exp(x), kernels.exp(x))
    assert_same_bits(exp2(x), kernels.exp2(x))


def test_float64_exponential() -> None:
    """Of perplexities."""
    rng = np.random.default_rng(0)
    numbers = np.concatenate([rng.uniform(0, 12, 2000), rng.uniform(-708, 709.7, 2000), rng.normal(0, 1e-9, 100), [0]])
    for x in numbers.tolist():
        assert _core.exp_exact(x) == exp64(x)
        exact = mpmath.exp(mpmath.mpf(x))
        assert abs(mpmath.mpf(exp64(x)) - exact) <= math.ulp(float(exact))
    borders = [709.782712893384, 709.7827128933841, math.inf, -708.3964185322641, -708.3964185322642, -math.inf]
    found = [_core.exp_exact(x) for x in borders]
    assert found == [exp64(borders[0]), math.inf, math.inf, exp64(borders[3]), 0, 0]
    assert math.isnan(_core.exp_exact(math.nan))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [1, 5, 16, 17, 80, 128, 131, 1000, 2560])
def test_layer_norm(isa: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x, weight, bias, eps = normal(rng, 20, n, scale=3) + F32(0.5), normal(rng, n), normal(rng, n), F32(1e-5)
    centered = x - (lane_sums(add, x) / F32(n))[:, None]
    variances = lane_sums(lambda acc, d: fma(d, d, acc), centered) / F32(n)
    expected = fma(centered * (F32(1) / np.sqrt(variances + eps))[:, None], weight, bias)
    found = [_core.Kernels(isa).layer_norm(row, weight, bias, float(eps)) for row in x]
    assert_same_bits(np.array(found), expected)


def attend(query: np.ndarray, keys: np.ndarray, values: np.ndarray, scale: np.float32) -> np.ndarray:
    """The attention of the query that sees all keys."""
    largest, total, weighted = F32(0), F32(0), np.zeros(len(query), F32)
    for begin in range(0, len(keys), ATTENTION_CHUNK):
        k, v = keys[begin : begin + ATTENTION_CHUNK], values[begin : begin + ATTENTION_CHUNK]
        scores = np.zeros(len(k), F32)
        for d in range(len(query)):
            scores = fma(query[d], k[:, d], scores)
        m = scores.max() * scale
        p = exp(np.maximum(fma(scores, scale, -m), EXP_LOW))
        sums, chunk = lane_sums(add, p), np.zeros(len(query), F32)
        for j in range(len(k)):
            chunk = fma(p[j], v[j], chunk)
        if begin == 0:
            largest, total, weighted = m, sums, chunk
            continue
        top = max(largest, m)
        a, b = exp(np.maximum([largest - top, m - top], EXP_LOW))
        largest, total, weighted = top, fma(total, a, sums * b), fma(weighted, a, chunk * b)
    return weighted / total


@pytest.mark.parametrize("spread", [1, 30])  # of the scores: with 30 a chunk counts almost nothing beside another
@pytest.mark.parametrize("head_dim", [3, 33])
def test_attention(head_dim: int, spread: float) -> None:
    rng = np.random.default_rng(head_dim)
    positions, scale = 700, F32(1) / np.sqrt(F32(head_dim))
    keys, values = normal(rng, positions, head_dim), normal(rng, positions, head_dim)
    if spread > 1:
        values[ATTENTION_CHUNK : 2 * ATTENTION_CHUNK] = 0
        keys[ATTENTION_CHUNK : 2 * ATTENTION_CHUNK] *= 4
    for first, count in ((0, 3), (254, 4), (511, 2), (699, 1)):
        queries = normal(rng, count, head_dim, scale=spread)
        seen = range(first + 1, first + count + 1)
        expected = np.array([attend(q, keys[:n], values[:n], scale) for q, n in zip(queries, seen, strict=True)])
        for isa in ISAS:
            found, _ = _core.Kernels(isa).attention(queries, keys, values, first, float(scale), "f32")
            assert_same_bits(found, expected, (isa, first))


def codes_of(row: np.ndarray, limit: np.float32) -> tuple[np.ndarray, np.float32]:
    """Integer codes of a row of finite floats, and their scale."""
    largest = np.abs(row).max()
    if largest <= F32(1e-30):
        return np.zeros(len(row), np.int64), F32(0)
    return np.rint(row * (limit / largest)).astype(np.int64), largest / limit


def attend_in_int16(query: np.ndarray, keys: np.ndarray, values: np.ndarray, scale: np.float32) -> np.ndarray:
    """The attention of the query that sees all keys, where keys and values are kept as int16 codes."""
    limit, value_limit = F32(min(32767, math.isqrt((2**31 - 1) // (-(-len(query) // 2) * 2)))), F32(2896)
    q, query_scale = codes_of(query, limit)
    k, key_scales = (np.array(part) for part in zip(*(codes_of(row, limit) for row in keys), strict=True))
    v, value_scales = (np.array(part) for part in zip(*(codes_of(row, value_limit) for row in values), strict=True))
    f2 = scale * query_scale * LOG2_E
    largest, total, weighted = F32(0), F32(0), np.zeros(len(query), F32)
    for begin in range(0, len(keys), ATTENTION_CHUNK):
        part = slice(begin, begin + ATTENTION_CHUNK)
        scores = (k[part] @ q).astype(F32) * key_scales[part]
        m = scores.max() * f2
        p = exp2(fma(scores, f2, -m))
        weights, weight_scale = codes_of(p * value_scales[part], value_limit)
        sums, chunk = lane_sums(add, p), (weights @ v[part]).astype(F32) * weight_scale
        if begin == 0:
            largest, total, weighted = m, sums, chunk
            continue
        top = max(largest, m)
        a, b = exp2(np.array([largest - top, m - top]))
        largest, total, weighted = top, fma(total, a, sums * b), fma(weighted, a, chunk * b)
    return weighted / total


@pytest.mark.parametrize("spread", [1, 30])
@pytest.mark.parametrize("head_dim", [2, 3, 16, 33, 64, 128])
def test_attention_in_int16(head_dim: int, spread: float) -> None:
    rng = np.random.default_rng(head_dim)
    positions, scale = 600, F32(1) / np.sqrt(F32(head_dim))
    keys, values = normal(rng, positions, head_dim), normal(rng, positions, head_dim)
    keys[3], values[5], values[6] = 0, 0, F32(1e-31)
    if spread > 1:
        values[ATTENTION_CHUNK : 2 * ATTENTION_CHUNK] = 0
        keys[ATTENTION_CHUNK : 2 * ATTENTION_CHUNK] *= 4
    for first, count in ((0, 3), (254, 4), (511, 2), (599, 1)):
        queries = normal(rng, count, head_dim, scale=spread)
        queries[0, 1:] *= F32(1e-3)
        seen = range(first + 1, first + count + 1)
        expected = [attend_in_int16(q, keys[:n], values[:n], scale) for q, n in zip(queries, seen, strict=True)]
        for isa in ISAS:
            found, _ = _core.Kernels(isa).attention(queries, keys, values, first, float(scale), "i16")
            assert_same_bits(found, np.array(expected), (isa, first))


def chunks_of(logits: np.ndarray) -> list[np.ndarray]:
    return [logits[begin : begin + LOGIT_CHUNK] for begin in range(0, len(logits), LOGIT_CHUNK)]


def sums_of(chunks: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Of chunks of one length, the sums of e, e d and e d d. Lanes without a logit count as -infinity."""
    d = np.minimum(references[:, None, None] - in_lanes(chunks, -np.inf), -EXP_LOW)
    d = d.reshape(len(chunks), -1)
    n = fma(d, -LOG2_E, MAGIC) - MAGIC
    e = exp2_parts(n, fma(d, -LOG2_E, -n))
    steps = (lambda acc, e, d: add(acc, e), lambda acc, e, d: fma(e, d, acc), lambda acc, e, d: fma(e * d, d, acc))
    return np.array([lane_sums(step, e, d) for step in steps])


def chunk_sums(logits: np.ndarray, references: list[np.float32]) -> np.ndarray:
    """[3, chunks]: a row's."""
    r, whole = np.array(references), len(logits) // LOGIT_CHUNK
    parts = []
    if whole:
        parts.append(sums_of(logits[: whole * LOGIT_CHUNK].reshape(whole, LOGIT_CHUNK), r[:whole]))
    if whole < len(r):
        parts.append(sums_of(logits[None, whole * LOGIT_CHUNK :], r[whole:]))
    return np.concatenate(parts, 1)


def score(logits: np.ndarray, target: int) -> tuple[np.float32, np.float32, np.float32]:
    """The log-probability of a target, the entropy and the varentropy."""
    own = logits[target]
    others = logits.copy()
    others[target] = -np.inf
    references = []
    for i, chunk in enumerate(chunks_of(others)):
        r = np.nextafter(own, F32(-np.inf)) if i < target // LOGIT_CHUNK else own
        references.append(chunk.max() if chunk.max() - r > 8 else r)
    r = np.array(references)
    R = max(own, r.max())
    terms = [(1.0, 0.0, 0.0, float(own), float(exp(own - R)))]
    terms += [
        tuple(float(x) for x in term) for term in zip(*chunk_sums(others, references), r, exp(r - R), strict=True)
    ]
    total = weighted = squared = 0.0
    for e, w, q, reference, factor in terms:
        b = float(R) - reference
        total += e * factor
        weighted += (w + e * b) * factor
        squared += (q + b * (2 * w + e * b)) * factor
    log_total, mean = log64(total), weighted / total
    logprob = (float(own) - float(R)) - log_total
    return F32(logprob), F32(log_total + mean), F32(max(squared / total - mean * mean, 0.0))


def check_scores(logits: np.ndarray, targets: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [score(logits, target) for target in targets]
    rows = np.repeat(logits[None], len(targets), 0)
    for isa in ISAS:
        monkeypatch.setenv("PYTHIA_CPU_ISA", isa)
        logprobs, _, _, entropies, varentropies = _core.score_rows(rows, np.array(targets, np.int32))
        for i, found in enumerate((logprobs, entropies, varentropies)):
            assert_same_bits(found, np.array([of_target[i] for of_target in expected]), (isa, i))


@pytest.mark.parametrize("vocab_size", [1, 2, 17, 767, 768, 769, 2000, 50304])
def test_scores(vocab_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = normal(np.random.default_rng(vocab_size), vocab_size, scale=3)
    middle = vocab_size // LOGIT_CHUNK // 2 * LOGIT_CHUNK + min(100, vocab_size // 2)
    check_scores(logits, sorted({0, vocab_size // 3, middle, vocab_size - 1, int(logits.argmax())}), monkeypatch)


@pytest.mark.parametrize("above", [7.5, 8.5, 120.0])
def test_scores_below_one_large_logit(above: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a chunk before the targets', in theirs and in one after it: more than 8 above it is a reference."""
    rng = np.random.default_rng(3)
    for place in (900, 1700, 2500):
        logits = normal(rng, 3100, scale=0.1)
        logits[place] = above
        check_scores(logits, [1600, 1700, 1701], monkeypatch)


def log_total(logits: np.ndarray) -> float:
    R, references = F32(-np.inf), []
    for chunk in chunks_of(logits):
        r = max(R, chunk[0])
        references.append(chunk.max() if chunk.max() - r > 8 else r)
        R = max(R, references[-1])
    R, total = F32(-np.inf), 0.0
    for r, added in zip(references, chunk_sums(logits, references)[0], strict=True):
        higher = max(R, r)
        total = total * float(exp(R - higher)) + float(added) * float(exp(r - higher))
        R = higher
    return float(R) + log64(total)


def divergence(p_logits: np.ndarray, q_logits: np.ndarray) -> np.float32:
    totals = log_total(p_logits), log_total(q_logits)
    rounded = [F32(total) for total in totals]
    rests = [F32(total - float(near)) for total, near in zip(totals, rounded, strict=True)]
    difference = F32(totals[0] - totals[1])
    result = 0.0
    for p, q in zip(chunks_of(p_logits), chunks_of(q_logits), strict=True):
        P, Q = (exp((x - near) - rest) for x, near, rest in zip((p, q), rounded, rests, strict=True))
        d = np.where(P > 0, (p - q) - difference, F32(0))
        near = P * ((d * d) * polynomial(EXP_POLYNOMIAL, -d))
        terms = np.where(P > 0, np.where(np.abs(d) < HALF_LN2, near, fma(P, d, Q - P)), Q)
        result += float(lane_sums(add, terms))
    return F32(result)


@pytest.mark.parametrize("vocab_size", [1, 17, 767, 768, 769, 2000, 50304])
def test_divergences(vocab_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(vocab_size)
    p = normal(rng, 4, vocab_size, scale=3)
    q = p + normal(rng, 4, vocab_size) * np.array([[1e-3], [0.5], [3], [0.5]], F32)
    p[2, vocab_size // 2] += 20  # far above what comes before it
    p[3, vocab_size // 3] = -120  # impossible
    expected = np.array([divergence(*rows) for rows in zip(p, q, strict=True)])
    for isa in ISAS:
        monkeypatch.setenv("PYTHIA_CPU_ISA", isa)
        assert_same_bits(_core.kl_divergence(p, q), expected, isa)


@pytest.mark.parametrize(("rows", "vocab_size"), [(200, 3), (20, 2000)])
def test_log_sums(rows: int, vocab_size: int) -> None:
    logits = normal(np.random.default_rng(rows), rows, vocab_size)
    assert_same_bits(_core.log_sum_exps(logits), np.array([log_total(row) for row in logits]))
