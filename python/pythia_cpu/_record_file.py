"""Files of JSON lines, one an input, written as they come and continued after an interruption."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from pythia_cpu._arguments import regular_file
from pythia_cpu._json import json_text, read_json
from pythia_cpu._progress import ProgressBar

Head: TypeAlias = dict[str, object]
"""The beginning of an input's record, which tells whether a record in a file is this one."""

Item = TypeVar("Item")


def record_head(number: int, identity: str | int | float | None, key: str, content: object) -> Head:
    """An input's number, its id if it has one, the model's key, and a hash of what else decides on its record.

    Raises:
        TypeError: ``content`` holds what JSON does not.
    """
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    head: Head = {"index": number} if identity is None else {"index": number, "id": identity}
    return {**head, "model": key, "input": digest}


def record_line(head: Head, fields: dict[str, object]) -> bytes:
    """A record as it is written; numbers that are not finite are null."""
    return json_text({**head, **fields}, ensure_ascii=False).encode() + b"\n"


def shortest(values: npt.NDArray[np.float32]) -> list[float]:
    """Numbers that JSON writes with no more digits than float32 needs."""
    return [float(str(value)) for value in values]


def batches(items: Iterable[Item], size: Callable[[Item], int], limit: Callable[[], int]) -> Iterator[list[Item]]:
    """Items in lists, each as soon as its sizes come to ``limit()``. Where an input cannot be used, those before it
    come before the error.
    """
    batch: list[Item] = []
    total = 0
    try:
        for item in items:
            batch.append(item)
            total += size(item)
            if total >= limit():
                yield batch
                batch, total = [], 0
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def add_records(
    path: str | os.PathLike[str],
    items: Iterator[tuple[Item, Head]],
    lines: Callable[[Iterator[tuple[Item, Head]]], Iterator[list[bytes]]],
    *,
    total: int | None,
    unit: str,
    progress: bool,
) -> int:
    """Goes past the records that a file has and adds those that it lacks.

    Args:
        path: the file, made if it is not there.
        items: inputs, each with its head.
        lines: makes the records of inputs; what it yields at once is written at once.
        total: how many inputs there are, None if nobody knows.
        unit: of the bar: what an input is, after a space.
        progress: show a bar on standard error, in a terminal or notebook, if it takes longer than a second.

    Returns:
        how many records were added.

    Raises:
        ValueError: the file has other records, or another process writes it.
        OSError: the file cannot be written, or is no regular file.
    """
    target = regular_file(path)
    with (
        target.open("a+b") as file,
        _locked(file, target),
        ProgressBar(total, what=target.name, unit=unit, enabled=progress) as bar,
    ):
        bar.update(_check_kept(file, target, items))
        written = 0
        for several in lines(items):
            try:
                file.write(b"".join(several))
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(target)) from None
            written += len(several)
            bar.update(len(several))
    return written


@contextlib.contextmanager
def _locked(file: IO[bytes], path: Path) -> Iterator[None]:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{path} is being written by another process: wait for it, or name another file") from None
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # also for processes that were forked meanwhile, which have the file too


def _check_kept(file: IO[bytes], path: Path, items: Iterator[tuple[Item, Head]]) -> int:
    """Goes past the records that the file has, and cuts off one that was interrupted; returns how many there are."""
    kept = size_bytes = 0
    file.seek(0)
    for line in file:
        if not line.endswith(b"\n"):
            if not _is_interrupted(line, kept):
                raise ValueError(f"{path}, line {kept + 1}: is no record of scores: name another file, or remove it")
            break
        _, head = next(items, (None, None))
        if head is None:
            raise ValueError(f"{path} has more records than there are inputs, {kept}: name another file, or remove it")
        if not line.startswith(json.dumps(head, ensure_ascii=False).encode()[:-1] + b","):
            raise ValueError(f"{path}, line {kept + 1}: {_difference(line, head)}: name another file, or remove it")
        if not line.endswith(b"}\n") or b"\0" in line:
            raise ValueError(f"{path}, line {kept + 1}: the record is damaged: remove it and what comes after it")
        kept += 1
        size_bytes += len(line)
    file.truncate(size_bytes)
    file.seek(size_bytes)
    return kept


def _is_interrupted(line: bytes, number: int) -> bool:
    """Whether a line without an end is a record's beginning; a system that crashed may have left zeros there."""
    begun, start = line.rstrip(b"\0"), b'{"index": %d, ' % number
    return begun.startswith(start) or start.startswith(begun)


def _difference(line: bytes, head: Head) -> str:
    """How a record differs from the one expected."""
    try:
        record = read_json(line)
    except ValueError:
        return "is no record of scores"
    for name, what in (
        ("model", "another model or weight format, or by another version of pythia-cpu"),
        ("input", "another input or with other options"),
        ("id", "an input with another id"),
        ("index", "an input in another place"),
    ):
        if isinstance(record, dict) and record.get(name) != head.get(name):
            return f"was made from {what}"
    return "is no record of scores"
