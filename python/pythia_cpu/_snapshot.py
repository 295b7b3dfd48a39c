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
    """Hashes what a conversion reads of a snapshot.

    Raises:
        CheckpointError: a file has not the hash that it is named by.
    """
    names = ["config.json", "tokenizer.json"]
    if layout := next((name for name in LAYOUT_FILES if (folder / name).is_file()), None):
        names += [
            layout,
            *(sorted(set(read_index(folder / layout).values())) if layout.endswith(".index.json") else ()),
        ]
    for path in (folder / name for name in names):
        if path.is_file() and not is_whole(path):
            raise CheckpointError(
                f"{path}: is damaged, its hash is not the one in its name; remove it, and download it again"
            )
