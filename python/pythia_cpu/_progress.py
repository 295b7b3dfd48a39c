"""A bar on standard error, on a terminal or in a notebook only."""

from __future__ import annotations

import sys

from tqdm import tqdm

_DELAY_S = 1.0  # what is done sooner shows none


class _Bar(tqdm):  # type: ignore[type-arg]
    """Without a thread of its own, which would only look whether updates come too seldom."""

    monitor_interval = 0


class ProgressBar:
    """How far something has come; a context manager."""

    def __init__(self, total: int | None, *, what: str, unit: str, enabled: bool) -> None:
        """A bar up to ``total`` (None: nobody knows), hidden unless ``enabled`` and standard error is a terminal or a
        notebook's.
        """
        self._bar: _Bar | None = None  # also where it is hidden: tqdm makes a lock between processes with its first bar
        stream = sys.stderr  # None in daemons
        if enabled and stream is not None and (stream.isatty() or type(stream).__module__.startswith("ipykernel.")):
            self._bar = _Bar(total=total, unit=unit, unit_scale=True, desc=what, leave=False, delay=_DELAY_S)

    def update(self, count: int) -> None:
        """``count`` units more are done."""
        if self._bar is not None:
            self._bar.update(count)

    def __enter__(self) -> ProgressBar:
        """Itself."""
        return self

    def __exit__(self, *unused: object) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
