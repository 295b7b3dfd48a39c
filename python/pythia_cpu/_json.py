"""Reads the JSON of files that nothing is known of, and writes JSON that others can read."""

from __future__ import annotations

import json
import math
from typing import Any

_MAX_NESTING = 64  # objects and lists in one another; the files of a checkpoint have fewer than ten


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text. It is not nested deeply, so that it can be compared and written out.

    Raises:
        ValueError: not JSON in UTF-8, or nested more than 64 times.
    """
    too_deep = ValueError(f"it is nested more than {_MAX_NESTING} times")
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except RecursionError:
        raise too_deep from None
    level = [value]
    for _ in range(_MAX_NESTING + 1):
        if not (level := [child for parent in level for child in _children(parent)]):
            return value
    raise too_deep


def json_text(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """JSON of a value, with null for NaN and infinities, which JSON lacks."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, ensure_ascii=ensure_ascii)


def _finite(value: Any) -> Any:
    """The value with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _children(value: Any) -> list[Any]:
    """What an object or a list holds; of others nothing."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
