"""A reader of .pcpu files in plain Python, written from docs/format.md alone: an independent witness of the format."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

HEADER = struct.Struct("<8sIIQ 3Q3Q3Q3Q 11I2iI 2dQ 48sQ")
RECORD = struct.Struct("<80s4I5Q32s8s")
MAGIC = b"\x89PCPU\r\n\x1a"
FORMATS = ("f32", "f16", "bf16", "q8", "q4")
LAYOUTS = ("vector", "rows", "panels")
Q4_LEVELS = np.array([-127, -100, -78, -62, -47, -34, -21, -9, 2, 13, 25, 36, 50, 65, 83, 106], np.float32)
SECTIONS = ("payload", "tokenizer", "metadata", "tensor_table")
HEADER_FIELDS = (
    "magic", "version", "header_size_bytes", "file_size_bytes",
    *(f"{section}.{part}" for section in SECTIONS for part in ("offset_bytes", "size_bytes", "checksum")),
    "num_tensors", "weight_format", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size", "max_position_embeddings", "rotary_ndims", "hidden_act", "flags", "bos_token_id",
    "eos_token_id", "reserved0", "rotary_emb_base", "layer_norm_eps", "fingerprint", "reserved", "header_checksum",
)  # fmt: skip
RECORD_FIELDS = (
    "name", "layout", "format", "source_dtype", "derived", "rows", "cols", "offset_bytes", "size_bytes", "checksum",
    "source_sha256", "reserved",
)  # fmt: skip
_M, _F, _MASK = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, (1 << 64) - 1


def _mix(state: int, word: int) -> int:
    product = (state ^ word) * _M & _MASK
    return (product << 29 | product >> 35) & _MASK


def checksum(data: bytes) -> int:
    """The checksum of docs/format.md."""
    lanes = np.arange(1, 9, dtype=np.uint64) * np.uint64(_M)
    blocks = np.frombuffer(data + bytes(-len(data) % 64), dtype="<u8").reshape(-1, 8)
    with np.errstate(over="ignore"):
        for block in blocks:
            product = (lanes ^ block) * np.uint64(_M)
            lanes = product << np.uint64(29) | product >> np.uint64(35)
    h = len(data) * _M & _MASK
    for lane in lanes.tolist():
        h = _mix(h, lane)
    h = (h ^ h >> 32) * _F & _MASK
    return h ^ h >> 32


@dataclass
class ParsedFile:
    """A file taken apart; ``assemble`` puts changed parts together again, with the checksums they need."""

    data: bytearray
    header: dict[str, object]
    records: list[dict[str, object]]
    metadata: dict[str, str] = field(default_factory=dict)

    def section(self, name: str) -> bytes:
        """The bytes of a section."""
        offset, size = self.header[f"{name}.offset_bytes"], self.header[f"{name}.size_bytes"]
        return bytes(self.data[offset : offset + size])

    def assemble(self) -> bytes:
        """The file with the header and records as they are now, and checksums of both that fit."""
        data = bytearray(self.data)
        table = b"".join(RECORD.pack(*(record[name] for name in RECORD_FIELDS)) for record in self.records)
        offset = struct.unpack_from("<Q", data, 96)[0]
        data[offset : offset + len(table)] = table
        header = dict(self.header)
        if header["tensor_table.checksum"] == self.original_table_checksum:
            header["tensor_table.checksum"] = checksum(table)
        data[:256] = pack_header(header)
        return bytes(data)

    def __post_init__(self) -> None:
        self.original_table_checksum = self.header["tensor_table.checksum"]


def pack_header(header: dict[str, object]) -> bytes:
    """The header's 256 bytes, with the checksum that belongs to them."""
    packed = HEADER.pack(*(header[name] for name in HEADER_FIELDS))
    return packed[:248] + struct.pack("<Q", checksum(packed[:248]))


def parse(data: bytes) -> ParsedFile:
    """Takes a valid file apart."""
    header = dict(zip(HEADER_FIELDS, HEADER.unpack_from(data), strict=True))
    table = header["tensor_table.offset_bytes"]
    records = [
        dict(zip(RECORD_FIELDS, RECORD.unpack_from(data, table + i * RECORD.size), strict=True))
        for i in range(header["num_tensors"])
    ]
    parsed = ParsedFile(bytearray(data), header, records)
    parsed.metadata = parse_metadata(parsed.section("metadata"))
    return parsed


def parse_metadata(section: bytes) -> dict[str, str]:
    """Keys and values of the metadata section."""
    (count,) = struct.unpack_from("<I", section)
    entries, position = {}, 4
    for _ in range(count):
        key_size, value_size = struct.unpack_from("<II", section, position)
        key_end = position + 8 + key_size
        entries[section[position + 8 : key_end].decode()] = section[key_end : key_end + value_size].decode()
        position = key_end + value_size
    assert position == len(section)
    return entries


def read_tensor(parsed: ParsedFile, record: dict[str, object]) -> np.ndarray:
    """A tensor's values as float32, [cols] or [rows, cols]."""
    rows, cols, offset = record["rows"], record["cols"], record["offset_bytes"]
    data = bytes(parsed.data[offset : offset + record["size_bytes"]])
    form, layout = FORMATS[record["format"]], LAYOUTS[record["layout"]]
    if layout == "vector":
        return np.frombuffer(data, "<f4")
    if layout == "rows":
        return _elements(data, form).reshape(rows, cols)
    if form in ("q8", "q4"):
        units, multiples, levels = quantized_parts(data, form, rows, cols)
        return (units[:, None, None] * (multiples[..., None] * levels)).reshape(len(units), -1)[:rows, :cols]
    panels = -(-rows // 16)
    per_panel = len(data) // panels
    assert per_panel % 64 == 0
    values = _elements(data, form).reshape(panels, -1)[:, : cols * 16].reshape(panels, cols, 16)
    return values.transpose(0, 2, 1).reshape(panels * 16, cols)[:rows]


def quantized_parts(data: bytes, form: str, rows: int, cols: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Units [outputs], multiples [outputs, groups] and levels [outputs, groups, 32] of a quantized matrix, as float32.

    With the outputs and inputs that fill up the last panel and group.
    """
    panels, groups = -(-rows // 16), -(-cols // 32)
    panel_bytes = np.frombuffer(data, np.uint8).reshape(panels, -1)
    size = {"q8": 512, "q4": 256}[form]
    block = 64 + 4 * size
    multiple_parts = [panel_bytes[:, g // 4 * block + g % 4 * 16 :][:, :16] for g in range(groups)]
    code_parts = [panel_bytes[:, g // 4 * block + 64 + g % 4 * size :][:, :size] for g in range(groups)]
    multiples = np.stack(multiple_parts, axis=2).view({"q8": "u1", "q4": "i1"}[form]).astype(np.float32)
    codes = np.stack(code_parts, axis=1)
    if form == "q8":
        levels = codes.reshape(panels, groups, 8, 16, 4).transpose(0, 3, 1, 2, 4).astype(np.float32) - 128
    else:
        halves = codes.reshape(panels, groups, 4, 16, 4).transpose(0, 3, 1, 2, 4)
        levels = np.stack([Q4_LEVELS[halves & 15], Q4_LEVELS[halves >> 4]], axis=3)
    levels = levels.reshape(panels * 16, groups, 32)
    assert panel_bytes.shape[1] == -(-groups // 4) * 64 + groups * size + 64
    units = panel_bytes[:, -64:].copy().view("<f4")
    return units.reshape(-1), multiples.reshape(panels * 16, groups), levels


def _elements(data: bytes, form: str) -> np.ndarray:
    if form == "bf16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, {"f32": "<f4", "f16": "<f2"}[form]).astype(np.float32)
