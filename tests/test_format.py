"""The .pcpu format: the reader refuses all that docs/format.md does not allow, and the document suffices to read it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy

from checkpoints import MINI_PYTHIA
from pcpu_file import checksum, parse, read_tensor
from pythia_cpu import FormatError, _core, load
from tiny_pcpu import CONFIG, METADATA, PANELS, TOKENIZER, refuser, tiny_bytes, write_file


@pytest.fixture
def tiny() -> bytes:
    return tiny_bytes()


@pytest.fixture
def refuses(tmp_path: Path) -> Callable[[bytes, str], None]:
    return refuser(tmp_path)


# Reading what was written


@pytest.mark.parametrize("weights", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("hidden_size", [3, 6, 33])
def test_round_trip(tmp_path: Path, weights: str, hidden_size: int) -> None:
    config = {"hidden_size": hidden_size, "rotary_ndims": 0, "num_attention_heads": 3}
    values = write_file(tmp_path / "a.pcpu", config=config, weights=weights)
    file = _core.PcpuFile.open(str(tmp_path / "a.pcpu"))
    assert file.config == {**CONFIG, **config}
    assert file.weights == weights
    assert file.fingerprint == 77
    assert file.tokenizer == TOKENIZER
    assert file.metadata == METADATA
    assert [tensor["name"] for tensor in file.tensors] == list(values)
    for name, expected in values.items():
        np.testing.assert_array_equal(file.read(name), expected)
    with pytest.raises(KeyError, match=r"no\.such"):
        file.read("no.such")


def test_same_input_gives_same_bytes(tmp_path: Path, tiny: bytes) -> None:
    write_file(tmp_path / "again.pcpu")
    assert (tmp_path / "again.pcpu").read_bytes() == tiny


def test_tied_head_is_derived(tmp_path: Path) -> None:
    write_file(tmp_path / "tied.pcpu", config={"tie_word_embeddings": True})
    tensors = _core.PcpuFile.open(str(tmp_path / "tied.pcpu")).tensors
    assert [t["name"] for t in tensors if t["derived"]] == ["embed_out.weight"]
    assert tensors[-1]["source_sha256"] == bytes(32)


def test_the_document_is_enough_to_read_the_shipped_file(shipped_model: Path) -> None:
    parsed = parse(shipped_model.read_bytes())
    source = safetensors.numpy.load_file(MINI_PYTHIA / "model.safetensors")
    names = [record["name"].rstrip(b"\0").decode() for record in parsed.records]
    assert sorted(names) == sorted(source)
    for name, record in zip(names, parsed.records, strict=True):
        values = read_tensor(parsed, record)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, source[name].astype(np.float32), err_msg=name)
        payload = parsed.data[record["offset_bytes"] : record["offset_bytes"] + record["size_bytes"]]
        if len(payload) < 200_000:
            assert checksum(bytes(payload)) == record["checksum"], name
    assert checksum(parsed.section("tensor_table")) == parsed.header["tensor_table.checksum"]
    assert checksum(bytes(parsed.data[:248])) == parsed.header["header_checksum"]
    assert parsed.metadata["source"] == "mini-pythia"
    assert parsed.metadata["revision"] == "step1800"
    assert parsed.metadata["config"] == (MINI_PYTHIA / "config.json").read_text()


@hypothesis.given(st.binary(max_size=300), st.integers(0, 10**6))
def test_checksum(data: bytes, position: int) -> None:
    expected = checksum(data)
    assert _core.checksum64(data) == expected
    assert _core.checksum64(data + b"\0") != expected
    if data:
        changed = bytearray(data)
        changed[position % len(data)] ^= 1 << position % 8
        assert _core.checksum64(bytes(changed)) != expected


# Files that are no .pcpu files


@pytest.mark.parametrize("data", [b"", b"\x89PCPU\r\n\x1a", b"x" * 255], ids=["empty", "magic alone", "255 bytes"])
def test_shorter_than_a_header(refuses: Callable[..., None], data: bytes) -> None:
    refuses(data, f"file size is {len(data)} bytes, expected at least the 256 of a header")


@pytest.mark.parametrize(
    "data",
    [bytes(4096), b"GGUF" + bytes(4096), b"PK\x03\x04" + bytes(4096), b"\x89PCPU\n\x1a" + bytes(4096)],
    ids=["zeros", "gguf", "zip", "text-mode copy"],
)
def test_foreign_files(refuses: Callable[..., None], data: bytes) -> None:
    refuses(data, r"magic is '.*', expected '\\x89PCPU\\x0d\\x0a\\x1a'; this is not a .pcpu file: make one with")


def test_missing_folder_and_pipe(tmp_path: Path, tiny: bytes) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pcpu"):
        _core.PcpuFile.open(str(tmp_path / "none.pcpu"))
    with pytest.raises(IsADirectoryError, match=f"expected a .pcpu file.*{tmp_path.name}") as caught:
        _core.PcpuFile.open(str(tmp_path))
    assert caught.value.filename == str(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="is not a regular file"):
        _core.PcpuFile.open(str(tmp_path / "pipe"))


def test_no_permission(tmp_path: Path, tiny: bytes) -> None:
    locked = tmp_path / "locked.pcpu"
    locked.write_bytes(tiny)
    locked.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything; nobody may not
    try:
        with pytest.raises(PermissionError, match=r"locked\.pcpu"):
            _core.PcpuFile.open(str(locked))
    finally:
        os.seteuid(user)


# Damage


def test_every_truncation_is_found(refuses: Callable[..., None], tiny: bytes) -> None:
    lengths = {*range(600), *range(600, len(tiny), 61), len(tiny) - 1}
    for length in sorted(lengths):
        refuses(tiny[:length], "file size is|file_size_bytes is .* it was cut off")


def test_appended_bytes_are_found(refuses: Callable[..., None], tiny: bytes) -> None:
    refuses(tiny + b"\0", "file_size_bytes is .* something was added")


def test_every_flipped_bit_is_found(tmp_path: Path, tiny: bytes) -> None:
    """All bits of the header, and one of each byte after it: payload, padding, tokenizer, metadata, table."""
    path = tmp_path / "flipped.pcpu"
    path.write_bytes(tiny)
    bits = [*range(256 * 8), *(8 * byte + byte % 8 for byte in range(256, len(tiny)))]
    with path.open("r+b", buffering=0) as file:
        for byte, bit in (divmod(bit, 8) for bit in bits):
            os.pwrite(file.fileno(), bytes([tiny[byte] ^ 1 << bit]), byte)
            with pytest.raises(FormatError, match=r"flipped\.pcpu: "):
                _core.PcpuFile.open(str(path))
            os.pwrite(file.fileno(), tiny[byte : byte + 1], byte)
    _core.PcpuFile.open(str(path))


def test_flipped_bits_of_the_shipped_model_are_found(tmp_path: Path, shipped_model: Path) -> None:
    data = bytearray(shipped_model.read_bytes())
    path = tmp_path / "flipped.pcpu"
    for bit in np.random.default_rng(1).integers(0, 8 * len(data), 100).tolist():
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(FormatError, match=r"flipped\.pcpu: "):
            _core.PcpuFile.open(str(path), 2)
        data[bit // 8] ^= 1 << bit % 8


# The writer


def test_unfinished_writers_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tensor 'gpt_neox\.layers\.0\.input_layernorm\.bias' is missing"):
        write_file(tmp_path / "a.pcpu", stop_after=2)
    writer = _core.PcpuWriter(str(tmp_path / "b.pcpu"), CONFIG, "f16")
    assert list(tmp_path.iterdir())
    del writer
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_only_by_a_complete_one(tmp_path: Path) -> None:
    path = tmp_path / "a.pcpu"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="is missing"):
        write_file(path, stop_after=1)
    assert path.read_bytes() == b"precious"
    write_file(path)
    _core.PcpuFile.open(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["a.pcpu"]


def test_an_open_file_survives_its_replacement(tmp_path: Path) -> None:
    path = tmp_path / "a.pcpu"
    values = write_file(path)
    file = _core.PcpuFile.open(str(path))
    write_file(path, seed=1)
    np.testing.assert_array_equal(file.read("embed_out.weight"), values["embed_out.weight"])


def test_writer_refuses_wrong_calls(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pcpu")
    sha256 = bytes(32)
    with pytest.raises(ValueError, match=r"vocab_size is 0, expected 1\.\.16777216"):
        _core.PcpuWriter(path, {**CONFIG, "vocab_size": 0}, "f16")
    with pytest.raises(ValueError, match="weights is 'f8', expected one of f32, f16"):
        _core.PcpuWriter(path, CONFIG, "f8")
    with pytest.raises(FileNotFoundError, match=r"none/a\.pcpu"):
        _core.PcpuWriter(str(tmp_path / "none" / "a.pcpu"), CONFIG, "f16")
    with pytest.raises(IsADirectoryError):
        _core.PcpuWriter(str(tmp_path), CONFIG, "f16")
    with _core.PcpuWriter(path, CONFIG, "f16") as writer:
        with pytest.raises(ValueError, match=r"tensor 0 is 'embed_out.weight', expected 'gpt_neox.embed_in.weight'"):
            writer.begin_tensor("embed_out.weight", "f16", "f16")
        with pytest.raises(ValueError, match="has layout rows, which cannot be stored as q8"):
            writer.begin_tensor("gpt_neox.embed_in.weight", "q8", "f16")
        with pytest.raises(ValueError, match="source dtype"):
            writer.begin_tensor("gpt_neox.embed_in.weight", "f16", "q8")
        with pytest.raises(ValueError, match="no tensor has begun"):
            writer.append(b"x")
        with pytest.raises(ValueError, match="none has begun"):
            writer.end_tensor(sha256)
        writer.begin_tensor("gpt_neox.embed_in.weight", "f16", "f16")
        writer.append(bytes(200))
        with pytest.raises(ValueError, match="has 29 bytes more, expected at most 28"):
            writer.append(bytes(29))
        with pytest.raises(ValueError, match="ends 28 bytes short"):
            writer.end_tensor(sha256)
        with pytest.raises(ValueError, match="begins before the one before it has ended"):
            writer.begin_tensor("gpt_neox.layers.0.input_layernorm.weight", "f32", "f16")
        with pytest.raises(ValueError, match=r"expected 1\.\."):
            writer.set_tokenizer(b"")
        writer.discard()
        with pytest.raises(ValueError, match="finished or discarded before"):
            writer.append(b"")
    assert not list(tmp_path.iterdir())


def test_tensors_in_pieces_of_any_size(tmp_path: Path, tiny: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checksums do not depend on how the bytes came."""
    append, sizes = _core.PcpuWriter.append, itertools.cycle([1, 62, 64, 0, 3, 130, 63])

    def append_pieces(writer: _core.PcpuWriter, packed: np.ndarray) -> None:
        rest = packed.tobytes()
        while rest:
            size = next(sizes)
            append(writer, rest[:size])
            rest = rest[size:]

    monkeypatch.setattr(_core.PcpuWriter, "append", append_pieces)
    write_file(tmp_path / "a.pcpu")
    assert (tmp_path / "a.pcpu").read_bytes() == tiny


def test_writer_refuses_to_finish_too_early(tmp_path: Path) -> None:
    with _core.PcpuWriter(str(tmp_path / "a.pcpu"), CONFIG, "f32") as writer:
        for name, layout, rows, cols in _core.expected_tensors(CONFIG):
            writer.begin_tensor(name, "f32", "f32")
            writer.append(bytes(4 * cols * (-(-rows // 16) * 16 if layout == PANELS else rows)))
            if name == "embed_out.weight":
                with pytest.raises(ValueError, match=f"tensor '{name}' is missing"):
                    writer.finish()
            writer.end_tensor(bytes(32))
        with pytest.raises(ValueError, match="tensor 'another' is one more than the config has"):
            writer.begin_tensor("another", "f32", "f32")
        with pytest.raises(ValueError, match="the tokenizer is missing"):
            writer.finish()
    assert not list(tmp_path.iterdir())


def test_a_writer_that_failed_to_finish_has_discarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = _core.PcpuWriter.finish

    def fail_to_finish(writer: _core.PcpuWriter) -> None:
        monkeypatch.setenv("PYTHIA_CPU_ISA", "mmx")
        with pytest.raises(ValueError, match="mmx"):
            finish(writer, fingerprint=True)
        monkeypatch.delenv("PYTHIA_CPU_ISA")
        for call in (
            lambda: finish(writer, fingerprint=True),
            lambda: writer.set_tokenizer(b"x"),
            lambda: writer.set_metadata({}),
            lambda: writer.end_tensor(bytes(32)),
        ):
            with pytest.raises(ValueError, match="was finished or discarded before"):
                call()

    monkeypatch.setattr(_core.PcpuWriter, "finish", fail_to_finish)
    write_file(tmp_path / "a.pcpu")
    assert not list(tmp_path.iterdir())


def test_files_have_the_permissions_of_other_new_files(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o007, 0o660), (0, 0o666)):
        before = os.umask(mask)
        try:
            write_file(tmp_path / "a.pcpu")
        finally:
            os.umask(before)
        assert (tmp_path / "a.pcpu").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("text", ["[]", "3", "{", "[" * 100_000], ids=lambda v: v[:5])
def test_a_damaged_config_in_the_metadata(tmp_path: Path, text: str) -> None:
    write_file(tmp_path / "m.pcpu", metadata={"config": text})
    with pytest.raises(FormatError, match=r"m\.pcpu: metadata config is not the text of a config\.json \("):
        load(tmp_path / "m.pcpu").config  # noqa: B018
