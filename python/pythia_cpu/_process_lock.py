"""Locks that a forked process does not wait for in vain."""

from __future__ import annotations

import os
import threading

_PATIENCE_S = 0.05


class ProcessLock:
    """``threading.RLock``, but that a process which was forked while another thread held it gets an OSError: there is
    no thread in it that would ever give the lock back.
    """

    def __init__(self, what: str) -> None:
        """``what``: what it guards, for the error."""
        self._what = what
        self._lock = threading.RLock()
        self._user = os.getpid()  # the last process that had it

    def __enter__(self) -> None:
        """Waits for it. Raises OSError as said."""
        process = os.getpid()
        if self._user == process:
            self._lock.acquire()
            return
        if not self._lock.acquire(timeout=_PATIENCE_S):
            if self._user != process:
                raise OSError(
                    f"this process was forked while another thread used {self._what}, expected no call on its way: "
                    "make another one in the new process, or start it by spawn"
                )
            self._lock.acquire()  # by another thread of this process
        self._user = process

    def __exit__(self, *unused: object) -> None:
        """Gives it back."""
        self._lock.release()
