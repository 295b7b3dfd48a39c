"""numpy and, where it is installed, torch: what comes in and what goes out."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt


def is_torch(value: object) -> bool:
    """Whether this is a torch tensor; does not import torch."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def to_torch(array: npt.NDArray[Any]) -> Any:
    """A torch tensor over the array's memory.

    Raises:
        ImportError: torch is not installed.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise ImportError(
            "torch tensors were asked for, but torch is not installed: install it, or use return_tensors='np'"
        ) from None
    return torch.from_numpy(array)


def to_lists(value: Any) -> Any:
    """Arrays and tensors, also those in lists, as lists of numbers; those without dimensions as numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [to_lists(item) for item in value] if isinstance(value, list | tuple) else value


def id_rows(name: str, value: object, *, floats: bool = False) -> npt.NDArray[np.int64]:
    """Whole numbers ``[batch, length]`` of a list, array or tensor on the CPU; one row may come without its batch. With
    ``floats`` they may be stored as such, or as truth values.

    Raises:
        ValueError: anything else, rows of different lengths included.
    """
    try:
        rows = np.asarray(value.detach().cpu() if is_torch(value) else value)  # type: ignore[attr-defined]
    except ValueError:
        raise ValueError(
            f"{name} has rows of different lengths: pad them, with tokenizer.padding_side = 'left' and padding=True"
        ) from None
    if floats and rows.dtype.kind == "f" and (rows == np.floor(rows)).all() and np.isfinite(rows).all():
        rows = rows.astype(np.int64)
    if rows.dtype.kind not in ("iub" if floats else "iu") or rows.ndim not in (1, 2) or rows.size == 0:
        raise ValueError(
            f"{name} is an array of {rows.dtype} with shape {list(rows.shape)}, expected whole numbers [batch, length]"
        )
    return np.atleast_2d(rows).astype(np.int64)
