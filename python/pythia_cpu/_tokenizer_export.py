"""Compiles a checkpoint's ``tokenizer.json`` into the tokenizer section of a ``.pcpu`` file.

The layout is csrc/format/tokenizer_section.h (docs/tokenizer-section.md). The engine reproduces one family of
tokenizers exactly: byte-level BPE with GPT-2's pattern, with or without NFC, as GPT-NeoX has it. Everything else is
refused here, by name, because a single wrong token makes every later number wrong. ``truncation`` and ``padding`` are
options of a call, which transformers resets on every call, and have no part in it.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import tokenizers
from tokenizers import normalizers

from pythia_cpu._errors import CheckpointError
from pythia_cpu._json import read_json

_MAGIC = b"PCPUTOK\0"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQIIIIIIQQQ56x")
_MAX_TOKENS = 1 << 24
_MAX_ADDED_TOKEN_BYTES = 1024
_ADD_PREFIX_SPACE = 1
_SPECIAL, _NORMALIZED, _LSTRIP, _RSTRIP = 1, 2, 4, 8
_MODEL_KEYS = {
    "type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
    "ignore_merges", "vocab", "merges",
}  # fmt: skip
_COMPONENTS = {
    "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder",
    "model",
}  # fmt: skip
# Bytes that no UTF-8 text holds: a vocabulary may leave them out.
_NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


def _alphabet() -> dict[str, int]:
    """GPT-2's byte-level alphabet: the character that stands for each byte (openai/gpt-2, bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_OF = _alphabet()


_ADVICE = "use a GPT-NeoX tokenizer, or convert a checkpoint that has one"


def _refuse(component: str, found: str, expected: str, advice: str = _ADVICE) -> NoReturn:
    raise CheckpointError(
        f"[tokenizer.json] {component} is {found}, but this engine reproduces only {expected} exactly; {advice}"
    )


@dataclass(frozen=True)
class _AddedToken:
    id: int
    content: bytes
    flags: int


@functools.lru_cache(maxsize=1)  # the checkpoints of a run share theirs
def compile_tokenizer(tokenizer_json: bytes) -> bytes:
    """Compile a Hugging Face ``tokenizer.json`` into a tokenizer section; the same input gives the same bytes.

    Args:
        tokenizer_json: the file's bytes, which the section also carries unchanged.

    Returns:
        The section, as csrc/format/tokenizer_section.h lays it out.

    Raises:
        CheckpointError: not a tokenizer, or one with a component that the engine cannot reproduce exactly (named).
    """
    try:
        root = read_json(tokenizer_json)
    except ValueError as error:
        raise CheckpointError(f"[tokenizer.json] not JSON ({error}); download the file again") from error
    if not isinstance(root, dict):
        raise CheckpointError(
            f"[tokenizer.json] holds a {type(root).__name__}, expected an object; download the file again"
        )
    if unknown := sorted(set(root) - _COMPONENTS):
        _refuse("the file", f"with an unknown component {unknown[0]!r}", f"the components {sorted(_COMPONENTS)}")
    if root.get("version") != "1.0":
        _refuse("version", repr(root.get("version")), "'1.0'")

    use_nfc = _read_normalizer(root.get("normalizer"))
    add_prefix_space = _read_pre_tokenizer(root.get("pre_tokenizer"))
    _check_post_processor(root.get("post_processor"))
    _check_decoder(root.get("decoder"))
    model = root.get("model")
    if not isinstance(model, dict):
        _refuse("model", repr(model), "a byte-level BPE")
    vocab = _read_vocab(model)
    _check_model_options(model, vocab)
    merges = _read_merges(model.get("merges"), vocab)
    added = _read_added_tokens(root.get("added_tokens"), vocab, use_nfc=use_nfc)
    _check_reference_reads(tokenizer_json)

    token_bytes = {token_id: _bytes_of(token) for token, token_id in vocab.items()}
    token_bytes |= {token.id: _bytes_of(token.content.decode("utf-8")) for token in added}
    num_tokens = max(token_bytes, default=-1) + 1
    if not 0 < num_tokens <= _MAX_TOKENS:
        raise CheckpointError(f"[tokenizer.json] model.vocab: {num_tokens} token ids, expected 1 to {_MAX_TOKENS}")
    return _pack(
        normalizer=int(use_nfc),
        flags=_ADD_PREFIX_SPACE if add_prefix_space else 0,
        byte_token_ids=_byte_token_ids(vocab),
        tokens=[token_bytes.get(i, b"") for i in range(num_tokens)],
        merges=merges,
        added=added,
        tokenizer_json=tokenizer_json,
    )


def _pack(
    *,
    normalizer: int,
    flags: int,
    byte_token_ids: list[int],
    tokens: list[bytes],
    merges: list[tuple[int, int, int]],
    added: list[_AddedToken],
    tokenizer_json: bytes,
) -> bytes:
    token_bytes = b"".join(tokens)
    contents = b"".join(token.content for token in added)
    records, end = [], 0
    for token in added:
        end += len(token.content)
        records.append((token.id, token.flags, end))
    ends, end = [], 0
    for token_content in tokens:
        end += len(token_content)
        ends.append(end)
    parts = [
        struct.pack("<256i", *byte_token_ids),
        b"".join(struct.pack("<3I", *merge) for merge in merges),
        struct.pack(f"<{len(ends)}I", *ends),
        b"".join(struct.pack("<3I", *record) for record in records),
        token_bytes,
        contents,
        tokenizer_json,
    ]
    body = b"".join(part.ljust(_padded(len(part)), b"\0") for part in parts)
    header = _HEADER.pack(
        _MAGIC, _VERSION, _HEADER.size, _HEADER.size + len(body), normalizer, flags, len(tokens), len(merges),
        len(added), 0, len(token_bytes), len(contents), len(tokenizer_json),
    )  # fmt: skip
    return header + body


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // 8) * 8


def _bytes_of(token: str) -> bytes:
    """What the reference's ByteLevel decoder makes of a token: with a character outside its alphabet, plain UTF-8."""
    try:
        return bytes(_BYTE_OF[c] for c in token)
    except KeyError:
        return token.encode("utf-8")


def _check_reference_reads(tokenizer_json: bytes) -> None:
    """Refuse what ``tokenizers`` itself cannot load: the Python tokenizer of the file would be lost."""
    try:
        tokenizers.Tokenizer.from_buffer(tokenizer_json)
    except Exception as error:
        raise CheckpointError(
            f"[tokenizer.json] tokenizers {tokenizers.__version__} cannot read it ({error}); download the file "
            "again, or save it with transformers"
        ) from error


def _kind(component: Any) -> str:
    return str(component.get("type")) if isinstance(component, dict) else repr(component)


def _only_one(component: Any, parts: str) -> Any:
    """What a sequence of one holds; anything else as it is."""
    while _kind(component) == "Sequence" and isinstance(component.get(parts), list) and len(component[parts]) == 1:
        component = component[parts][0]
    return component


def _read_normalizer(component: Any) -> bool:
    """Whether texts are normalized to NFC."""
    if component is None:
        return False
    if _kind(component) == "NFC":
        return True
    if _kind(component) == "Sequence" and isinstance(component.get("normalizers"), list):
        parts = [_read_normalizer(part) for part in component["normalizers"]]
        return any(parts)
    _refuse("normalizer", _kind(component), "NFC or none")


def _read_pre_tokenizer(component: Any) -> bool:
    """Whether a text that does not start with a space gets one."""
    component = _only_one(component, "pretokenizers")
    if _kind(component) != "ByteLevel":
        _refuse("pre_tokenizer", _kind(component), "ByteLevel")
    if component.get("use_regex", True) is not True:
        _refuse("pre_tokenizer.use_regex", repr(component["use_regex"]), "true")
    add_prefix_space = component.get("add_prefix_space")
    if not isinstance(add_prefix_space, bool):
        _refuse("pre_tokenizer.add_prefix_space", repr(add_prefix_space), "true or false")
    return add_prefix_space


def _check_post_processor(component: Any) -> None:
    """Accept post-processors that leave the ids of one text alone (ByteLevel only trims offsets)."""
    kind = _kind(component)
    if component is None or kind == "ByteLevel":
        return
    if kind == "Sequence" and isinstance(component.get("processors"), list):
        for part in component["processors"]:
            _check_post_processor(part)
        return
    if kind != "TemplateProcessing":
        _refuse("post_processor", kind, "ByteLevel, none, or a template that adds no token")
    single = component.get("single")
    is_plain = (
        isinstance(single, list)
        and len(single) == 1
        and isinstance(single[0], dict)
        and list(single[0]) == ["Sequence"]
    )
    sequence = single[0]["Sequence"] if is_plain else None
    if not isinstance(sequence, dict) or sequence.get("id") != "A":
        _refuse(
            "post_processor",
            "a template that adds tokens",
            "a template that adds no token",
            "take post_processor out of a copy of the file, name the copy with tokenizer=, and put such tokens into "
            "prompts yourself",
        )


def _check_decoder(component: Any) -> None:
    # Its add_prefix_space, trim_offsets and use_regex have no effect on decoding.
    component = _only_one(component, "decoders")
    if _kind(component) != "ByteLevel":
        _refuse("decoder", _kind(component), "ByteLevel")


def _check_model_options(model: Mapping[str, Any], vocab: Mapping[str, int]) -> None:
    if unknown := sorted(set(model) - _MODEL_KEYS):
        _refuse("model", f"with an unknown option {unknown[0]!r}", f"the options {sorted(_MODEL_KEYS)}")
    if model.get("dropout"):
        _refuse("model.dropout", repr(model["dropout"]), "none")
    for option in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            _refuse(f"model.{option}", repr(model[option]), "none")
    for option in ("byte_fallback", "ignore_merges"):
        if model.get(option):
            _refuse(f"model.{option}", repr(model[option]), "false")
    missing = [b for c, b in _BYTE_OF.items() if c not in vocab and b not in _NEVER_IN_UTF8]
    if model.get("unk_token") is not None and missing:
        _refuse(
            "model.unk_token", repr(model["unk_token"]), f"a vocabulary of all bytes (0x{missing[0]:02x} has no token)"
        )


def _read_vocab(model: Mapping[str, Any]) -> dict[str, int]:
    if model.get("type") != "BPE":
        _refuse("model", repr(model.get("type")), "BPE")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        raise CheckpointError(
            f"[tokenizer.json] model.vocab is a {type(vocab).__name__}, expected an object of token: id"
        )
    seen: dict[int, str] = {}
    for token, token_id in vocab.items():
        _encodable(token, "model.vocab")
        if type(token_id) is not int or not 0 <= token_id < _MAX_TOKENS:
            raise CheckpointError(
                f"[tokenizer.json] model.vocab gives {token!r} the id {token_id!r}, expected 0 to 2^24 - 1"
            )
        if token_id in seen:
            raise CheckpointError(
                f"[tokenizer.json] model.vocab gives id {token_id} to {seen[token_id]!r} and {token!r}"
            )
        seen[token_id] = token
    return vocab


def _encodable(text: str, place: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CheckpointError(
            f"[tokenizer.json] {place} holds a lone surrogate in {text!r}, expected Unicode text"
        ) from error


def _byte_token_ids(vocab: Mapping[str, int]) -> list[int]:
    by_byte = {b: vocab.get(c, -1) for c, b in _BYTE_OF.items()}
    return [by_byte[b] for b in range(256)]


def _read_merges(merges: Any, vocab: Mapping[str, int]) -> list[tuple[int, int, int]]:
    """Merges as (left id, right id, merged id) in rank order, from pairs or from the "left right" of older files."""
    if not isinstance(merges, list):
        raise CheckpointError(f"[tokenizer.json] model.merges is a {type(merges).__name__}, expected a list")
    ranked: dict[tuple[int, int], int] = {}
    for rank, merge in enumerate(merges):
        if isinstance(merge, str):
            if merge.startswith("#version"):
                continue
            parts = merge.split(" ")
        else:
            parts = merge
        if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) for part in parts)):
            raise CheckpointError(f"[tokenizer.json] model.merges[{rank}] is {merge!r}, expected two tokens")
        left, right = parts
        for token in (left, right, left + right):
            if token not in vocab:
                raise CheckpointError(
                    f"[tokenizer.json] model.merges[{rank}] {merge!r}: {token!r} is not in model.vocab"
                )
            if not token or any(c not in _BYTE_OF for c in token):
                _refuse(f"model.merges[{rank}]", repr(merge), "merges of byte-level tokens")
        pair = (vocab[left], vocab[right])
        ranked.pop(pair, None)  # of a pair given twice the reference keeps the later rank
        ranked[pair] = vocab[left + right]
    return [(left_id, right_id, merged_id) for (left_id, right_id), merged_id in ranked.items()]


def _read_added_tokens(tokens: Any, vocab: Mapping[str, int], *, use_nfc: bool) -> list[_AddedToken]:
    if not isinstance(tokens, list):
        raise CheckpointError(f"[tokenizer.json] added_tokens is a {type(tokens).__name__}, expected a list")
    nfc = normalizers.NFC()
    result: list[_AddedToken] = []
    contents: set[str] = set()
    token_of = {token_id: token for token, token_id in vocab.items()}
    next_id = len(vocab)
    for index, token in enumerate(tokens):
        place = f"added_tokens[{index}]"
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise CheckpointError(f"[tokenizer.json] {place} is {token!r}, expected an object with a content")
        content = token["content"]
        encoded = _encodable(content, place)
        names = ("special", "normalized", "lstrip", "rstrip", "single_word")
        if wrong := [name for name in names if not isinstance(token.get(name), bool)]:
            raise CheckpointError(
                f"[tokenizer.json] {place}.{wrong[0]} is {token.get(wrong[0])!r}, expected true or false"
            )
        if not content or content in contents:
            _refuse(place, "empty" if not content else f"{content!r} a second time", "distinct added tokens")
        if len(encoded) > _MAX_ADDED_TOKEN_BYTES:
            _refuse(place, f"{len(encoded)} bytes long", f"added tokens of at most {_MAX_ADDED_TOKEN_BYTES}")
        if token["single_word"]:
            _refuse(f"{place}.single_word", "true", "added tokens that match anywhere")
        if use_nfc and token["normalized"] and nfc.normalize_str(content) != content:
            # Versions of the reference differ in how these decode.
            _refuse(f"{place}.content", f"{content!r}, not in NFC", "normalized added tokens in NFC")
        # The reference ignores the id in the file: it takes the vocabulary's, or else the next free one.
        expected_id = vocab.get(content, next_id)
        next_id += content not in vocab
        if (owner := token_of.get(expected_id, content)) != content:
            _refuse(f"{place}.id", f"{expected_id}, which is the id of {owner!r} too", "distinct ids")
        if token.get("id") != expected_id:
            _refuse(
                f"{place}.id",
                f"{token.get('id')!r} where the reference assigns {expected_id}",
                "ids as it assigns them",
            )
        contents.add(content)
        flags = (
            _SPECIAL * token["special"]
            + _NORMALIZED * token["normalized"]
            + _LSTRIP * token["lstrip"]
            + _RSTRIP * token["rstrip"]
        )
        result.append(_AddedToken(expected_id, encoded, flags))
    return result
