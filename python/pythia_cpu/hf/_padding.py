"""Rows of ids, filled up to one length."""

from __future__ import annotations

from typing import Any

import numpy as np

from pythia_cpu._arguments import integer
from pythia_cpu.hf._arrays import to_torch

NO_LIMIT = int(1e30)  # the maximum length of a tokenizer without one, as in transformers
_LARGEST_LIMIT = int(1e20)  # above it, a maximum length is none

Columns = dict[str, list[list[Any]]]


def length_limit(max_length: int | None, model_max_length: int) -> int | None:
    """The most tokens of a row: ``max_length``, else the tokenizer's own maximum; None: there is no limit."""
    if max_length is not None:
        return integer("max_length", max_length, 0)
    return None if model_max_length > _LARGEST_LIMIT else model_max_length


def padded_width(lengths: list[int], padding: bool | str, limit: int | None, multiple: int | None) -> int:
    """How long the rows are to be at least; 0 without padding.

    Args:
        lengths: those of the rows.
        padding: False or "do_not_pad"; True or "longest"; "max_length": ``limit``, where there is one.
        limit: as ``length_limit`` gives it.
        multiple: the width is rounded up to a multiple of it; None: it is not.

    Raises:
        ValueError: another ``padding``.
    """
    if padding == "max_length":
        width = limit or 0
    elif padding in (True, "longest"):
        width = max(lengths, default=0)
    elif padding in (False, "do_not_pad"):
        return 0
    else:
        raise ValueError(f"padding is {padding!r}, expected True, False, 'longest', 'max_length' or 'do_not_pad'")
    step = 1 if multiple is None else integer("pad_to_multiple_of", multiple, 1)
    return -(-width // step) * step


def fill_up(columns: Columns, width: int, side: str, fillers: dict[str, Any]) -> None:
    """Fills the rows of the columns that have a filler up to ``width``, in place; longer ones stay.

    Raises:
        ValueError: a side other than "left" and "right".
    """
    if side not in ("left", "right"):
        raise ValueError(f"padding_side is {side!r}, expected 'left' or 'right'")
    for name, filler in fillers.items():
        rows = columns.get(name, [])
        for i, row in enumerate(rows):
            filling = [filler] * (width - len(row))
            rows[i] = filling + row if side == "left" else row + filling


def as_tensors(columns: Columns, return_tensors: str) -> dict[str, Any]:
    """Int64 arrays ``[batch, length]`` of rows ("np"), or torch tensors ("pt").

    Raises:
        ValueError: rows of different lengths.
        ImportError: "pt" without torch.
    """
    arrays = {}
    for name, rows in columns.items():
        if len({len(row) for row in rows}) > 1:
            raise ValueError(
                f"the rows of {name} have different numbers of tokens: use padding=True to make one array of them"
            )
        arrays[name] = np.array(rows, np.int64)
    return {name: to_torch(array) for name, array in arrays.items()} if return_tensors == "pt" else arrays
