"""Inputs of an iterable, taken as there is room for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Coming(Generic[Item]):
    """Items with their numbers. An exception of the iterable ends them; it is for ``finish`` to raise, when the items
    before it are done.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        """Items of an iterable."""
        self._items = enumerate(items)
        self._problem: Exception | None = None
        self._ended = False

    def take(self) -> tuple[int, Item] | None:
        """The next one and its number; None if there is none."""
        if self._ended:
            return None
        try:
            item = next(self._items, None)
        except Exception as error:
            item, self._problem = None, error
        self._ended = item is None
        return item

    def finish(self) -> None:
        """Raises what ended the items, if anything did; once: its traceback, which knows this, would make a cycle."""
        problem, self._problem = self._problem, None
        try:
            if problem is not None:
                raise problem
        finally:
            del problem
