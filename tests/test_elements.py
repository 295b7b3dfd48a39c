"""f16 and bf16 elements: floats rounded to the nearest, half to even, and what the formats cannot hold."""

from __future__ import annotations

import numpy as np
import pytest

from pythia_cpu import _core

F = np.float32


def narrowed(values: np.ndarray, form: str) -> np.ndarray:
    """The bits of float32 values as f16 or bf16."""
    return _core.convert_elements(values, "f32", form).view(np.uint16)


def test_every_half_and_what_lies_between() -> None:
    halves = np.append(np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(F), F(65536))
    middle = (halves[1:] + halves[:-1]) / 2
    values = np.concatenate(
        [halves[:-1], middle[:-1], np.nextafter(middle, F(0)), np.nextafter(middle[:-1], F(np.inf))]
    )
    values = np.append(values, np.ldexp(F(1), -np.arange(20, 150)))  # and what is far too small for one
    for sign in (F(1), F(-1)):
        np.testing.assert_array_equal(
            narrowed(sign * values, "f16"), (sign * values).astype(np.float16).view(np.uint16)
        )


@pytest.mark.parametrize("rest", [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_every_bfloat16_and_what_lies_between(rest: int) -> None:
    kept = np.arange(0x10000, dtype=np.uint32)
    kept = kept[(kept & 0x7FFF) < 0x7F7F]  # the largest one rounds to infinity
    rounded_up = (rest > 0x8000) | ((rest == 0x8000) & (kept & 1))
    np.testing.assert_array_equal(narrowed((kept << 16 | rest).astype(np.uint32).view(F), "bf16"), kept + rounded_up)


@pytest.mark.parametrize(
    ("form", "infinity", "too_large"), [("f16", 0x7C00, 65520.0), ("bf16", 0x7F80, 511 * 2.0**119)]
)
def test_the_largest_values(form: str, infinity: int, too_large: float) -> None:
    nan = np.array([0x7F800001, 0xFF800001, 0x7F801FFF, 0x7FC00000], np.uint32).view(F)  # some have no high bit to keep
    bits = narrowed(nan, form)
    assert (bits & 0x7FFF > infinity).all() and (bits >> 15).tolist() == [0, 1, 0, 0]
    values = np.array([np.inf, -np.inf, np.nextafter(F(too_large), F(0))], F)
    assert narrowed(values, form).tolist() == [infinity, infinity | 0x8000, infinity - 1]
    for sign, first in ((1, 0), (-1, 250), (1, 550)):
        x = np.zeros(600, F)
        x[first:] = sign * too_large
        with pytest.raises(
            ValueError, match=rf"value {sign * too_large:f} at element {first} is too large for {form}; choose"
        ):
            _core.convert_elements(x, "f32", form)
        with pytest.raises(
            ValueError, match=rf"at row {first // 300}, column {first % 300} is too large for {form}; choose"
        ):
            _core.pack_matrix(x, "f32", 2, 300, form)


@pytest.mark.parametrize("form", ["f32", "f16", "bf16"])
def test_matrices_keep_what_is_not_finite(form: str) -> None:
    x = np.array([[np.inf, 1, np.nan], [-np.inf, -0.0, 2]], F)
    np.testing.assert_array_equal(_core.unpack_matrix(_core.pack_matrix(x, "f32", 2, 3, form), form, 2, 3), x)


@pytest.mark.parametrize(
    ("dtype", "bits", "form", "held"),
    [
        ("f32", 0x3DCCCCCD, "f16", False),  # 0.1
        ("f32", 0x3DCCCCCD, "bf16", False),
        ("f32", 0x3DCC0000, "bf16", True),
        ("f32", 0x33800000, "f16", True),  # 2^-24, the smallest half
        ("f32", 0x33000000, "f16", False),
        ("f32", 0x47800000, "f16", False),  # 2^16
        ("f32", 0x7F800001, "f16", True),  # NaN, of whatever payload
        ("f32", 0xFF800000, "bf16", True),  # infinity
        ("f32", 0x80000000, "f16", True),  # minus zero
        ("f16", 0x3C01, "bf16", False),  # 1 + 2^-10
        ("f16", 0x3C01, "f32", True),
        ("bf16", 0x0080, "f16", False),  # the smallest normal float
        ("bf16", 0x0080, "bf16", True),
    ],
)
def test_what_a_format_holds(dtype: str, bits: int, form: str, held: bool) -> None:
    for place in (0, 299):
        values = np.zeros(300, np.uint32 if dtype == "f32" else np.uint16)
        values[place] = bits
        assert _core.holds_exactly(values, dtype, form) is held
