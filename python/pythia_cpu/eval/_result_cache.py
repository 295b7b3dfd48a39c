"""Results of the harness's requests on disk, by what they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import weakref
from pathlib import Path
from typing import Any

from pythia_cpu._arguments import file_path

_LOCK_TIMEOUT_S = 60.0


class ResultCache:
    """An SQLite file of results, each under a hash of the model's key, the kind of request and the request itself.

    The model's key (``pythia_cpu._identity.model_key``) stands for checkpoint, weight format and engine, so that one
    file serves all checkpoints of a run and never answers for another one. (The harness's own ``use_cache`` keeps
    results by request alone: EleutherAI/lm-evaluation-harness#4063.) Several processes may use a file at a time: it is
    locked only while ``commit`` writes.
    """

    def __init__(self, path: str | os.PathLike[str], model_key: str) -> None:
        """Opens the file, or makes it and its folder.

        Raises:
            OSError: the folder cannot be made.
            ValueError: ``path`` is no path, or the file is no such cache.
        """
        self.path: Path = file_path("the cache of results", path)
        self._model_key = model_key
        self._rows: dict[str, str] = {}  # stored and not yet written
        self._lock = threading.Lock()  # for one connection in several threads
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(self.path, timeout=_LOCK_TIMEOUT_S, check_same_thread=False)
            weakref.finalize(self, self._database.close)  # a connection alone waits for the collector of cycles
            with self._database:
                self._database.execute("CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def get(self, kind: str, request: object) -> Any:
        """What was committed for this model, kind and request; None if nothing.

        Raises:
            ValueError: the file is damaged, or another program's.
        """
        try:
            query = "SELECT value FROM results WHERE key = ?"
            with self._lock:
                row = self._database.execute(query, (self._key(kind, request),)).fetchone()
            return None if row is None else json.loads(row[0])
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> ValueError:
        return ValueError(f"{self.path} cannot be used as a cache of results ({error}): name another file")

    def put(self, kind: str, request: object, result: object) -> None:
        """Stores a result, which JSON can hold, until ``commit`` in memory."""
        self._rows[self._key(kind, request)] = json.dumps(result)

    def commit(self) -> None:
        """Writes what was stored to the file.

        Raises:
            OSError: it cannot be written.
        """
        try:
            with self._lock, self._database:
                rows = list(self._rows.items())
                self._database.executemany("INSERT OR REPLACE INTO results VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: the cache of results cannot be written ({error})") from None
        for key, _ in rows:
            self._rows.pop(key, None)

    def close(self) -> None:
        """Writes and closes the file."""
        self.commit()
        self._database.close()

    def _key(self, kind: str, request: object) -> str:
        text = json.dumps([self._model_key, kind, request], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
