"""How the hub's client is asked, for a while: set around calls that take no such options."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class HubAccess:
    """Where the client keeps its files, and who it is.

    Attributes:
        cache_dir: the folder; None: where HF_HOME says.
        token: the hub's token for a user; None: the one that the client has stored, False: none.
    """

    cache_dir: str | None = None
    token: str | bool | None = None


_DEFAULT = HubAccess()
_current: ContextVar[HubAccess] = ContextVar("hub_access", default=_DEFAULT)


def hub_access() -> HubAccess:
    """That of this thread."""
    return _current.get()


@contextlib.contextmanager
def using_hub(*, cache_dir: str | os.PathLike[str] | None, token: str | bool | None) -> Iterator[None]:
    """Sets it while the context lasts.

    Raises:
        ValueError: a token that is neither a str, a bool nor None.
    """
    if not (token is None or isinstance(token, str | bool)):
        raise ValueError(f"token is of type {type(token).__name__}, expected a str, True, False or None")
    before = _current.set(HubAccess(None if cache_dir is None else os.path.expanduser(cache_dir), token))
    try:
        yield
    finally:
        _current.reset(before)
