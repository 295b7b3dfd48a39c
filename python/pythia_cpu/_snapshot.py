"""Files in the cache of the hub's client, which names them by their hashes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from pythia_cpu._errors import CheckpointError
from pythia_cpu._layouts import LAYOUT_FILES, read_index

_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_READ_BYTES = 1 << 20


def is_whole(path: Path) -> bool:
    """Whether a file has the hash that the client's cache names it by, if it does so: the SHA-256 of a large file,
    git's SHA-1 of a small one.
    """
    stored = path.resolve()
    if _SHA256.fullmatch(stored.name):
        digest = hashlib.sha256()
    elif _GIT_SHA1.fullmatch(stored.name):
        digest = hashlib.sha1(b"blob %d\0" % stored.stat().st_size, usedforsecurity=False)
    else:
        return True
    with stored.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest() == stored.name


def refuse_damaged(folder: Path) -> None:
    """Hashes what a conversion reads of a snapshot, whose commit the conversion will name.

    Raises:
        CheckpointError: a file has not the hash that it is named by, or is none of the client's.
    """
    read = ["config.json"]
    if layout := next((name for name in LAYOUT_FILES if (folder / name).is_file()), None):
        read += [layout, *(set(read_index(folder / layout).values()) if layout.endswith(".index.json") else ())]
    blobs = folder.parent.parent / "blobs"
    has_blobs = blobs.is_dir() and any(blobs.iterdir())  # none where the file system has no links
    for path in (folder / name for name in ("tokenizer.json", *read)):
        if not path.is_file():
            continue
        if has_blobs and not path.is_symlink() and path.name in read:
            problem = "is in a snapshot of the hub's client, but none of its files"
            raise CheckpointError(f"{path}: {problem}: to change a checkpoint, copy its folder")
        if not is_whole(path):
            raise CheckpointError(
                f"{path}: is damaged, its hash is not the one in its name; remove it, and download it again"
            )
