"""lm-evaluation-harness, where it is missing or cannot be used."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_HARNESS = "lm_eval>=0.4.13,<0.5"  # as in pyproject.toml


def missing_harness(error: BaseException) -> str:
    """Why the harness cannot be imported, and what to do."""
    try:
        found = version("lm_eval")
    except PackageNotFoundError:
        return f"needs lm-evaluation-harness: pip install '{_HARNESS}'"
    return (
        f"found lm-evaluation-harness {found}, which cannot be used ({error}); it works with another version: "
        f"pip install '{_HARNESS}'"
    )
