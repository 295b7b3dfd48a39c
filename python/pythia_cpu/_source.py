"""What a user calls a checkpoint, resolved to a folder and to the name it gets in files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pythia_cpu._errors import CheckpointError


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine, and where it came from.

    ``name`` is the same on every machine: a hub id, or a local folder's own name without its path.
    """

    name: str
    folder: Path
    revision: str | None = None
    commit: str | None = None
    tokenizer_folder: Path | None = None  # where tokenizer.json is, if not in `folder`
    tokenizer_revision: str | None = None  # and the revision it is from


def revision_name(revision: str | int | None) -> str | None:
    """An int is a training step: 3000 is "step3000"."""
    if isinstance(revision, int) and not isinstance(revision, bool):
        if revision < 0:
            raise ValueError(f"revision is {revision}, expected a step of at least 0")
        return f"step{revision}"
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise ValueError(f"revision is {revision!r}, expected a branch, tag or commit, or a step as an int")
    return revision


def resolve_source(source: str | os.PathLike[str], revision: str | int | None = None) -> Source:
    """Finds a checkpoint's folder.

    Raises:
        CheckpointError: there is no such folder, or it has no such revision.
    """
    folder = Path(source)
    name = revision_name(revision)
    if not folder.is_dir():
        raise CheckpointError(f"{source}: is not a folder; give a checkpoint folder that holds config.json and weights")
    if name is None:
        return Source(name=folder.resolve().name, folder=folder)
    if Path(name).name != name or not (folder / name).is_dir():
        found = ", ".join(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())[:20]) or "none"
        raise CheckpointError(
            f"{folder}: has no subfolder '{name}' (found: {found}); leave revision out to read the folder itself"
        )
    return Source(name=folder.resolve().name, folder=folder / name, revision=name)
