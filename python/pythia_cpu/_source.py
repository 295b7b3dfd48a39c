"""A checkpoint's folder, the names that users give it and its revisions, and the name it gets in files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pythia_cpu._arguments import file_path, integer
from pythia_cpu._errors import CheckpointError

_STEP = re.compile("[0-9]{1,9}")  # a commit has more digits
_STEP_NAME = re.compile(r"(?:step|checkpoint-)(\d+)")  # Pythia's branches, and the folders of transformers' Trainer
_SNAPSHOT = re.compile("models--([^/]+)/snapshots/([0-9a-f]{40})")  # in the cache of the hub's client
_READ_SUFFIXES = ".json", ".safetensors", ".bin"


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine, and where it came from.

    ``name`` is the same on every machine: a hub id, also of a snapshot in the cache of the hub's client, or a local
    folder's own name without its path.
    """

    name: str
    folder: Path
    revision: str | None = None
    commit: str | None = None
    weights_file: str | None = None  # the file that shows the weights' layout; None: whichever the folder holds
    tokenizer_path: Path | None = None  # its tokenizer.json, if not that of `folder`
    tokenizer_revision: str | None = None  # and the revision it is from
    edited: str | None = None  # what was done to its weights since

    def files(self) -> list[Path]:
        """Files of the folder that a conversion may read, by name."""
        return sorted(path for path in self.folder.iterdir() if path.suffix in _READ_SUFFIXES and path.is_file())

    def with_tokenizer(self, tokenizer: str | os.PathLike[str] | None) -> Source:
        """Itself, or with the ``tokenizer.json`` that a path names, or that is in the folder which it names.

        Raises:
            CheckpointError: there is none.
            ValueError: it is no path.
        """
        if tokenizer is None:
            return self
        path = file_path("tokenizer", tokenizer)
        if path.is_dir():
            path = path / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{path}: is missing; tokenizer is a tokenizer.json, or a folder that holds one")
        return replace(self, tokenizer_path=path, tokenizer_revision=None)

    def refuse_overwriting(self, output: str | os.PathLike[str]) -> None:
        """Raises ValueError if a file to write is one of the checkpoint's own."""
        read = [*self.files(), *([self.tokenizer_path] if self.tokenizer_path else [])]
        if os.path.exists(output) and any(path.samefile(output) for path in read):
            raise ValueError(f"{os.fspath(output)}: is a file of the checkpoint, which would be lost: name another")


def refuse_tokenizer(source: str | os.PathLike[str], tokenizer: object) -> None:
    """Raises ValueError if one is given, for what has one."""
    if tokenizer is not None:
        raise ValueError(f"tokenizer is {tokenizer!r}, but {os.fspath(source)} is no local folder: leave it out")


def revision_name(revision: str | int | None) -> str | None:
    """A whole number, or a str of one, is a training step: 3000 and "3000" are "step3000"."""
    if isinstance(revision, str) and _STEP.fullmatch(revision):
        return f"step{int(revision)}"
    if revision is None or (isinstance(revision, str) and revision):
        return revision
    if isinstance(revision, str) or not hasattr(revision, "__index__"):
        raise ValueError(f"revision is {revision!r}, expected a branch, tag or commit, or a step as a whole number")
    return f"step{integer('revision', revision, 0)}"


def local_source(folder: Path, revision: str | None) -> Source:
    """A checkpoint folder, or the subfolder of it that holds a revision.

    Raises:
        CheckpointError: the folder has no such revision.
    """
    if revision is None:
        return Source(name=name_of(folder), folder=folder, commit=commit_of(folder))
    if revision == "main" and not (folder / revision).is_dir():
        return local_source(folder, None)  # the hub's name for what the folder holds
    of_trainer = revision.replace("step", "checkpoint-")
    if _STEP_NAME.fullmatch(revision) and not (folder / revision).is_dir() and (folder / of_trainer).is_dir():
        return local_source(folder, of_trainer)
    if Path(revision).name != revision or revision == ".." or not (folder / revision).is_dir():
        found = ", ".join(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())[:20]) or "none"
        raise CheckpointError(
            f"{folder}: has no subfolder '{revision}' (found: {found}); leave revision out to read the folder itself"
        )
    return Source(
        name=name_of(folder), folder=folder / revision, revision=folder_label(revision), commit=commit_of(folder)
    )


def name_of(folder: Path) -> str:
    """What a checkpoint in a folder is called: by the folder's own name, or the hub id of a snapshot."""
    match = _snapshot(folder)
    return match[1].replace("--", "/", 1) if match else folder_label(folder.resolve().name)


def commit_of(folder: Path) -> str | None:
    """The hub commit that a folder is the snapshot of."""
    match = _snapshot(folder)
    return match[2] if match else None


def _snapshot(folder: Path) -> re.Match[str] | None:
    return _SNAPSHOT.fullmatch(
        "/".join(os.fsencode(part).decode(errors="replace") for part in folder.resolve().parts[-3:])
    )


def folder_label(name: str) -> str:
    """A folder's name as text: bytes in it that are not UTF-8 become U+FFFD."""
    return os.fsencode(name).decode(errors="replace")


def sorted_steps(names: Iterable[str]) -> list[str]:
    """Those of the names that are training steps ("step3000", "checkpoint-500"), by step."""
    found = [match for name in names if (match := _STEP_NAME.fullmatch(name))]
    return [match[0] for match in sorted(found, key=lambda match: int(match[1]))]


def local_revisions(folder: str | os.PathLike[str]) -> list[str]:
    """The checkpoints of a training run in a folder, each in a subfolder, by step."""
    return sorted_steps(entry.name for entry in os.scandir(folder) if entry.is_dir())
