"""One wrong field of a .pcpu file at a time, with checksums that fit it: each a FormatError that names the field."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcpu_file import ParsedFile, checksum, pack_header, parse
from pythia_cpu import _core
from tiny_pcpu import refuser, tiny_bytes, write_file


@pytest.fixture
def tiny() -> bytes:
    return tiny_bytes()


@pytest.fixture
def refuses(tmp_path: Path) -> Callable[[bytes, str], None]:
    return refuser(tmp_path)


HEADER_CHANGES: list[tuple[str, Any, str]] = [
    ("version", 1, "version is 1, expected 4; convert the checkpoint"),
    ("version", 3, "version is 3, expected 4"),
    ("header_size_bytes", 255, "header_size_bytes is 255, expected 256"),
    ("file_size_bytes", 2**64 - 1, "file_size_bytes is 18446744073709551615"),
    ("file_size_bytes", 0, "file_size_bytes is 0"),
    ("payload.offset_bytes", 0, "payload.offset_bytes is 0, expected 256"),
    ("payload.offset_bytes", 2**64 - 64, "payload.offset_bytes is"),
    ("payload.size_bytes", 0, "payload.size_bytes is 0"),
    ("payload.size_bytes", 2**64 - 1, "payload.size_bytes is 18446744073709551615"),
    ("payload.size_bytes", 2**63, "payload.size_bytes is"),
    ("payload.checksum", 1, "payload.checksum is 0x0000000000000001, expected 0x0000000000000000"),
    ("tokenizer.offset_bytes", 256, "tokenizer.offset_bytes is 256"),
    ("tokenizer.size_bytes", 0, "tokenizer.size_bytes is 0, expected 1"),
    ("tokenizer.size_bytes", 2**64 - 1, "tokenizer.size_bytes is"),
    ("tokenizer.checksum", 1, "tokenizer.checksum is"),
    ("metadata.offset_bytes", 2**63, "metadata.offset_bytes is"),
    ("metadata.size_bytes", 3, "metadata.size_bytes is 3, expected 4"),
    ("metadata.size_bytes", 2**32, "metadata.size_bytes is"),
    ("metadata.checksum", 1, "metadata.checksum is"),
    ("tensor_table.offset_bytes", 1, "tensor_table.offset_bytes is 1"),
    ("tensor_table.size_bytes", 175, "tensor_table.size_bytes is 175"),
    ("tensor_table.size_bytes", 2**64 - 176, "tensor_table.size_bytes is"),
    ("tensor_table.checksum", 1, "tensor_table.checksum is"),
    ("num_tensors", 0, "num_tensors is 0, expected 16"),
    ("num_tensors", 2**32 - 1, "num_tensors is 4294967295"),
    ("weight_format", 5, "weight_format is 5"),
    ("vocab_size", 0, "vocab_size is 0, expected 1..16777216"),
    ("vocab_size", 2**24 + 1, "vocab_size is 16777217"),
    ("vocab_size", 2**31, "vocab_size is 2147483648"),
    ("vocab_size", 20, "embed_in.weight.* rows is 19, expected 20"),
    ("hidden_size", 0, "hidden_size is 0"),
    ("hidden_size", 7, "hidden_size is 7, expected a multiple of num_attention_heads, 3"),
    ("hidden_size", 12, "embed_in.weight.* cols is 6, expected 12"),
    ("hidden_size", 2**32 - 1, "hidden_size is 4294967295"),
    ("num_hidden_layers", 0, "num_hidden_layers is 0, expected 1..1024"),
    ("num_hidden_layers", 1025, "num_hidden_layers is 1025"),
    ("num_hidden_layers", 2, "num_tensors is 16, expected 28"),
    ("num_attention_heads", 0, "num_attention_heads is 0"),
    ("num_attention_heads", 7, "num_attention_heads is 7, expected 1..6"),
    ("intermediate_size", 0, "intermediate_size is 0"),
    ("intermediate_size", 8, "dense_h_to_4h.weight.* rows is 7, expected 8"),
    ("intermediate_size", 2**24 + 1, "intermediate_size is"),
    ("max_position_embeddings", 0, "max_position_embeddings is 0"),
    ("max_position_embeddings", 2**20 + 1, "max_position_embeddings is 1048577, expected 1..1048576"),
    ("rotary_ndims", 1, "rotary_ndims is 1, expected an even number up to head_dim, 2"),
    ("rotary_ndims", 4, "rotary_ndims is 4"),
    ("hidden_act", 5, "hidden_act is 5, expected 0..4"),
    ("flags", 8 + 5, "flags is 0x000000000000000d"),
    ("flags", 1, "num_tensors is 16, expected 14"),
    ("flags", 7, "embed_out.weight.* derived is 0, expected 1"),
    ("bos_token_id", -2, "bos_token_id is -2"),
    ("eos_token_id", -(2**31), "eos_token_id is -2147483648"),
    ("reserved0", 1, "reserved0 is 1, expected 0"),
    ("rotary_emb_base", 0.0, "rotary_emb_base is 0, expected"),
    ("rotary_emb_base", 0.99, "rotary_emb_base is 0.99, expected a finite number of at least 1"),
    ("rotary_emb_base", float("nan"), "rotary_emb_base is"),
    ("rotary_emb_base", float("inf"), "rotary_emb_base is inf"),
    ("layer_norm_eps", -1e-5, "layer_norm_eps is -1e-05, expected a finite number above 0"),
    ("layer_norm_eps", float("nan"), "layer_norm_eps is"),
    ("reserved", bytes(47) + b"\1", "reserved is not all zero"),
]


@pytest.mark.parametrize(("name", "value", "pattern"), HEADER_CHANGES, ids=lambda v: str(v)[:28])
def test_header_field(refuses: Callable[..., None], tiny: bytes, name: str, value: Any, pattern: str) -> None:
    parsed = parse(tiny)
    assert parsed.header[name] != value
    parsed.header[name] = value
    refuses(parsed.assemble(), pattern)


def test_every_header_field_has_a_bad_value(tiny: bytes) -> None:
    without = {"magic", "header_checksum", "fingerprint"}  # own tests; any fingerprint is one
    assert set(parse(tiny).header) - {name for name, *_ in HEADER_CHANGES} == without


RECORD_CHANGES: list[tuple[int, str, Any, str]] = [
    (
        0,
        "name",
        b"gpt_neox.embed_in.weighT",
        r"tensor 0 \(gpt_neox.embed_in.weight\) name is 'gpt_neox.embed_in.weighT",
    ),
    (0, "name", b"gpt_neox.embed_in.weight" + bytes(55) + b"!", "name is"),
    (0, "layout", 2, "embed_in.weight.* layout is 2, expected 1"),
    (1, "layout", 3, "layout is 3, expected 0"),
    (0, "format", 3, "embed_in.weight.* format is 3"),
    (1, "format", 1, "input_layernorm.weight.* format is 1"),
    (5, "format", 5, "query_key_value.weight.* format is 5"),
    (0, "source_dtype", 3, "source_dtype is 3"),
    (0, "derived", 1, "derived is 1, expected 0"),
    (15, "derived", 1, "embed_out.weight.* derived is 1, expected 0"),
    (0, "rows", 18, "rows is 18, expected 19"),
    (0, "rows", 2**63, "rows is 9223372036854775808"),
    (1, "rows", 0, "rows is 0, expected 1"),
    (5, "cols", 5, "cols is 5, expected 6"),
    (0, "offset_bytes", 0, "offset_bytes is 0, expected 256"),
    (1, "offset_bytes", 257, "offset_bytes is 257"),
    (1, "offset_bytes", 256, "offset_bytes is 256"),
    (15, "offset_bytes", 2**64 - 64, "offset_bytes is 18446744073709551552"),
    (0, "size_bytes", 227, "size_bytes is 227, expected 228"),
    (0, "size_bytes", 2**64 - 1, "size_bytes is"),
    (0, "checksum", 0, "embed_in.weight.* checksum is 0x0000000000000000"),
    (15, "checksum", 1, "embed_out.weight.* checksum is 0x0000000000000001"),
    (3, "reserved", b"\0\0\0\0\0\0\0\1", "reserved is not all zero"),
]


@pytest.mark.parametrize(("index", "name", "value", "pattern"), RECORD_CHANGES, ids=lambda v: str(v)[:28])
def test_record_field(
    refuses: Callable[..., None], tiny: bytes, index: int, name: str, value: Any, pattern: str
) -> None:
    parsed = parse(tiny)
    assert parsed.records[index][name] != value
    parsed.records[index][name] = value
    refuses(parsed.assemble(), pattern)


def test_every_record_field_has_a_bad_value(tiny: bytes) -> None:
    without = {"source_sha256"}  # any hash is one, but for derived tensors, below
    assert set(parse(tiny).records[0]) - {name for _, name, *_ in RECORD_CHANGES} == without


def test_derived_tensor_has_no_hash(tmp_path: Path, refuses: Callable[..., None]) -> None:
    write_file(tmp_path / "tied.pcpu", config={"tie_word_embeddings": True})
    parsed = parse((tmp_path / "tied.pcpu").read_bytes())
    parsed.records[-1]["source_sha256"] = bytes(31) + b"\1"
    refuses(parsed.assemble(), "embed_out.weight.* source_sha256 is not all zero")


def test_swapped_records(refuses: Callable[..., None], tiny: bytes) -> None:
    parsed = parse(tiny)
    parsed.records[1], parsed.records[2] = parsed.records[2], parsed.records[1]
    refuses(parsed.assemble(), "tensor 1 .* name is 'gpt_neox.layers.0.input_layernorm.bias")


def test_padding_must_be_zero(refuses: Callable[..., None], tiny: bytes) -> None:
    parsed = parse(tiny)
    end = parsed.records[0]["offset_bytes"] + parsed.records[0]["size_bytes"]
    assert end % 64
    parsed.data[end] = 1
    refuses(parsed.assemble(), "padding after gpt_neox.embed_in.weight is not all zero")


def replace_metadata(parsed: ParsedFile, section: bytes) -> bytes:
    """The file with other metadata bytes, everything else moved and described as it must be."""
    tokenizer_end = parsed.header["tokenizer.offset_bytes"] + parsed.header["tokenizer.size_bytes"]
    data = parsed.data[:tokenizer_end]
    table = parsed.section("tensor_table")
    for name, content in (("metadata", section), ("tensor_table", table)):
        data += bytes(-len(data) % 64)
        parsed.header |= {
            f"{name}.offset_bytes": len(data),
            f"{name}.size_bytes": len(content),
            f"{name}.checksum": checksum(content),
        }
        data += content
    parsed.header["file_size_bytes"] = len(data)
    parsed.data = data
    data[:256] = pack_header(parsed.header)
    return bytes(data)


def entry(key: bytes, value: bytes) -> bytes:
    return struct.pack("<II", len(key), len(value)) + key + value


METADATA_CHANGES = [
    (struct.pack("<I", 1), "metadata entry 0 key size is cut off"),
    (struct.pack("<II", 1, 3), "metadata entry 0 value size is cut off"),
    (
        struct.pack("<III", 1, 2**32 - 1, 0),
        "metadata entry 0 key size is 4294967295, expected at most the 0 bytes left",
    ),
    (struct.pack("<III", 1, 1, 2**32 - 1) + b"k", "metadata entry 0 value size is 4294967295"),
    (struct.pack("<I", 2**32 - 1) + entry(b"k", b"v"), "metadata entry 1 key size is cut off"),
    (struct.pack("<I", 1) + entry(b"k", b"v") + b"x", "metadata is 1 bytes longer than its entries"),
    (
        struct.pack("<I", 2) + entry(b"b", b"") + entry(b"a", b""),
        "metadata entry 1 key is 'a', expected one that sorts after 'b'",
    ),
    (struct.pack("<I", 2) + entry(b"a", b"") + entry(b"a", b""), "metadata entry 1 key is 'a'"),
    (
        struct.pack("<I", 2) + entry(b"b" * 99999, b"") + entry(b"a" * 99999, b""),
        f"metadata entry 1 key is '{'a' * 80}'..., expected one that sorts after '{'b' * 80}'...;",
    ),
    (struct.pack("<I", 1) + entry(b"\xff", b""), "metadata entry 0 key is not UTF-8"),
    (struct.pack("<I", 1) + entry(b"k", b"\xed\xa0\x80"), "metadata entry 0 value is not UTF-8"),
    (struct.pack("<I", 1) + entry(b"k", b"\xc0\x80"), "metadata entry 0 value is not UTF-8"),
    (struct.pack("<I", 1) + entry(b"k", b"\xf4\x90\x80\x80"), "metadata entry 0 value is not UTF-8"),
    (struct.pack("<I", 1) + entry(b"k", b"\xe2\x82"), "metadata entry 0 value is not UTF-8"),
]


@pytest.mark.parametrize(("section", "pattern"), METADATA_CHANGES, ids=lambda v: str(v)[-30:])
def test_metadata(refuses: Callable[..., None], tiny: bytes, section: bytes, pattern: str) -> None:
    refuses(replace_metadata(parse(tiny), section), pattern)


def test_metadata_that_would_move_a_cursor(binary: Path, tmp_path: Path, shipped_model: Path) -> None:
    path = tmp_path / "m.pcpu"
    path.write_bytes(
        replace_metadata(
            parse(shipped_model.read_bytes()),
            struct.pack("<I", 1) + entry(b"source", b"a\x1b[2J\nweights q4\x7f \xc3\xa9"),
        )
    )
    found = subprocess.run([binary, "info", path], capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert "source" in found and found.count("a\\x1b[2J\\x0aweights q4\\x7f é\n") == 1


@pytest.mark.parametrize("config", ["[]", "3", "{", '{"eos_token_id": [0, "x"]}'])
def test_a_damaged_config(binary: Path, tmp_path: Path, shipped_model: Path, config: str) -> None:
    path = tmp_path / "m.pcpu"
    metadata = struct.pack("<I", 1) + entry(b"config", config.encode())
    path.write_bytes(replace_metadata(parse(shipped_model.read_bytes()), metadata))
    found = subprocess.run([binary, "generate", "-m", path, "x"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith(f"pythia-cpu: {path}: metadata config is not the text of a config.json (")
    assert found.stderr.endswith("); convert the checkpoint again\n") and found.stderr.count("\n") == 1


def test_metadata_of_every_size_of_character(tmp_path: Path, tiny: bytes) -> None:
    text = "a\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"
    path = tmp_path / "unicode.pcpu"
    path.write_bytes(replace_metadata(parse(tiny), struct.pack("<I", 1) + entry(text.encode(), b"")))
    assert _core.PcpuFile.open(str(path)).metadata == {text: ""}
