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
        self._core = core
        self._on_close = on_close

    @property
    def max_bytes(self) -> int:
        """The most bytes of keys and values that it holds."""
        return self._core.max_bytes

    @property
    def size_bytes(self) -> int:
        """The bytes that it holds now."""
        return self._core.size_bytes

    @property
    def tokens_found(self) -> int:
        """How many prompt tokens were found in it so far, and not computed again."""
        return self._core.num_tokens_read

    def close(self) -> None:
        """Ends its use and gives back its memory, as soon as calls that run have ended."""
        self._on_close()

    def __enter__(self) -> PrefixCache:
        """Itself."""
        return self

    def __exit__(self, *unused: object) -> None:
        """Closes it."""
        self.close()

    def __reduce__(self) -> NoReturn:
        """Says that it cannot be pickled."""
        raise TypeError("a prefix cache cannot be pickled: open one of the model in the other process")

    def __repr__(self) -> str:
        """How full it is."""
        return f"PrefixCache({self.size_bytes} of {self.max_bytes} bytes)"
