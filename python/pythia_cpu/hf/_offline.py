"""Loading without the hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pythia_cpu._arguments import boolean


@contextlib.contextmanager
def offline(local_files_only: bool) -> Iterator[None]:
    """Keeps the hub's client from asking the hub, as HF_HUB_OFFLINE does: a global setting of it, set for a while."""
    if not boolean("local_files_only", local_files_only):
        yield
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
