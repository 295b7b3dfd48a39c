"""Nothing in a PyTorch .bin file can run code, reach outside its own bytes, or blow up."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pythia_cpu import CheckpointError
from pythia_cpu._torch_bin import TorchFile
from torch_files import (
    HALF,
    ORDERED_DICT,
    REBUILD,
    number,
    numbers,
    refused,
    state_pickle,
    storage,
    tensor,
    text,
    torch_zip,
)


def test_a_file_made_by_hand(tmp_path: Path) -> None:
    file = TorchFile(torch_zip(tmp_path / "t.bin", state_pickle(a=tensor())))
    assert file.tensors["a"].shape == (2, 3)
    assert file.read("a", 1, 3) == bytes(range(2, 6))


class _Runs:
    """Pickles as a call of a function: what a hostile file does."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def canary(path: str) -> None:
    """Leaves a mark if it is ever run."""
    Path(path).write_text("executed")


def hostile_pickles(mark: str) -> dict[str, tuple[bytes, str]]:
    """Name -> (pickle, what the error must name)."""
    import os

    def dumped(value: Any, protocol: int = 2) -> bytes:
        return pickle.dumps(value, protocol)

    command = f"touch {mark}"
    touch = b"(" + text(command) + b"tR"
    allowed = state_pickle(a=tensor())[:-1]
    return {
        "os.system": (dumped(_Runs(os.system, command)), r"imports (posix|os)\.system"),
        "os.system, protocol 4": (dumped(_Runs(os.system, command), 4), r"imports (posix|os)\.system"),
        "os.system, protocol 0": (dumped(_Runs(os.system, command), 0), "imports|uses the instruction"),
        "eval": (dumped(_Runs(eval, f"open({mark!r}, 'w')")), r"imports (__builtin__|builtins)\.eval"),
        "own function": (dumped(_Runs(canary, mark)), r"imports test_torch_hostile\.canary"),
        "nested": (dumped({"a": [_Runs(list, _Runs(os.system, command))]}), "imports"),
        "inside a state dict": (
            allowed + b"(" + text("b") + b"cposix\nsystem\n" + touch + b"u.",
            r"imports posix\.system",
        ),
        "dotted name": (
            b"\x80\x04" + text("os") + text("path.os.system") + b"\x93" + touch + b".",
            r"imports os\.path",
        ),
        "attribute of an allowed name": (
            b"\x80\x04" + text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93.",
            r"imports collections\.OrderedDict\.__init__",
        ),
        "torch's own loader": (b"\x80\x02ctorch\nload\n(" + text(mark) + b"tR.", r"imports torch\.load"),
        "getattr": (
            b"\x80\x02cbuiltins\ngetattr\n(" + ORDERED_DICT + text("fromkeys") + b"tR.",
            "imports builtins.getattr",
        ),
        "call of a storage": (b"\x80\x02" + HALF + b"(K\x01tR.", r"calls torch\.HalfStorage with 1 arguments"),
        "call of a storage without arguments": (
            b"\x80\x02" + HALF + b")R.",
            r"calls torch\.HalfStorage with 0 arguments",
        ),
        "call of a string": (b"\x80\x02" + text("system") + touch + b".", "calls an object"),
        "call of a call's result": (b"\x80\x02" + ORDERED_DICT + b")R" + touch + b".", "calls an object"),
        "memo trick": (
            b"\x80\x02" + ORDERED_DICT + b"q\x00cposix\nsystem\nq\x00h\x00)R.",
            r"imports posix\.system",
        ),
        "memo as function": (b"\x80\x02" + text("posix") + b"q\x00h\x00" + touch + b".", "calls an object"),
        "build with state": (
            b"\x80\x02" + ORDERED_DICT + b"}" + text("__setstate__") + text("x") + b"sb.",
            "sets the state of an object",
        ),
        "build on a tensor": (b"\x80\x02" + tensor() + b"}b.", "sets the state of an object"),
        "build with slots": (b"\x80\x02})}" + text("x") + b"K\x01s\x86b.", "sets the state of an object"),
        "instance": (b"\x80\x02(" + text(command) + b"iposix\nsystem\n.", "uses the instruction INST"),
        "object": (b"\x80\x02(cposix\nsystem\n" + text(command) + b"o.", r"imports posix\.system"),
        "object of an allowed name": (b"\x80\x02(" + ORDERED_DICT + b"o.", "uses the instruction OBJ"),
        "newobj": (b"\x80\x02" + ORDERED_DICT + b")\x81.", "uses the instruction NEWOBJ"),
        "newobj_ex": (b"\x80\x04" + ORDERED_DICT + b")}\x92.", "uses the instruction NEWOBJ_EX"),
        "extension registry": (b"\x80\x02\x82\x01.", "uses the instruction EXT1"),
        "text persistent id": (b"\x80\x02Pstorage\n.", "uses the instruction PERSID"),
        "persistent id of another kind": (b"\x80\x02(" + text("module") + text(mark) + b"tQ.", "not a storage"),
        "persistent id of five things": (
            b"\x80\x02(" + text("module") + HALF + text("0") + text("cpu") + b"K\x06tQ.",
            "not a storage",
        ),
        "storage of no type": (b"\x80\x02" + storage(kind=text("HalfStorage")) + b".", "a storage of no known type"),
        "storage of a function": (b"\x80\x02" + storage(kind=REBUILD) + b".", "a storage of no known type"),
        "ordered dict of a call": (b"\x80\x02" + ORDERED_DICT + b"(K\x01tR.", "with 1 arguments"),
        "bytes": (b"\x80\x04C\x01x.", "uses the instruction SHORT_BINBYTES"),
        "eval'd string": (b"\x80\x02S'x'\n.", "uses the instruction STRING"),
        "out of band": (b"\x80\x05\x97.", "uses the instruction NEXT_BUFFER"),
    }


@pytest.mark.parametrize("name", hostile_pickles("x"))
@pytest.mark.parametrize("container", ["zip", "bare", "legacy"])
def test_hostile_pickles_run_nothing(tmp_path: Path, name: str, container: str) -> None:
    mark = tmp_path / "mark"
    data, pattern = hostile_pickles(str(mark))[name]
    path = tmp_path / "t.bin"
    if container == "zip":
        torch_zip(path, data)
    elif container == "bare":
        path.write_bytes(data)
        if data[:2] != b"\x80\x02":
            pattern = "begins with .*, expected a torch file"
    else:
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}]
        path.write_bytes(b"".join(pickle.dumps(value, 2) for value in head) + data)
    refused(path, pattern)
    assert not mark.exists()


DAMAGED_PICKLES: dict[str, bytes] = {
    "empty": b"",
    "no stop": b"\x80\x02}",
    "stop on nothing": b"\x80\x02.",
    "mark on top": b"\x80\x02(.",
    "tuple without mark": b"\x80\x02t.",
    "unknown memo": b"\x80\x02h\x05.",
    "unknown opcode": b"\x80\x02\xff.",
    "cut string": b"\x80\x02X\xff\x00\x00\x00abc",
    "huge string": b"\x80\x02X\xff\xff\xff\xffabc.",
    "string that is not UTF-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "append to a dict": b"\x80\x02}K\x01a.",
    "items of a list": b"\x80\x02](K\x01K\x02u.",
    "odd items": b"\x80\x02}(K\x01u.",
    "unhashable key": b"\x80\x02}]K\x01s.",
    "reduce without arguments": b"\x80\x02R.",
    "name of one part": b"\x80\x02ctorch\n",
    "name of no string": b"\x80\x04K\x01K\x02\x93.",
    "tensor of no storage": b"\x80\x02" + tensor(of=text("x")) + b".",
    "tensor of two arguments": b"\x80\x02" + REBUILD + b"(K\x01K\x02tR.",
    "tensor of five arguments": b"\x80\x02" + tensor()[: -len(ORDERED_DICT) - 4] + b"tR.",
    "tensor of eight arguments": b"\x80\x02" + tensor()[:-2] + b"NNtR.",
    "strides in a list": b"\x80\x02" + REBUILD + b"(" + storage() + number(0) + numbers((2,)) + b"](K\x01e\x89NtR.",
    "size that is a bool": b"\x80\x02"
    + REBUILD
    + b"("
    + storage()
    + number(0)
    + b"(\x88t"
    + numbers((1,))
    + b"\x89NtR.",
}


@pytest.mark.parametrize("data", DAMAGED_PICKLES.values(), ids=DAMAGED_PICKLES)
def test_damaged_pickles(tmp_path: Path, data: bytes) -> None:
    refused(torch_zip(tmp_path / "t.bin", data), "its pickle")


def test_a_self_containing_pickle_is_harmless(tmp_path: Path) -> None:
    refused(torch_zip(tmp_path / "t.bin", b"\x80\x02}q\x00" + text("a") + b"h\x00s."), "its entry 'a' is not a tensor")


VIEWS: dict[str, tuple[bytes, str]] = {
    "beyond the storage": (tensor(1), r"offset 1 does not fit in its storage of 6 elements"),
    "strides too long": (tensor(0, (2, 3), (4, 1)), "does not fit in its storage"),
    "huge stride": (tensor(0, (2, 3), (2**47, 1)), "does not fit in its storage"),
    "stride that overflows": (tensor(0, (2, 3), (2**63, 1)), "its pickle is damaged .*strides"),
    "negative stride": (tensor(5, (2, 3), (-3, 1)), "its pickle is damaged .*strides"),
    "negative offset": (tensor(-1), "its pickle is damaged .*offset -1"),
    "negative shape": (tensor(0, (-2, -3)), "its pickle is damaged .*shape"),
    "expanded bomb": (tensor(0, (2**40,), (0,)), "has more elements than its storage"),
    "overlapping rows": (tensor(0, (4, 3), (1, 1)), "has more elements than its storage"),
    "shape that overflows": (tensor(0, (2**40, 2**40), (0, 0)), "has more elements than its storage"),
    "ranks that differ": (tensor(0, (2, 3), (1,)), "shape and strides do not belong together"),
    "nine dimensions": (tensor(0, (1,) * 9, (1,) * 9), "shape and strides do not belong together"),
    "larger storage than stored": (tensor(of=storage(count=7)), "storage '0' has 12 bytes, expected 14"),
    "smaller storage than stored": (tensor(of=storage(count=5)), "storage '0' has 12 bytes, expected 10"),
    "other dtype than stored": (tensor(of=storage(kind=b"ctorch\nFloatStorage\n")), "has 12 bytes, expected 24"),
    "missing storage": (tensor(of=storage("1")), "storage '1' is missing"),
    "storage outside": (tensor(of=storage("../version")), "is missing"),
    "entry that is no storage": (tensor(0, (1,), (1,), of=storage("archive/version", count=1)), "is missing"),
    "negative storage": (tensor(of=storage(count=-1)), "its pickle is damaged .*-1 elements"),
}


@pytest.mark.parametrize(("view", "pattern"), VIEWS.values(), ids=VIEWS)
def test_views_that_do_not_fit(tmp_path: Path, view: bytes, pattern: str) -> None:
    refused(torch_zip(tmp_path / "t.bin", state_pickle(a=view)), pattern)


def test_one_storage_of_two_types(tmp_path: Path) -> None:
    as_bytes = tensor(0, (12,), (1,), of=storage(count=12, kind=b"ctorch\nByteStorage\n"))
    refused(
        torch_zip(tmp_path / "t.bin", state_pickle(a=tensor(), b=as_bytes)), "storage '0' is used as two different ones"
    )


# Archives


def test_truncated_files(tmp_path: Path) -> None:
    data = torch_zip(tmp_path / "t.bin", state_pickle(a=tensor())).read_bytes()
    for length in range(len(data)):
        (tmp_path / "t.bin").write_bytes(data[:length])
        refused(tmp_path / "t.bin", "zip archive|begins with")


def test_truncated_legacy_files(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "t.bin"
    torch.save({"a": torch.ones(3), "b": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert set(TorchFile(path).tensors) == {"a", "b"}
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refused(path, "pickle|begins with|ends before its storages|machine")
    path.write_bytes(data + b"x")
    refused(path, "goes on after its last storage")


def test_flipped_bytes_give_errors_or_the_same_tensors(tmp_path: Path) -> None:
    """Storages carry no checksum that is read, so a flipped byte may change values; it may never do more than that."""
    data = torch_zip(tmp_path / "t.bin", state_pickle(a=tensor())).read_bytes()
    path = tmp_path / "t.bin"
    for position in range(len(data)):
        for bit in (0, 4, 7):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            try:
                file = TorchFile(path)
            except CheckpointError as error:
                assert str(error).startswith(f"{path}: ")
                continue
            for name, info in file.tensors.items():
                assert len(file.read(name, 0, info.num_elements)) == info.size_bytes <= 12
            file.close()


def patched(change: Callable[[bytearray, int], None]) -> bytes:
    """A valid file with its central directory changed: change(data, offset of the storage's directory entry)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", state_pickle(a=tensor()))
        archive.writestr("archive/data/0", bytes(12))
    data = bytearray(buffer.getvalue())
    entry = data.rindex(b"PK\x01\x02")
    change(data, entry)
    return bytes(data)


def put(offset: int, value: int, size: int = 4) -> Callable[[bytearray, int], None]:
    def change(data: bytearray, entry: int) -> None:
        data[entry + offset : entry + offset + size] = value.to_bytes(size, "little")

    return change


ARCHIVES: dict[str, tuple[bytes, str]] = {
    "beyond the end": (patched(put(42, 2**31)), "lies beyond the end"),
    "larger than the file": (patched(lambda d, e: (put(20, 10**6)(d, e), put(24, 10**6)(d, e))), "lies beyond the end"),
    "size of a bomb": (patched(put(24, 2**32 - 2)), "is compressed or encrypted"),
    "encrypted": (patched(put(8, 1, 2)), "is compressed or encrypted"),
    "deflated by name": (patched(put(10, 8, 2)), "is compressed or encrypted"),
    "no entry where one is said to be": (patched(lambda d, _: put(d.index(b"PK", 4), 0)(d, 0)), "is damaged"),
    "two entries, one place": (patched(put(42, 0)), "overlap"),
}


@pytest.mark.parametrize(("data", "pattern"), ARCHIVES.values(), ids=ARCHIVES)
def test_bad_archives(tmp_path: Path, data: bytes, pattern: str) -> None:
    (tmp_path / "t.bin").write_bytes(data)
    refused(tmp_path / "t.bin", pattern)


def test_zip_bombs_are_not_unpacked(tmp_path: Path) -> None:
    bomb = {"0": bytes(50_000_000)}
    data = state_pickle(a=tensor(of=storage(count=25_000_000), shape=(25_000_000,), strides=(1,)))
    path = torch_zip(tmp_path / "t.bin", data, bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    refused(path, "is compressed or encrypted, which torch never does")


def test_archives_of_other_things(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "has 0 entries <name>/data.pkl, expected one")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", state_pickle())
        archive.writestr("b/data.pkl", state_pickle())
    refused(path, "has 2 entries <name>/data.pkl")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", state_pickle())
        archive.writestr("a/data.pkl", state_pickle())
    refused(path, "names an entry twice")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", state_pickle())
        archive.writestr("a/byteorder", "big")
    refused(path, "little-endian")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refused(path, "begins with b'vers', expected a torch file")
    path.write_bytes(pickle.dumps(OrderedDict(), 2))
    refused(path, "it is a pickle that torch did not write")
