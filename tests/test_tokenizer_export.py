"""What the exporter accepts is reproduced exactly, everything else is refused by name; damaged sections do no harm."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tokenizers

import tokenizer_texts as texts
from checkpoints import MINI_PYTHIA
from pythia_cpu._core import Tokenizer
from pythia_cpu._errors import CheckpointError, FormatError
from pythia_cpu._tokenizer_export import _pack, compile_tokenizer

Json = dict[str, Any]
ORIGINAL_BYTES = (MINI_PYTHIA / "tokenizer.json").read_bytes()
ORIGINAL: Json = json.loads(ORIGINAL_BYTES)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}

VOCAB = ORIGINAL["model"]["vocab"]
LAST = max(VOCAB, key=VOCAB.__getitem__)
FLAGS = "single_word", "lstrip", "rstrip", "normalized", "special"
MASK, RAW = {"content": "<mask>"}, {"content": "<raw>", "normalized": False}
ADDING = TEMPLATE | {"single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, *TEMPLATE["single"]]}


def changed(**components: Any) -> bytes:
    return json.dumps(copy.deepcopy(ORIGINAL) | components).encode()


def changed_model(**options: Any) -> bytes:
    return changed(model=ORIGINAL["model"] | options)


def with_added(*tokens: Json) -> bytes:
    plain = dict.fromkeys(FLAGS, False) | {"normalized": True}
    added = [plain | {"id": 4096 + i} | token for i, token in enumerate(tokens)]
    return changed(added_tokens=ORIGINAL["added_tokens"] + added)


def without_byte_tokens(*characters: str) -> Json:
    """The model without these bytes and all that is made of them."""
    vocab = {t: i for t, i in ORIGINAL["model"]["vocab"].items() if not set(characters) & set(t)}
    vocab = {token: index for index, token in enumerate(vocab)}
    merges = [m for m in ORIGINAL["model"]["merges"] if m[0] in vocab and m[1] in vocab and m[0] + m[1] in vocab]
    return ORIGINAL["model"] | {"vocab": vocab, "merges": merges}


def last_merges_first() -> list[list[str]]:
    merges = ORIGINAL["model"]["merges"]
    return merges + merges[:5]


ACCEPTED: dict[str, bytes] = {
    "no normalizer": changed(normalizer=None),
    "a sequence of NFC": changed(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
    "an empty sequence": changed(normalizer={"type": "Sequence", "normalizers": []}),
    "add_prefix_space": changed(pre_tokenizer=BYTE_LEVEL | {"add_prefix_space": True}),
    "ByteLevel post-processor": changed(post_processor=BYTE_LEVEL),
    "pre-tokenizer sequence of one": changed(pre_tokenizer={"type": "Sequence", "pretokenizers": [BYTE_LEVEL]}),
    "decoder sequence of one": changed(decoder={"type": "Sequence", "decoders": [BYTE_LEVEL]}),
    "template without tokens": changed(post_processor=TEMPLATE),
    "sequence of post-processors": changed(post_processor={"type": "Sequence", "processors": [BYTE_LEVEL, TEMPLATE]}),
    "merges as strings": changed_model(merges=[" ".join(merge) for merge in ORIGINAL["model"]["merges"]]),
    "merges as strings with a version": changed_model(
        merges=["#version: 0.2", *(" ".join(merge) for merge in ORIGINAL["model"]["merges"])]
    ),
    "merges given twice": changed_model(merges=last_merges_first()),
    "no merges": changed_model(merges=[]),
    "unk_token that never shows": changed_model(unk_token="<|endoftext|>"),
    "empty prefix and suffix": changed_model(continuing_subword_prefix="", end_of_word_suffix=""),
    "dropout of 0": changed_model(dropout=0.0),
    "bytes without a token": changed(model=without_byte_tokens("x", "Ġ", "Ã"), added_tokens=[]),
    "no added tokens": changed(added_tokens=[]),
    "overlapping added tokens": with_added(
        {"content": "<a"}, {"content": "<a><"}, {"content": "<|end"}, {"content": "the the"}, {"content": "\n\n\n"}
    ),
    "added tokens outside normalizing": with_added(
        {"content": "e\u0301", "normalized": False},
        {"content": "A\u030a", "normalized": False},
        {"content": "\u00e9", "id": ORIGINAL["model"]["vocab"]["\u00e9"]},  # the alphabet's letter for byte 0xE9
    ),
    "special normalized token": with_added({"content": "Pythia", "special": True}),
    "added token in the vocabulary": with_added({"content": "the", "id": ORIGINAL["model"]["vocab"]["the"]}),
    "lstrip": with_added(MASK | {"lstrip": True}, RAW | {"lstrip": True}),
    "rstrip": with_added(MASK | {"rstrip": True}, RAW | {"rstrip": True}),
    "lstrip and rstrip": with_added(MASK | {"lstrip": True, "rstrip": True}, RAW),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_variants_are_exact(name: str) -> None:
    reference = tokenizers.Tokenizer.from_buffer(ACCEPTED[name])
    ours = Tokenizer(compile_tokenizer(ACCEPTED[name]))
    rng = random.Random(3)
    marked = [
        "<mask>",
        "<raw>",
        "<a><a><b",
        "the the the",
        "e\u0301",
        "\u00e9",
        "\u212b",
        "A\u030a",
        "\n\n\n\n",
        "Pythia",
    ]
    for _ in range(150):
        parts = [rng.choice([texts.fuzz_text(rng, 8), *marked]) for _ in range(6)]
        text = rng.choice(["", " ", "\u3000 \n", "  "]).join(parts)
        ids = ours.encode(text)
        assert ids == reference.encode(text, add_special_tokens=False).ids, ascii(text)
        for skip in (True, False):
            assert ours.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip)


def test_a_long_piece_without_tokens() -> None:
    data = changed(model=without_byte_tokens("x"), added_tokens=[])
    reference, ours = tokenizers.Tokenizer.from_buffer(data), Tokenizer(compile_tokenizer(data))
    for text in ("x" * 100, "x" * 60 + "yxy", "a " + "x" * 49):
        assert ours.encode(text) == reference.encode(text).ids


@pytest.mark.parametrize(
    "space", [chr(c) for c in range(0x3001) if chr(c).isspace()] + ["\u200b", "\u180e", "\x1c", "\ufeff"]
)
def test_stripping_takes_the_references_white_space(space: str) -> None:
    data = with_added({"content": "<mask>", "lstrip": True, "rstrip": True})
    reference, ours = tokenizers.Tokenizer.from_buffer(data), Tokenizer(compile_tokenizer(data))
    text = f"a{space}{space}<mask>{space}b{space}<mask><mask>{space}"
    assert ours.encode(text) == reference.encode(text).ids


def test_white_space_that_was_stripped_already_is_no_token() -> None:
    data = with_added(MASK | {"rstrip": True}, {"content": "\u3000", "lstrip": True})
    reference, ours = tokenizers.Tokenizer.from_buffer(data), Tokenizer(compile_tokenizer(data))
    for text in ("<mask>\u3000", "<mask>\u3000x", "x <mask> \u3000<mask>", "\u3000\u3000<mask>"):
        assert ours.encode(text) == reference.encode(text).ids


def test_an_added_token_is_no_end_of_a_contraction() -> None:
    data = with_added({"content": "s!"}, {"content": "e!"}, {"content": "\u3000x"}, MASK | {"rstrip": True})
    reference, ours = tokenizers.Tokenizer.from_buffer(data), Tokenizer(compile_tokenizer(data))
    for text in ("it's!", "'s!", "they're! 'll", "' s!", "<mask> \u3000x", "<mask>\u3000x\u3000x"):
        assert ours.encode(text) == reference.encode(text).ids


def edited_model(edit: Callable[[Json], object]) -> bytes:
    model = copy.deepcopy(ORIGINAL["model"])
    edit(model)
    return changed(model=model)


def without(component: str) -> bytes:
    return json.dumps({key: value for key, value in ORIGINAL.items() if key != component}).encode()


REFUSED: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"\x80", "not JSON"),
    "truncated": (ORIGINAL_BYTES[:1000], "not JSON"),
    "deeply nested": (b"[" * 200_000, "not JSON"),
    "a list": (b"[]", "holds a list"),
    "another version": (changed(version="2.0"), "version is '2.0'"),
    "an unknown component": (changed(language="en"), "'language'"),
    "normalizer NFKC": (changed(normalizer={"type": "NFKC"}), "normalizer is NFKC"),
    "normalizer in a sequence": (
        changed(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}),
        "normalizer is Lowercase",
    ),
    "no pre-tokenizer": (changed(pre_tokenizer=None), "pre_tokenizer is None"),
    "pre-tokenizer Whitespace": (changed(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer is Whitespace"),
    "pre-tokenizer sequence": (
        changed(pre_tokenizer={"type": "Sequence", "pretokenizers": 2 * [BYTE_LEVEL]}), "pre_tokenizer is Sequence",
    ),
    "no regex": (changed(pre_tokenizer=BYTE_LEVEL | {"use_regex": False}), "pre_tokenizer.use_regex"),
    "prefix space unsaid": (changed(pre_tokenizer={"type": "ByteLevel"}), "add_prefix_space is None"),
    "post-processor Bert": (changed(post_processor={"type": "BertProcessing"}), "post_processor is BertProcessing"),
    "template with tokens": (
        changed(post_processor=ADDING),
        "post_processor is a template that adds tokens.* name the copy with tokenizer=, and put such tokens",
    ),
    "template with tokens in a sequence": (
        changed(post_processor={"type": "Sequence", "processors": [BYTE_LEVEL, ADDING]}),
        "post_processor is a template that adds tokens",
    ),
    "template of a number": (
        changed(post_processor=TEMPLATE | {"single": [{"Sequence": 5}]}),
        "post_processor is a template that adds tokens",
    ),
    "template of the second text": (
        changed(post_processor=TEMPLATE | {"single": [{"Sequence": {"id": "B", "type_id": 0}}]}), "post_processor",
    ),
    "no decoder": (changed(decoder=None), "decoder is None"),
    "decoder Metaspace": (changed(decoder={"type": "Metaspace"}), "decoder is Metaspace"),
    "decoder without its options": (changed(decoder={"type": "ByteLevel"}), "tokenizers .* cannot read it"),
    "no model": (without("model"), "model is None"),
    "model Unigram": (changed(model={"type": "Unigram", "vocab": []}), "model is 'Unigram'"),
    "unknown model option": (changed_model(temperature=1), "'temperature'"),
    "dropout": (changed_model(dropout=0.1), "model.dropout is 0.1"),
    "continuing_subword_prefix": (changed_model(continuing_subword_prefix="##"), "model.continuing_subword_prefix"),
    "end_of_word_suffix": (changed_model(end_of_word_suffix="</w>"), "model.end_of_word_suffix"),
    "byte_fallback": (changed_model(byte_fallback=True), "model.byte_fallback"),
    "ignore_merges": (changed_model(ignore_merges=True), "model.ignore_merges"),
    "unk_token that shows": (
        changed(model=without_byte_tokens("x") | {"unk_token": "<|endoftext|>"}, added_tokens=[]), "model.unk_token",
    ),
    "vocab a list": (changed_model(vocab=[]), "model.vocab is a list"),
    "empty vocab": (changed(model=ORIGINAL["model"] | {"vocab": {}, "merges": []}, added_tokens=[]), "0 token ids"),
    "negative id": (edited_model(lambda m: m["vocab"].update(the=-1)), "'the' the id -1"),
    "id a float": (edited_model(lambda m: m["vocab"].update(the=1.0)), "'the' the id 1.0"),
    "huge id": (edited_model(lambda m: m["vocab"].update(the=1 << 24)), "'the' the id 16777216"),
    "one id twice": (edited_model(lambda m: m["vocab"].update(the=7)), "gives id 7 to"),
    "lone surrogate": (edited_model(lambda m: m["vocab"].update({"\ud800": 4096})), "lone surrogate"),
    "merges a string": (changed_model(merges="a b"), "model.merges is a str"),
    "merge of three": (edited_model(lambda m: m["merges"].append("a b c")), "expected two tokens"),
    "merge of numbers": (edited_model(lambda m: m["merges"].append([1, 2])), "expected two tokens"),
    "merge outside the vocabulary": (edited_model(lambda m: m["merges"].append(["the", "zzzz"])), "'zzzz' is not in"),
    "merge into nothing": (edited_model(lambda m: m["merges"].append(["the", "the"])), "'thethe' is not in"),
    "merge outside the alphabet": (
        edited_model(lambda m: (m["vocab"].update({"日": 4096, "日t": 4097}), m["merges"].append(["日", "t"]))),
        r"model.merges\[3836\]",
    ),
    "added tokens missing": (without("added_tokens"), "added_tokens is a NoneType"),
    "added token a string": (changed(added_tokens=["<s>"]), r"added_tokens\[0\]"),
    "added token without a flag": (changed(added_tokens=[{"id": 0, "content": "<|endoftext|>"}]), "special is None"),
    "added token empty": (with_added({"content": ""}), r"added_tokens\[4\] is empty"),
    "added token twice": (with_added({"content": "<s>"}, {"content": "<s>"}), "a second time"),
    "added token too long": (with_added({"content": "日" * 341 + "ab"}), r"added_tokens\[4\] is 1025 bytes long"),
    "added token single_word": (with_added({"content": "<s>", "single_word": True}), "single_word"),
    "added token not in NFC": (with_added({"content": "e\u0301"}), r"added_tokens\[4\].content"),
    "added token's id not next": (with_added({"content": "<s>", "id": 5000}), r"added_tokens\[4\].id is 5000"),
    "added token's id not the vocabulary's": (with_added({"content": "the"}), r"added_tokens\[4\].id is 4096"),
    "added token in a vocabulary with holes": (
        changed(model=ORIGINAL["model"] | {"vocab": VOCAB | {LAST: len(VOCAB)}}, added_tokens=[
            dict.fromkeys(FLAGS, False) | {"content": "<s>", "id": len(VOCAB)}
        ]), rf"added_tokens\[0\].id is {len(VOCAB)}, which is the id of {LAST!r} too",
    ),
    "added token a lone surrogate": (with_added({"content": "\udc00"}), "lone surrogate"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_component(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(CheckpointError, match=message):
        compile_tokenizer(data)


def test_section_is_deterministic_and_carries_the_json() -> None:
    section = compile_tokenizer(ORIGINAL_BYTES)
    assert section == compile_tokenizer(ORIGINAL_BYTES)
    assert Tokenizer(section).json == ORIGINAL_BYTES


def test_equal_tokenizers_whose_json_was_written_otherwise() -> None:
    one = Tokenizer(compile_tokenizer(ORIGINAL_BYTES))
    written = json.dumps(json.loads(ORIGINAL_BYTES), indent=1).encode()
    same = Tokenizer(compile_tokenizer(written))
    assert written != ORIGINAL_BYTES and same.json == written
    assert one.tokenizes_as(same) and same.tokenizes_as(one)
    root = json.loads(ORIGINAL_BYTES)
    root["normalizer"] = None if root["normalizer"] else {"type": "NFC"}
    plain = json.loads(ORIGINAL_BYTES)
    plain["added_tokens"][-1]["lstrip"] = not plain["added_tokens"][-1]["lstrip"]
    for other in (root, plain):
        assert not one.tokenizes_as(Tokenizer(compile_tokenizer(json.dumps(other).encode())))


# The header and the tables of the mini tokenizer: tokenizer_section.h.
NUM_TOKENS, NUM_MERGES, NUM_ADDED = 4096, 3836, 4
BYTE_IDS = 128
MERGES = BYTE_IDS + 256 * 4
TOKEN_ENDS = MERGES + NUM_MERGES * 12
ADDED = TOKEN_ENDS + NUM_TOKENS * 4
DAMAGE: dict[str, tuple[int, bytes, str]] = {
    "magic": (0, b"Q", "magic"),
    "version": (8, b"\2", "version is 2, expected 1"),
    "header size": (12, b"\x7f", "header_size_bytes"),
    "section size": (16, b"\0", "section_size_bytes"),
    "normalizer": (24, b"\2", "normalizer"),
    "flags": (28, b"\2", "flags"),
    "no tokens": (32, struct.pack("<I", 0), "num_tokens"),
    "too many tokens": (32, struct.pack("<I", 2**32 - 1), "num_tokens"),
    "fewer tokens": (32, struct.pack("<I", 300), "padding|merges|token_ends|token_bytes|byte_token_ids"),
    "too many merges": (36, struct.pack("<I", 2**32 - 1), "num_merges"),
    "more merges than bytes": (36, struct.pack("<I", 2**24), "merges"),
    "too many added tokens": (40, struct.pack("<I", 2**31), "num_added_tokens"),
    "reserved": (44, b"\1", "reserved"),
    "token bytes size": (48, struct.pack("<Q", 2**64 - 1), "token_bytes"),
    "added contents size": (56, struct.pack("<Q", 2**64 - 4), "added_contents"),
    "json size": (64, struct.pack("<Q", 2**63), "tokenizer_json"),
    "json size, less": (64, struct.pack("<Q", 8), "padding|section_size_bytes"),
    "reserved end": (127, b"\1", "reserved"),
    "byte id": (BYTE_IDS + 4 * 65, struct.pack("<i", NUM_TOKENS), r"byte_token_ids\[65\]"),
    "byte id below none": (BYTE_IDS + 4 * 65, struct.pack("<i", -2), r"byte_token_ids\[65\]"),
    "byte of another token": (BYTE_IDS + 4 * 65, struct.pack("<i", 2), r"byte_token_ids\[65\]"),
    "merge's left id": (MERGES, struct.pack("<I", NUM_TOKENS), r"merges\[0\]"),
    "merge's merged id": (MERGES + 12 * 7 + 8, struct.pack("<I", 0), r"merges\[7\]"),
    "token end": (TOKEN_ENDS + 4 * 9, struct.pack("<I", 2**31), r"token_ends\[10\]"),
    "last token end": (TOKEN_ENDS + 4 * (NUM_TOKENS - 1), struct.pack("<I", 2**31), "token_bytes_size"),
    "added id": (ADDED, struct.pack("<I", NUM_TOKENS), r"added_tokens\[0\].id"),
    "added flags": (ADDED + 4, b"\x10", r"added_tokens\[0\].flags"),
    "added content end": (ADDED + 8, struct.pack("<I", 0), r"added_tokens\[0\].content_end"),
    "added content far end": (ADDED + 8, struct.pack("<I", 2**32 - 1), r"added_tokens\[0\].content_end"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_names_the_field(name: str) -> None:
    offset, data, message = DAMAGE[name]
    section = bytearray(compile_tokenizer(ORIGINAL_BYTES))
    section[offset : offset + len(data)] = data
    with pytest.raises(FormatError, match=message):
        Tokenizer(bytes(section))


def test_padding_does_not_fit_the_section() -> None:
    section = bytearray(compile_tokenizer(ORIGINAL_BYTES)) + b"x"
    struct.pack_into("<Q", section, 16, len(section))
    struct.pack_into("<Q", section, 64, -(-len(ORIGINAL_BYTES) // 8) * 8 + 1)
    with pytest.raises(FormatError, match="padded size of tokenizer_json"):
        Tokenizer(bytes(section))


def test_added_content_in_no_encoding_is_damage() -> None:
    section = compile_tokenizer(ORIGINAL_BYTES)
    with pytest.raises(FormatError, match=r"added_tokens\[0\] is not UTF-8"):
        Tokenizer(section.replace(b"<|endoftext|><|padding|>", b"\xff|endoftext|><|padding|>"))


def test_added_contents_that_are_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    content = "日" * 341 + "a"
    tokenizer = Tokenizer(compile_tokenizer(with_added({"content": content})))
    assert tokenizer.encode(f"x{content}x") == [*tokenizer.encode("x"), 4096, *tokenizer.encode("x")]
    monkeypatch.setattr("pythia_cpu._tokenizer_export._MAX_ADDED_TOKEN_BYTES", 2000)
    section = compile_tokenizer(with_added({"content": content + "b"}))
    with pytest.raises(FormatError, match=r"added_tokens\[4\] size is 1025, expected at most 1024"):
        Tokenizer(section)


@pytest.mark.parametrize("count", [1024, 1025])
def test_merges_that_collide(count: int) -> None:
    """Merges of empty tokens, all of whose pairs have the same place in a table of 4,096: see csrc/text/bpe.h."""
    left, right = np.meshgrid(np.arange(3000, dtype=np.uint64), np.arange(3000, dtype=np.uint64), indexing="ij")
    pairs = (left << np.uint64(32) | right) * np.uint64(0x9E3779B97F4A7C15)
    same_place = np.argwhere((pairs >> np.uint64(32) & np.uint64(4095)) == 77)[:1040]
    merges = [(int(a), int(b), 5) for a, b in same_place[:count]]
    merges += [(int(a), int(a), 5) for a in range(2999, 0, -1)][: 1040 - count]
    empty: dict[str, Any] = {"byte_token_ids": [-1] * 256, "tokens": [b""] * 3000, "added": [], "tokenizer_json": b"{}"}
    section = _pack(normalizer=0, flags=0, merges=merges, **empty)
    if count == 1024:
        assert Tokenizer(section).encode("abc") == []
        return
    with pytest.raises(FormatError, match=r"merges\[1024\] collides with 1024 others, expected those of a vocabulary"):
        Tokenizer(section)


def test_merge_given_twice_is_damage() -> None:
    section = bytearray(compile_tokenizer(ORIGINAL_BYTES))
    section[MERGES + 12 : MERGES + 24] = section[MERGES : MERGES + 12]
    with pytest.raises(FormatError, match=r"merges\[1\] repeats merges\[0\]"):
        Tokenizer(bytes(section))


def test_any_flipped_bit_or_cut_does_no_harm() -> None:
    section = compile_tokenizer(ORIGINAL_BYTES)
    rng = random.Random(5)
    sample = texts.fuzz_text(rng, 2000)
    tables_end = ADDED + NUM_ADDED * 12
    works = refused = 0
    for trial in range(600):
        damaged = bytearray(section)
        for _ in range(rng.choice([1, 1, 4])):
            bit = rng.randrange(8 * (BYTE_IDS if trial % 3 == 0 else tables_end if trial % 3 == 1 else len(section)))
            damaged[bit // 8] ^= 1 << bit % 8
        if trial % 50 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        try:
            tokenizer = Tokenizer(bytes(damaged))
        except FormatError:
            refused += 1
            continue
        works += 1
        tokenizer.decode(tokenizer.encode(sample), False)
    assert works > 50
    assert refused > 200
