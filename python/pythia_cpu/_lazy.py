"""Attributes that are made when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class lazy_property(Generic[T]):  # noqa: N801  # used as property is
    """``functools.cached_property`` without the lock that it has before Python 3.12, one for all instances, which a
    process that is forked while another thread holds it never gets. Threads that come together may both make the
    value; all get the same one.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        """What makes the value of an instance."""
        self._function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        """The attribute's name."""
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> lazy_property[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> lazy_property[T] | T:
        """The value, which from now on is found in the instance itself."""
        if instance is None:
            return self
        value: T = vars(instance).setdefault(self._name, self._function(instance))
        return value
