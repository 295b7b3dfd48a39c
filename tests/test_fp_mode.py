"""The caller's floating-point mode changes no bits."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pythia_cpu
from bits import assert_same_bits
from pythia_cpu import _core

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="sets the mode register of x86-64")

MODES = {"upward": 0x4000, "toward zero": 0x6000, "no subnormals": 0x8040}  # bits of MXCSR


@contextlib.contextmanager
def mode(bits: int) -> Iterator[None]:
    """Sets bits of MXCSR, the last word of glibc's fenv_t."""
    libm = ctypes.CDLL("libm.so.6")
    saved = (ctypes.c_uint32 * 8)()
    libm.fegetenv(saved)
    changed = (ctypes.c_uint32 * 8)(*saved)
    changed[7] |= bits
    libm.fesetenv(changed)
    try:
        yield
    finally:
        libm.fesetenv(saved)


@pytest.mark.parametrize("bits", MODES.values(), ids=MODES)
def test_a_model_that_is_opened(shipped_model: Path, bits: int) -> None:
    tokens = np.arange(1, 200, dtype=np.int32)

    def logits() -> np.ndarray:
        model = _core.Model.open(str(shipped_model), 1)
        return model.forward([(_core.KvCache(model, 200), tokens, 199)])

    expected = logits()
    with mode(bits):
        found = logits()
    assert_same_bits(found, expected)


@pytest.mark.parametrize("bits", MODES.values(), ids=MODES)
@pytest.mark.parametrize("weights", _core.WEIGHT_FORMATS)
def test_a_matrix_that_is_packed(bits: int, weights: str) -> None:
    """Subnormal values, too."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((64, 128), dtype=np.float32)
    matrix[16:32] *= np.float32(1e-28)
    matrix[32:48, ::3] *= np.float32(1e-39)

    def pack() -> tuple[np.ndarray, np.ndarray]:
        packed = _core.pack_matrix(matrix, "f32", 64, 128, weights)
        return packed, _core.unpack_matrix(packed, weights, 64, 128)

    expected = pack()
    with mode(bits):
        found = pack()
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("bits", MODES.values(), ids=MODES)
@pytest.mark.parametrize("hook", ["ln_final.hook_scale", "blocks.1.attn.hook_attn_scores", "blocks.2.hook_mlp_out"])
def test_activations_that_are_changed(bits: int, hook: str) -> None:
    def change(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed.reshape(-1)[::2] -= 0.5
        return changed

    model = pythia_cpu.load()
    tokens = list(range(5, 60))
    changed = change(model.run(tokens, capture=hook).activations[hook])
    expected = model.run(tokens, edit={hook: changed}).logits
    with mode(bits):
        found = model.run(tokens, edit={hook: changed}).logits
    assert_same_bits(found, expected)


def test_divergences_in_any_mode() -> None:
    rows = np.random.default_rng(1).standard_normal((2, 3, 5000), dtype=np.float32)
    expected = pythia_cpu.kl_divergence(*rows)
    for bits in MODES.values():
        with mode(bits):
            found = pythia_cpu.kl_divergence(*rows)
        assert_same_bits(found, expected)
