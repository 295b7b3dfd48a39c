"""Loading without the hub."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from pythia_cpu._arguments import boolean

_lock = threading.Lock()
_depth = 0  # loads that are under way without the hub
_before = False  # the client's own setting


@contextlib.contextmanager
def offline(local_files_only: bool) -> Iterator[None]:
    """Keeps the hub's client from asking the hub, as HF_HUB_OFFLINE does: a global setting of it, set for a while."""
    global _depth, _before
    if not boolean("local_files_only", local_files_only):
        yield
        return
    from huggingface_hub import constants

    with _lock:
        if _depth == 0:
            _before = constants.HF_HUB_OFFLINE
            constants.HF_HUB_OFFLINE = True
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                constants.HF_HUB_OFFLINE = _before
