"""Every kernel: the same bits as the portable one, and right."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from bits import assert_same_bits
from ieee import round_to_float32
from pcpu_file import quantized_parts
from pythia_cpu import _core

PORTABLE = _core.Kernels("portable")
SIMD_ISAS = [isa for isa in _core.supported_isas() if isa != "portable"]
FORMATS = list(_core.WEIGHT_FORMATS)
FLOAT_FORMATS = ["f32", "f16", "bf16"]
QUANTIZED_FORMATS = ["q8", "q4"]
GROUP = 32  # inputs that share a scale
DOT_BASE = 0x4B400000  # kDotBase of kernels.h
EDGES = (16, 32, 64, 128, 256, 512)
# One to two vectors of 16 past every edge, and what lies around it.
LENGTHS = sorted({*range(1, 50), *(edge + past for edge in EDGES for past in (-1, 0, 1, 7, 15, 16, 17, 31, 32))})

SPECIAL = np.array(
    [0.0, -0.0, 1e-45, -3e-39, 1.1754944e-38, 1e-30, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan, 1.0, -1.0], np.float32
)


@pytest.fixture(params=SIMD_ISAS)
def kernels(request: pytest.FixtureRequest) -> _core.Kernels:
    """Each instruction set of this machine but the portable one."""
    return _core.Kernels(request.param)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def pack(matrix: np.ndarray, weights: str) -> np.ndarray:
    rows, cols = matrix.shape
    return _core.pack_matrix(matrix, "f32", rows, cols, weights)


def with_specials(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random values of many magnitudes, a third of them special."""
    values = normal(rng, *shape) * np.float32(10) ** rng.integers(-44, 38, shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape), values).astype(np.float32)


def test_the_table_asked_for_is_the_one_that_runs() -> None:
    for isa in _core.supported_isas():
        assert _core.Kernels(isa).isa == isa
    assert _core.supported_isas()[-1] == "portable"
    with pytest.raises(ValueError, match=r"no-such-isa.*this machine runs: .*portable"):
        _core.Kernels("no-such-isa")


class TestMatmul:
    @pytest.mark.parametrize("weights", FORMATS)
    def test_same_bits_over_rows_and_outputs(self, kernels: _core.Kernels, weights: str) -> None:
        rng = np.random.default_rng(1)
        for outputs in [1, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 80, 96, 97, 128, 129, 160]:
            for rows in range(1, 20):
                inputs = int(rng.integers(1, 40))
                x, bias = normal(rng, rows, inputs), normal(rng, outputs) if rows % 2 else None
                packed = pack(normal(rng, outputs, inputs), weights)
                arguments = (x, packed, weights, outputs, bias)
                context = f"{rows} rows, {outputs} outputs, {inputs} inputs"
                assert_same_bits(kernels.matmul(*arguments), PORTABLE.matmul(*arguments), context)

    @pytest.mark.parametrize("weights", FORMATS)
    def test_same_bits_over_inputs(self, kernels: _core.Kernels, weights: str) -> None:
        rng = np.random.default_rng(2)
        for inputs in [*LENGTHS, 1023, 1024, 1025, 1056, 1057]:
            for rows in (1, 2, 7, 13, 29):
                packed = pack(normal(rng, 40, inputs), weights)
                arguments = (normal(rng, rows, inputs), packed, weights, 40, normal(rng, 40))
                assert_same_bits(
                    kernels.matmul(*arguments), PORTABLE.matmul(*arguments), f"{rows} rows, {inputs} inputs"
                )

    def test_same_bits_of_special_values(self, kernels: _core.Kernels) -> None:
        rng = np.random.default_rng(3)
        for inputs in (1, 2, 3, 20):
            packed = pack(with_specials(rng, 200, inputs), "f32")
            arguments = (with_specials(rng, 30, inputs), packed, "f32", 200, with_specials(rng, 200))
            assert_same_bits(kernels.matmul(*arguments), PORTABLE.matmul(*arguments))

    @pytest.mark.parametrize("isa", _core.supported_isas())
    @pytest.mark.parametrize("weights", FORMATS)
    def test_rows_do_not_depend_on_their_company(self, isa: str, weights: str) -> None:
        rng = np.random.default_rng(4)
        sizes = [(29, inputs) for inputs in (33, 256, 257, 700, 1100)]
        for rows, inputs in [*sizes, (139, 100), (139, 4300)]:  # the last beyond all blocks of rows and inputs
            x, packed, bias = normal(rng, rows, inputs), pack(normal(rng, 100, inputs), weights), normal(rng, 100)
            together = _core.Kernels(isa).matmul(x, packed, weights, 100, bias)
            for begin, end in [(0, 1), (rows - 1, rows), (3, 9), (10, 27)]:
                part = _core.Kernels(isa).matmul(x[begin:end], packed, weights, 100, bias)
                assert_same_bits(part, together[begin:end])

    @pytest.mark.parametrize("isa", _core.supported_isas())
    @pytest.mark.parametrize("weights", FLOAT_FORMATS)
    def test_adds_in_sequence_with_one_rounding_a_step(self, isa: str, weights: str) -> None:
        """The order that docs/numerics.md gives, step by step in exact arithmetic."""
        rng = np.random.default_rng(5)
        rows, outputs, inputs = 2, 18, 259
        x, bias = normal(rng, rows, inputs), normal(rng, outputs)
        packed = pack(normal(rng, outputs, inputs), weights)
        w = _core.unpack_matrix(packed, weights, outputs, inputs)
        y = _core.Kernels(isa).matmul(x, packed, weights, outputs, bias)
        for r in range(rows):
            for o in range(0, outputs, 5):
                total = np.float32(0)
                for k in range(inputs):
                    total = round_to_float32(
                        Fraction(float(x[r, k])) * Fraction(float(w[o, k])) + Fraction(float(total))
                    )
                assert y[r, o] == np.float32(total + bias[o])

    @pytest.mark.parametrize("isa", _core.supported_isas())
    @pytest.mark.parametrize("weights", FLOAT_FORMATS)
    def test_exact_on_small_integers(self, isa: str, weights: str) -> None:
        rng = np.random.default_rng(6)
        for rows, outputs, inputs in [(1, 5, 3), (7, 70, 90), (13, 129, 300)]:
            x = rng.integers(-9, 10, (rows, inputs)).astype(np.float32)
            w = rng.integers(-9, 10, (outputs, inputs)).astype(np.float32)
            y = _core.Kernels(isa).matmul(x, pack(w, weights), weights, outputs)
            np.testing.assert_array_equal(y, x.astype(np.int64) @ w.astype(np.int64).T)

    @pytest.mark.parametrize("isa", _core.supported_isas())
    @pytest.mark.parametrize("weights", QUANTIZED_FORMATS)
    def test_quantized_right(self, isa: str, weights: str) -> None:
        """The product of the values that the codes stand for, but for the rounding of one step a group."""
        rng = np.random.default_rng(7)
        kernels = _core.Kernels(isa)
        for rows, outputs, inputs in [(1, 1, 1), (1, 40, 31), (3, 65, 64), (9, 100, 1100)]:
            x, w, bias = normal(rng, rows, inputs), normal(rng, outputs, inputs), normal(rng, outputs)
            packed = pack(w, weights)
            stored = _core.unpack_matrix(packed, weights, outputs, inputs).astype(np.float64)
            codes, scales, _ = (np.stack(part) for part in zip(*map(kernels.quantize_row, x), strict=True))
            values = (codes * np.repeat(scales.astype(np.float64), GROUP, axis=1))[:, :inputs]
            largest = np.abs(values) @ np.abs(stored).T
            y = kernels.matmul(x, packed, weights, outputs, bias)
            assert (np.abs(y - (values @ stored.T + bias)) <= 1e-6 * (largest + np.abs(bias))).all()
            # And not far from the product before quantization: about 1% (8 bits) and 10% (4 bits) of its size.
            bound = {"q8": 0.02, "q4": 0.2}[weights] * np.sqrt(inputs)
            assert np.sqrt(np.square(y - (x @ w.T + bias)).mean()) <= bound

    @pytest.mark.parametrize("isa", _core.supported_isas())
    @pytest.mark.parametrize("weights", QUANTIZED_FORMATS)
    @pytest.mark.parametrize("rows", [1, 9, 17])
    def test_quantized_adds_a_group_a_step(self, isa: str, weights: str, rows: int) -> None:
        """As docs/numerics.md says, step by step in exact arithmetic; the last row's dots are the largest."""
        rng = np.random.default_rng(17)
        outputs, inputs = 18, 170
        w, bias = normal(rng, outputs, inputs), normal(rng, outputs)
        x = np.append(normal(rng, rows - 1, inputs), np.sign(w[:1]), axis=0)
        w[0] = np.sign(w[0])
        packed = pack(w, weights)
        units, multiples, levels = quantized_parts(packed.tobytes(), weights, outputs, inputs)
        y = _core.Kernels(isa).matmul(x, packed, weights, outputs, bias)
        for r in {0, rows - 1}:
            codes, scales, _ = _core.Kernels(isa).quantize_row(x[r])
            dots = np.einsum("gi,ogi->og", codes.reshape(-1, GROUP).astype(np.int64), levels.astype(np.int64))
            for o in range(0, outputs, 5):
                total = np.float32(0)
                for dot, multiple, scale in zip(dots[o], multiples[o], scales, strict=True):
                    product = round_to_float32(Fraction(int(dot) * int(multiple)))
                    total = round_to_float32(Fraction(float(product)) * Fraction(float(scale)) + Fraction(float(total)))
                exact = Fraction(float(total)) * Fraction(float(units[o])) + Fraction(float(bias[o]))
                assert y[r, o] == round_to_float32(exact)

    @pytest.mark.parametrize("isa", _core.supported_isas())
    @pytest.mark.parametrize("weights", QUANTIZED_FORMATS)
    def test_largest_codes_do_not_saturate(self, isa: str, weights: str) -> None:
        """All codes at the end of their range: 16-bit sums of pairs would overflow."""
        for sign in (1, -1):
            x = np.full((5, 64), 127, np.float32)
            packed = pack(np.full((33, 64), sign * 2, np.float32), weights)
            stored = _core.unpack_matrix(packed, weights, 33, 64)
            y = _core.Kernels(isa).matmul(x, packed, weights, 33)
            np.testing.assert_allclose(y, x @ stored.T, rtol=1e-6)
            assert_same_bits(y, PORTABLE.matmul(x, packed, weights, 33))


def int16_codes(x: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of rows, as docs/numerics.md defines them."""
    largest = np.abs(x).max(1, keepdims=True)
    scales = largest / np.float32(limit)
    return np.rint(x * (np.float32(limit) / largest)).astype(np.int64), scales[:, 0]


def score_code_limit(head_dim: int) -> int:
    return min(math.isqrt((2**31 - 1) // (head_dim + head_dim % 2)), 32767)


@pytest.mark.parametrize("kv", ["f32", "i16"])
class TestAttention:
    SHAPES = ((0, 1), (0, 2), (0, 17), (5, 1), (15, 2), (255, 1), (256, 1), (255, 3), (250, 40), (511, 2), (0, 300))

    @pytest.mark.parametrize("head_dim", [1, 7, 15, 16, 17, 20, 31, 32, 33, 48, 64, 80, 96, 128, 256])
    def test_same_bits(self, kernels: _core.Kernels, head_dim: int, kv: str) -> None:
        rng = np.random.default_rng(head_dim)
        for first_position, n in self.SHAPES:
            positions = first_position + n + int(rng.integers(0, 20))
            q, k, v = normal(rng, n, head_dim), normal(rng, positions, head_dim), normal(rng, positions, head_dim)
            arguments = (q, k, v, first_position, 1.0, kv)
            context = f"{n} queries from position {first_position}"
            for found, expected in zip(kernels.attention(*arguments), PORTABLE.attention(*arguments), strict=True):
                assert_same_bits(found, expected, context)

    @pytest.mark.parametrize("isa", _core.supported_isas())
    @pytest.mark.parametrize("head_dim", [20, 64])
    def test_queries_do_not_depend_on_their_company_or_on_later_keys(self, isa: str, head_dim: int, kv: str) -> None:
        rng = np.random.default_rng(8)
        n = 530
        q, k, v = normal(rng, n, head_dim), normal(rng, n, head_dim), normal(rng, n, head_dim)
        kernels = _core.Kernels(isa)
        together, scores = kernels.attention(q, k, v, 0, 0.3, kv)
        for begin, end in [(0, 1), (0, 255), (255, 256), (256, 258), (17, 300), (300, 530), (529, 530)]:
            for piece in (1, 7, end):
                part, part_scores = kernels.attention(q[begin:end], k[:end], v[:end], begin, 0.3, kv, piece)
                context = f"queries {begin}..{end}, stored in pieces of {piece}"
                assert_same_bits(part, together[begin:end], context)
                assert_same_bits(part_scores, scores[begin:end, :end], context)

    @pytest.mark.parametrize("isa", _core.supported_isas())
    @pytest.mark.parametrize("scale", [0.125, 30.0, 3000.0])
    def test_right(self, isa: str, scale: float, kv: str) -> None:
        """Scores to +-1e5 included: trained models have them."""
        rng = np.random.default_rng(9)
        n, head_dim = 700, 24
        q, k, v = normal(rng, n, head_dim), normal(rng, n, head_dim), normal(rng, n, head_dim)
        out, scores = _core.Kernels(isa).attention(q, k, v, 0, scale, kv)
        # Dots as the kernel has them: the rest of the test is about what follows, which is done in float64.
        if kv == "f32":
            dots = _core.Kernels(isa).matmul(q, pack(k, "f32"), "f32", n)
            assert_same_bits(scores, np.tril(dots * np.float32(scale)), "scores")
            exact = dots.astype(np.float64) * np.float32(scale)
            tolerance = 2e-6
        else:
            q_codes, q_scales = int16_codes(q, score_code_limit(head_dim))
            k_codes, k_scales = int16_codes(k, score_code_limit(head_dim))
            factors = np.float32(scale) * q_scales
            products = (q_codes @ k_codes.T).astype(np.float32) * k_scales
            assert_same_bits(scores, np.tril(products * factors[:, None]), "scores")
            exact = products.astype(np.float64) * factors[:, None]
            v_codes, v_scales = int16_codes(v, 2896)
            v = v_codes * v_scales[:, None]
            tolerance = 3e-4  # the weights have 2,896 steps
        exact[np.triu_indices(n, 1)] = -np.inf
        weights = np.exp(exact - exact.max(1, keepdims=True))
        expected = weights @ v / weights.sum(1, keepdims=True)
        assert np.abs(out - expected).max() < tolerance * np.abs(v).max()

    @pytest.mark.parametrize("isa", _core.supported_isas())
    @pytest.mark.parametrize("head_dim", [1, 2, 64, 256])
    def test_extremes(self, isa: str, head_dim: int, kv: str) -> None:
        """The largest sums of products there can be, and nothing at all."""
        kernels, n = _core.Kernels(isa), 300
        ones = np.ones((n, head_dim), np.float32)
        zeros = np.zeros((n, head_dim), np.float32)
        signs = np.where(np.arange(n) % 2, 1, -1).astype(np.float32)[:, None] * ones
        out, scores = kernels.attention(
            ones * np.float32(1e15), ones * np.float32(1e15), ones * np.float32(3), 0, 1e-30, kv
        )
        np.testing.assert_allclose(scores, np.tril(np.full((n, n), head_dim)), rtol=1e-5)
        np.testing.assert_allclose(out, 3, rtol=1e-5)
        out, _ = kernels.attention(ones, zeros, signs, 0, 1.0, kv)
        np.testing.assert_allclose(out[-1], 0, atol=1e-6)
        np.testing.assert_allclose(out[0], -1, rtol=1e-6)
        for nothing in kernels.attention(zeros, ones, zeros, 0, 1.0, kv):
            assert not nothing.any()


@pytest.mark.parametrize("isa", _core.supported_isas())
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
class TestNotFinite:
    """What has int8 or int16 codes is NaN where it is not finite, and nothing else is."""

    def test_matmul(self, isa: str, bad: float) -> None:
        rng = np.random.default_rng(16)
        kernels, x = _core.Kernels(isa), normal(rng, 100)
        sound = kernels.quantize_row(x)
        packed = pack(normal(rng, 20, 100), "q8")
        for i in [*range(32, 64), 99]:
            wrong = np.where(np.arange(100) == i, np.float32(bad), x)
            codes, scales, offsets = kernels.quantize_row(wrong)
            group = i // GROUP
            assert np.isnan(scales[group])
            assert (offsets[group], codes[group * GROUP :][:GROUP].any()) == (DOT_BASE, False)
            for found, expected in zip((scales, offsets), sound[1:], strict=True):
                assert_same_bits(np.delete(found, group), np.delete(expected, group))
            assert np.isnan(kernels.matmul(wrong[None], packed, "q8", 20)).all()

    @pytest.mark.parametrize(("part", "position"), [(0, 270), (1, 5), (1, 270), (2, 5), (2, 270)])
    @pytest.mark.parametrize("form", ["i16", "f32"])
    def test_attention(self, isa: str, bad: float, part: int, position: int, form: str) -> None:
        """A query's own result, and those of all queries that see a key or a value. In float32 a key whose score is
        -infinity would have no weight, and an infinite value shows where it is.
        """
        rng = np.random.default_rng(17)
        n, head_dim = 300, 20
        arrays = [normal(rng, n, head_dim) for _ in range(3)]
        if form == "f32" and part < 2:
            arrays[1 - part][:, 17] = np.abs(arrays[1 - part][:, 17]) * np.sign(np.nan_to_num(bad, posinf=1, neginf=-1))
        expected, _ = _core.Kernels(isa).attention(*arrays, 0, 1.0, form)
        arrays[part][position, 17] = bad
        out, _ = _core.Kernels(isa).attention(*arrays, 0, 1.0, form)
        not_finite = np.arange(n) == position if part == 0 else np.arange(n) >= position
        if form == "f32" and part == 2:
            assert (out[not_finite, 17] == bad).all() if np.isinf(bad) else np.isnan(out[not_finite, 17]).all()
            assert_same_bits(np.delete(out[not_finite], 17, 1), np.delete(expected[not_finite], 17, 1))
        else:
            assert np.isnan(out[not_finite]).all()
        assert_same_bits(out[~not_finite], expected[~not_finite])


class TestRows:
    def test_layer_norm_same_bits(self, kernels: _core.Kernels) -> None:
        rng = np.random.default_rng(10)
        for n in LENGTHS:
            arguments = (normal(rng, n) * np.float32(3), normal(rng, n), normal(rng, n), 1e-5)
            assert_same_bits(kernels.layer_norm(*arguments), PORTABLE.layer_norm(*arguments), n)

    @pytest.mark.parametrize("isa", _core.supported_isas())
    def test_layer_norm_right(self, isa: str) -> None:
        rng = np.random.default_rng(11)
        for n in (1, 5, 80, 128, 2560):
            x, weight, bias = normal(rng, n) + np.float32(0.5), normal(rng, n), normal(rng, n)
            wide = x.astype(np.float64)
            expected = (wide - wide.mean()) / np.sqrt(wide.var() + np.float32(1e-5)) * weight + bias
            y = _core.Kernels(isa).layer_norm(x, weight, bias, 1e-5)
            np.testing.assert_allclose(y, expected, rtol=1e-6, atol=2e-6)

    def test_add_same_bits(self, kernels: _core.Kernels) -> None:
        rng = np.random.default_rng(12)
        for n in LENGTHS:
            a, b = with_specials(rng, n), with_specials(rng, n)
            assert_same_bits(kernels.add(a, b), PORTABLE.add(a, b), n)
            with np.errstate(all="ignore"):
                assert_same_bits(kernels.add(a, b), a + b, n)

    def test_rotary_same_bits(self, kernels: _core.Kernels) -> None:
        rng = np.random.default_rng(13)
        for half in [*range(1, 36), 40, 47, 48, 49, 64, 127, 128]:
            x = normal(rng, 2 * half + 5)
            angle = rng.uniform(0, 2 * np.pi, half)
            cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
            assert_same_bits(kernels.rotary(x, cos, sin), PORTABLE.rotary(x, cos, sin), half)
            first, second = x[:half], x[half : 2 * half]
            expected = [first * cos - second * sin, second * cos + first * sin, x[2 * half :]]
            assert_same_bits(PORTABLE.rotary(x, cos, sin), np.concatenate(expected), half)

    @pytest.mark.parametrize("isa", _core.supported_isas())
    def test_to_float_of_every_value(self, isa: str) -> None:
        every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
        kernels = _core.Kernels(isa)
        with np.errstate(invalid="ignore"):
            half = every.view(np.float16).astype(np.float32)
        assert_same_bits(kernels.to_float("f16", every.view(np.uint8)), half)
        assert_same_bits(
            kernels.to_float("bf16", every.view(np.uint8)), (every.astype(np.uint32) << 16).view(np.float32)
        )
        converted = _core.convert_elements(every, "f16", "f32")  # NaN too becomes what the kernels read
        np.testing.assert_array_equal(kernels.to_float("f16", every.view(np.uint8)).view(np.uint8), converted)
        for n in range(1, 40):
            assert_same_bits(kernels.to_float("f16", every[:n].view(np.uint8)), half[:n])
            assert_same_bits(kernels.to_float("f32", half[:n].view(np.uint8)), half[:n])

    def test_quantize_row_same_bits(self, kernels: _core.Kernels) -> None:
        rng = np.random.default_rng(14)
        for n in LENGTHS:
            x = normal(rng, n) * np.float32(10.0 ** rng.integers(-40, 30))
            for actual, expected in zip(kernels.quantize_row(x), PORTABLE.quantize_row(x), strict=True):
                assert_same_bits(actual, expected, n)

    @pytest.mark.parametrize("isa", _core.supported_isas())
    def test_quantize_row_right(self, isa: str) -> None:
        rng = np.random.default_rng(15)
        for n in (7, 103, 31 * 32 + 5, 32 * 32, 33 * 32, 67 * 32 + 31):
            x = normal(rng, n)
            x[64:96] = 0
            self.check_codes(x, *_core.Kernels(isa).quantize_row(x))

    @staticmethod
    def check_codes(x: np.ndarray, codes: np.ndarray, scales: np.ndarray, offsets: np.ndarray) -> None:
        groups = np.pad(x, (0, -len(x) % 32)).reshape(-1, 32)
        largest = np.abs(groups).max(1)
        np.testing.assert_array_equal(scales, largest / np.float32(127))
        inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
        np.testing.assert_array_equal(codes.reshape(-1, 32), np.rint(groups * inverse[:, None]))
        np.testing.assert_array_equal(offsets, DOT_BASE - 128 * codes.reshape(-1, 32).astype(np.int32).sum(1))
