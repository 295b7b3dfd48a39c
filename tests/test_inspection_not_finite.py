"""Activations of checkpoints that are broken: they are shown as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from checkpoints import neox_config, random_tensors

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}


def test_edits_may_look_at_what_is_not_finite(make_checkpoint: Callable[..., Path]) -> None:
    """As one does who wants to know where a checkpoint's NaNs begin."""
    tensors = random_tensors(neox_config(**SMALL))
    tensors["gpt_neox.layers.0.mlp.dense_h_to_4h.bias"][3] = np.nan
    model = pythia_cpu.load(make_checkpoint(tensors=tensors, **SMALL))
    broken: list[str] = []

    def look(name: str, array: np.ndarray) -> None:
        if not np.isfinite(array).all() and "attn_scores" not in name:
            broken.append(name)

    model.run([1, 2], edit=look)
    assert broken[0] == "blocks.0.mlp.hook_pre"
    with pytest.raises(ValueError, match="gave values that are not finite"):
        model.run([1, 2], edit={"blocks.0.mlp.hook_pre": lambda x: x + 1})


def test_patterns_of_nan(make_checkpoint: Callable[..., Path]) -> None:
    tensors = random_tensors(neox_config(**SMALL))
    tensors["gpt_neox.layers.0.attention.query_key_value.bias"][0] = np.nan
    run = pythia_cpu.load(make_checkpoint(tensors=tensors, **SMALL)).run(
        [1, 2, 3], capture=["*hook_pattern", "*hook_z"]
    )
    pattern, z = (run.activations[f"blocks.0.attn.{name}"] for name in ("hook_pattern", "hook_z"))
    assert np.isnan(pattern[0]).all() and np.isnan(z[:, 0]).all()
    assert np.isfinite(pattern[1:]).all() and np.isfinite(z[:, 1:]).all()
