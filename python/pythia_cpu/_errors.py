"""The package's own exceptions. Both are ValueErrors; files that cannot be read at all raise OSError."""

from __future__ import annotations

from pythia_cpu._core import FormatError

__all__ = ["CheckpointError", "FormatError"]

FormatError.__doc__ = "A damaged or foreign ``.pcpu`` file; the message says which file, which field and what to do."


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or is not supported; the message says what was found and what to do."""
