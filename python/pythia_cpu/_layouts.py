"""The files that show how a checkpoint's weights are laid out, the preferred layout first."""

from __future__ import annotations

LAYOUT_FILES: tuple[str, ...] = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
