"""The files of a checkpoint that tokenizers are made of, without its weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pythia_cpu._errors import CheckpointError
from pythia_cpu._json import read_json
from pythia_cpu._load import load
from pythia_cpu._source import local_source
from pythia_cpu._tokenizer_export import compile_tokenizer
from pythia_cpu.hf._special_tokens import SpecialTokens

_CONFIG = "tokenizer_config.json"


def read_tokenizer(source: str | os.PathLike[str], revision: str | None) -> tuple[bytes, dict[str, Any]]:
    """A tokenizer section as in a ``.pcpu`` file, and the settings of tokenizer_config.json.

    Raises:
        CheckpointError: there is no such checkpoint or revision, or its tokenizer is not a GPT-NeoX one.
        ValueError: a revision of a ``.pcpu`` file.
        OSError: a file cannot be read, or the hub cannot be reached.
    """
    if _is_file(source):
        file = load(source, revision=revision)._file
        return file.tokenizer, {"model_max_length": file.config["max_position_embeddings"]}
    tokenizer_file, find = _files(source, revision)
    path = tokenizer_file()
    try:
        section = compile_tokenizer(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing; a checkpoint's tokenizer is in its tokenizer.json") from None
    return section, _settings(find)


def _is_file(source: str | os.PathLike[str]) -> bool:
    return Path(source).suffix == ".pcpu" or Path(source).is_file()


def _files(
    source: str | os.PathLike[str], revision: str | None
) -> tuple[Callable[[], Path], Callable[[str], Path | None]]:
    """Of a folder or a hub id: where tokenizer.json is, and where other files are by name, if they are there."""
    if Path(source).is_dir():
        folder = local_source(Path(source), revision).folder
        return lambda: folder / "tokenizer.json", folder.joinpath
    from pythia_cpu import _hub  # imports an HTTP client, which local folders do not need

    found = _hub.resolve(_hub.repo_id_of(source), revision)
    return partial(_hub.tokenizer_file, found), partial(_hub.optional_file, found)


def special_tokens(source: str | os.PathLike[str], revision: str | None) -> Mapping[str, str | None]:
    """The special tokens of a checkpoint's tokenizer by attribute, which need not be those of its config.json. Nothing
    of a ``.pcpu`` file, which does not tell, and where the hub cannot be reached and its client has no such files (a
    converted checkpoint may be all that is kept). Raises CheckpointError as ``read_tokenizer``.
    """
    if _is_file(source):
        return {}
    try:
        settings = _settings(_files(source, revision)[1])
    except OSError:
        if Path(source).is_dir():
            raise
        return {}
    return {**SpecialTokens.DEFAULTS, **settings["special_tokens"]}


def _settings(find: Callable[[str], Path | None]) -> dict[str, Any]:
    """The settings that have a meaning here and are set, as arguments of ``GPTNeoXTokenizer``."""
    stored = _stored(find(_CONFIG))
    if "added_tokens_decoder" not in stored:  # transformers before 4.34 wrote special tokens to another file
        stored = {**stored, **_stored(find("special_tokens_map.json"))}
    names = "model_max_length", "padding_side", "truncation_side"
    found = {name: stored[name] for name in names if stored.get(name) is not None}
    if isinstance(stored.get("chat_template"), str):
        found["chat_template"] = stored["chat_template"]
    # Other classes have no special tokens but those that are named.
    is_neox = "GPTNeoX" in str(stored.get("tokenizer_class") or "GPTNeoX")
    unset = {} if is_neox else dict.fromkeys(SpecialTokens.NAMES)
    named = {name: _token(stored[name]) for name in SpecialTokens.NAMES if name in stored}
    extra = stored.get("extra_special_tokens", stored.get("additional_special_tokens")) or []
    if not isinstance(extra, list | dict):
        raise CheckpointError(f"{find(_CONFIG)}: extra_special_tokens is {extra!r}, expected a list of tokens")
    found["special_tokens"] = {**unset, **named}
    found["extra_special_tokens"] = [_token(token) for token in (extra.values() if isinstance(extra, dict) else extra)]
    return found


def _stored(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    try:
        stored = read_json(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path}: is not a tokenizer's settings as JSON ({error})") from None
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path}: is a {type(stored).__name__}, expected a tokenizer's settings in an object")
    return stored


def _token(stored: object) -> Any:
    """A token, which files have as a str or as an object around one."""
    return stored.get("content") if isinstance(stored, dict) else stored
