"""Converted checkpoints that hold the same weights, found by the hashes that each file carries."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pythia_cpu import _core
from pythia_cpu._arguments import file_path, iterator
from pythia_cpu._provenance import provenance


@dataclass(frozen=True)
class SharedTensors:
    """Tensors that several files have from equal bytes of their checkpoints.

    Attributes:
        files: the ``.pcpu`` files, in the order in which they were given.
        tensors: their names.
        is_whole: they are all tensors that the files have, whose checkpoints are the same. Otherwise, no file but these
            has them.
    """

    files: list[Path]
    tensors: list[str]
    is_whole: bool


def find_duplicates(paths: Iterable[str | os.PathLike[str]]) -> list[SharedTensors]:
    """Finds checkpoints, and single tensors, that are the same in several converted files.

    Branches of the hub have served the weights of other steps (EleutherAI/pythia, issues 205 and 206): a curve over
    revisions is sound if none of them shows up here. Tensors are compared by name and by the sha256 of the checkpoint's
    bytes, which conversion stores, so the format that a file was converted to makes no difference; a checkpoint
    converted twice shows up as well.

    Some findings are as they should be: step0, step1 and step2 of Pythia are equal, and early steps share tensors that
    every model begins with (biases of 0, norms of 1).

    Args:
        paths: ``.pcpu`` files, for example those of ``list_cache()``. A file given twice counts once.

    Returns:
        first the groups of equal checkpoints, then tensors shared by checkpoints that are otherwise different.

    Raises:
        FormatError: a damaged or foreign file.
        ValueError: a file without hashes, or ``paths`` that are one path.
        OSError: a file cannot be read.
    """
    given = iterator("paths", paths, "a list of .pcpu files")
    hashes = {path: _hashes(path) for path in map(_path, given)}
    same: dict[frozenset[tuple[str, str]], list[Path]] = {}
    for path, tensors in hashes.items():
        same.setdefault(frozenset(tensors.items()), []).append(path)
    holders: dict[tuple[str, str], list[Path]] = {}
    for files in same.values():
        for tensor in hashes[files[0]].items():
            holders.setdefault(tensor, []).append(files[0])
    shared: dict[tuple[Path, ...], list[str]] = {}
    for (name, _), firsts in holders.items():
        if len(firsts) > 1:
            shared.setdefault(tuple(firsts), []).append(name)
    copies = {files[0]: files for files in same.values()}
    order = {path: number for number, path in enumerate(hashes)}
    return [SharedTensors(files, list(hashes[files[0]]), True) for files in same.values() if len(files) > 1] + [
        SharedTensors(sorted((path for first in firsts for path in copies[first]), key=order.__getitem__), names, False)
        for firsts, names in shared.items()
    ]


def _path(path: object) -> Path:
    return file_path("a member of paths", path)


def _hashes(path: Path) -> dict[str, str]:
    """Name -> sha256 of a file's tensors."""
    tensors = provenance(_core.PcpuFile.open(str(path), _core.available_physical_cores()))["tensors"]
    assert isinstance(tensors, dict)
    if not any(sha256.strip("0") for sha256 in tensors.values()):
        raise ValueError(f"{path} has no hashes of the checkpoint's tensors to compare: convert the checkpoint again")
    return tensors
