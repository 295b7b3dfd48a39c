"""The options of ``generate`` that a checkpoint comes with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pythia_cpu._errors import CheckpointError
from pythia_cpu._json import read_json
from pythia_cpu._source import local_source, revision_name

_NAME = "generation_config.json"


def read_generation_config(source: str | os.PathLike[str], revision: str | int | None) -> dict[str, Any] | None:
    """What a checkpoint's generation_config.json says. None where there is none: of a ``.pcpu`` file, and where the hub
    cannot be reached and its client has no such file.

    Raises:
        CheckpointError: the file is no JSON object.
    """
    folder = Path(source)
    if folder.suffix == ".pcpu" or folder.is_file():
        return None
    path: Path | None
    if folder.is_dir():
        path = local_source(folder, revision_name(revision)).folder / _NAME
    else:
        from pythia_cpu import _hub  # imports an HTTP client, which local folders do not need

        try:
            path = _hub.optional_file(_hub.resolve(_hub.repo_id_of(source), revision_name(revision)), _NAME)
        except OSError:
            path = None
    if path is None or not path.is_file():
        return None
    try:
        stored = read_json(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON ({error})") from None
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path}: is a {type(stored).__name__}, expected an object of options")
    return stored
