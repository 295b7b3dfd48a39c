"""The files of a checkpoint that tokenizers are made of, without its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pythia_cpu._errors import CheckpointError
from pythia_cpu._json import read_json
from pythia_cpu._load import load
from pythia_cpu._source import local_source
from pythia_cpu._tokenizer_export import compile_tokenizer

_CONFIG = "tokenizer_config.json"


def read_tokenizer(source: str | os.PathLike[str], revision: str | None) -> tuple[bytes, dict[str, Any]]:
    """A tokenizer section as in a ``.pcpu`` file, and the settings of tokenizer_config.json.

    Raises:
        CheckpointError: there is no such checkpoint or revision, or its tokenizer is not a GPT-NeoX one.
        ValueError: a revision of a ``.pcpu`` file.
        OSError: a file cannot be read, or the hub cannot be reached.
    """
    path = Path(source)
    if path.suffix == ".pcpu" or path.is_file():
        file = load(path, revision=revision)._file
        return file.tokenizer, {"model_max_length": file.config["max_position_embeddings"]}
    config: Path | None
    if path.is_dir():
        folder = local_source(path, revision).folder
        path, config = folder / "tokenizer.json", folder / _CONFIG
    else:
        from pythia_cpu import _hub  # imports an HTTP client, which local folders do not need

        found = _hub.resolve(_hub.repo_id_of(source), revision)
        path, config = _hub.tokenizer_file(found), _hub.optional_file(found, _CONFIG)
    try:
        section = compile_tokenizer(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing; a checkpoint's tokenizer is in its tokenizer.json") from None
    return section, _settings(config) if config is not None and config.is_file() else {}


def _settings(path: Path) -> dict[str, Any]:
    """The settings that have a meaning here and are set; a token may be a str or a dict around one."""
    try:
        stored = read_json(path.read_bytes())
        names = ("model_max_length", "padding_side", "truncation_side", "pad_token")
        found = {name: stored[name] for name in names if stored.get(name) is not None}
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: is not a tokenizer's settings as JSON ({error})") from None
    if isinstance(found.get("pad_token"), dict):
        found["pad_token"] = found["pad_token"].get("content")
    return found
