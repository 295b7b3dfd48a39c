"""What results have in common: a short repr, and equality of arrays too."""

from __future__ import annotations

from dataclasses import fields
from typing import ClassVar

import numpy as np

_MOST_ITEMS, _MOST_CHARACTERS = 8, 160  # that are shown of a list and a text


class Result:
    """Base of dataclasses that hold arrays: equal where all their numbers are (NaN to NaN), and shown in a line."""

    _also_shown: ClassVar[tuple[str, ...]] = ()  # properties

    def __repr__(self) -> str:
        """The fields, long lists and texts cut, arrays as their types and shapes."""
        names = [*(one.name for one in fields(self) if one.repr), *self._also_shown]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={_short(getattr(self, name))}' for name in names)})"

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal."""
        if type(other) is not type(self):
            return NotImplemented
        names = [one.name for one in fields(self) if one.compare]  # type: ignore[arg-type]
        return all(_equal(getattr(self, name), getattr(other, name)) for name in names)

    def __hash__(self) -> int:
        """Of the first field."""
        first = getattr(self, fields(self)[0].name)  # type: ignore[arg-type]
        return hash(first.shape if isinstance(first, np.ndarray) else repr(first))


class ByIdentity:
    """Base of mappings of arrays that equal themselves only: ``Mapping.__eq__`` would read all arrays, and then ask for
    the truth value of one.
    """

    def __eq__(self, other: object) -> bool:
        """Whether it is the same object."""
        return self is other

    def __hash__(self) -> int:
        """Of the object."""
        return id(self)


def _equal(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(_equal(a[key], b[key]) for key in a)
    return bool(a == b)


def _short(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, list) and len(value) > _MOST_ITEMS:
        return f"[{', '.join(map(_short, value[:_MOST_ITEMS]))}, ... {len(value)} in all]"
    if isinstance(value, str) and len(value) > _MOST_CHARACTERS:
        return f"{value[:_MOST_CHARACTERS]!r}... {len(value)} characters"
    if isinstance(value, float):
        return f"{value:.6g}"
    return repr(value)
