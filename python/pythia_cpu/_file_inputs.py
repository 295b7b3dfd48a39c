"""Inputs of long runs into files: bare ones, or dicts that have an id beside what is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pythia_cpu._arguments import unwrapped


def members(item: object, name: str) -> dict[Any, Any]:
    """An input's members; a bare one is called ``name``. Those that are None or NaN, as tables write what is missing,
    are not there.
    """
    item = unwrapped(item)
    if not isinstance(item, Mapping):
        return {name: item}
    return {key: value for key, value in item.items() if value is not None and not _is_nan(value)}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def identity_of(fields: Mapping[Any, Any], place: str) -> str | int | float | None:
    """An input's id, which JSON can hold; None if it has none. ``place`` is what errors call the input."""
    identity = fields.get("id")
    if isinstance(identity, np.generic):
        identity = identity.item()
    try:
        if isinstance(identity, bool) or not isinstance(identity, str | int | float | None):
            raise ValueError
        json.dumps(identity, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise ValueError(f"{place} has the id {identity!r}, expected a str or a finite number") from None
    return identity
