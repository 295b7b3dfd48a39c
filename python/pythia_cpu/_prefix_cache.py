"""Keys and values kept from one call to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from pythia_cpu import _core


class PrefixCache:
    """What ``Model.prefix_cache`` gives: keys and values of generated texts, for prompts that begin alike.

    Blocks of 16 tokens in a tree, so that a beginning shared by many texts is kept once; where there is no room, those
    not used for the longest time go. Results are, bit for bit, what they are without it. A context manager, which
    closes it. Safe to use from several threads.
    """

    def __init__(self, core: _core.PrefixCache, on_close: Callable[[], None]) -> None:
        """``Model.prefix_cache`` makes these."""
        self._core: _core.PrefixCache | None = core
        self._on_close = on_close
        self._max_bytes = core.max_bytes
        self._tokens_found = 0

    @property
    def max_bytes(self) -> int:
        """The most bytes of keys and values that it holds."""
        return self._max_bytes

    @property
    def size_bytes(self) -> int:
        """The bytes that it holds now; none once it is closed."""
        core = self._core
        return 0 if core is None else core.size_bytes

    @property
    def tokens_found(self) -> int:
        """How many prompt tokens were found in it so far, and not computed again."""
        core = self._core
        return self._tokens_found if core is None else core.num_tokens_read

    def close(self) -> None:
        """Ends its use and gives back its memory, as soon as calls that run have ended. Doing so again is fine."""
        self._on_close()
        if (core := self._core) is not None:
            self._tokens_found = core.num_tokens_read
            self._core = None

    def __enter__(self) -> PrefixCache:
        """Itself. Raises ValueError if it is closed."""
        if self._core is None:
            raise ValueError("the prefix cache is closed: open another with model.prefix_cache")
        return self

    def __exit__(self, *unused: object) -> None:
        """Closes it."""
        self.close()

    def __reduce__(self) -> NoReturn:
        """Says that it cannot be pickled."""
        raise TypeError("a prefix cache cannot be pickled: open one of the model in the other process")

    def __repr__(self) -> str:
        """How full it is."""
        if self._core is None:
            return "PrefixCache(closed)"
        return f"PrefixCache({self.size_bytes} of {self.max_bytes} bytes)"
