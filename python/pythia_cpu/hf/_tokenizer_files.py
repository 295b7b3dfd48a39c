"""The files of a checkpoint that tokenizers are made of, without its weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pythia_cpu._errors import CheckpointError
from pythia_cpu._json import read_json
from pythia_cpu._load import load
from pythia_cpu._source import local_source
from pythia_cpu._tokenizer import Tokenizer
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
    path = Path(source)
    find: Callable[[str], Path | None]
    if _is_file(path):
        file = load(path, revision=revision)._file
        return file.tokenizer, {"model_max_length": file.config["max_position_embeddings"]}
    if path.is_dir():
        folder = local_source(path, revision).folder
        path, find = folder / "tokenizer.json", folder.joinpath
    else:
        from pythia_cpu import _hub  # imports an HTTP client, which local folders do not need

        found = _hub.resolve(_hub.repo_id_of(source), revision)
        path, find = _hub.tokenizer_file(found), partial(_hub.optional_file, found)
    try:
        section = compile_tokenizer(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing; a checkpoint's tokenizer is in its tokenizer.json") from None
    return section, _settings(find)


def _is_file(source: str | os.PathLike[str]) -> bool:
    return Path(source).suffix == ".pcpu" or Path(source).is_file()


def special_ids(source: str | os.PathLike[str], revision: str | None) -> tuple[int | None, int | None]:
    """``bos_token_id`` and ``eos_token_id`` of a checkpoint's tokenizer, which need not be those of its config.json;
    None where there is none; both of a ``.pcpu`` file, which does not tell, and where the hub cannot be reached and its
    client has no such files (a converted checkpoint may be all that is kept). Raises CheckpointError as
    ``read_tokenizer``.
    """
    if _is_file(source):
        return None, None
    try:
        section, settings = read_tokenizer(source, revision)
    except OSError:
        if Path(source).is_dir():
            raise
        return None, None
    ids = Tokenizer(section, None)._tokenizer.get_vocab(with_added_tokens=True)
    named = {**SpecialTokens.DEFAULTS, **settings["special_tokens"]}
    return ids.get(named["bos_token"]), ids.get(named["eos_token"])


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
    unset = {} if "GPTNeoX" in stored.get("tokenizer_class", "GPTNeoX") else dict.fromkeys(SpecialTokens.NAMES)
    named = {name: _token(stored[name]) for name in SpecialTokens.NAMES if name in stored}
    extra = stored.get("extra_special_tokens", stored.get("additional_special_tokens")) or ()
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
