"""Torch files that are not what they say, made pickle by pickle: those of torch before 1.6, and archives."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pythia_cpu._torch_bin import TorchFile
from torch_files import ORDERED_DICT, numbers, refused, state_pickle, storage, tensor, torch_zip

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
MACHINE = {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}
A = tensor(of=storage("k"))


def legacy(
    path: Path, *, magic: Any = MAGIC, version: Any = VERSION, machine: Any = MACHINE, state: bytes = b"",
    keys: Any = ("k",), counts: tuple[int, ...] = (6,), data: bytes = bytes(range(12)),
) -> Path:  # fmt: skip
    head = b"".join(pickle.dumps(value, 2) for value in (magic, version, machine))
    keys = pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2)
    storages = b"".join(count.to_bytes(8, "little") + data for count in counts)
    path.write_bytes(head + (state or state_pickle(a=A)) + keys + storages)
    return path


def test_a_sound_one(tmp_path: Path) -> None:
    assert TorchFile(legacy(tmp_path / "t.bin")).read("a", 1, 3) == bytes(range(2, 6))
    transposed = tensor(0, (3, 2), (1, 3), of=storage("k"))  # up to the file's last byte
    file = TorchFile(legacy(tmp_path / "t.bin", state=state_pickle(a=transposed)))
    assert file.read("a", 0, 6) == bytes([0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11])
    num_open = len(os.listdir("/proc/self/fd"))
    file.close()
    assert len(os.listdir("/proc/self/fd")) == num_open - 1


@pytest.mark.parametrize("shape", [(0,), (5, 0), (0, 5), (2, 0, 3)])
def test_tensors_without_elements(tmp_path: Path, shape: tuple[int, ...]) -> None:
    state = state_pickle(a=tensor(0, shape, (1,) * len(shape), of=storage("k", count=0)))
    old = TorchFile(legacy(tmp_path / "old.bin", state=state, counts=(0,), data=b""))
    new = TorchFile(torch_zip(tmp_path / "new.bin", state, {"k": b""}))
    for file in (old, new):
        assert file.tensors["a"].shape == shape and file.read("a", 0, 0) == b""


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"magic": 5}, "a pickle that torch did not write"),
        ({"version": 1002}, "a pickle that torch did not write"),
        ({"machine": {**MACHINE, "little_endian": False}}, "not saved on a little-endian machine"),
        ({"machine": {}}, "not saved on a little-endian machine"),
        ({"machine": [1]}, "not saved on a little-endian machine"),
        ({"keys": {"k": 1}}, "its list of storages is damaged"),
        ({"keys": (1,)}, "its list of storages is damaged"),
        ({"keys": ("k", "k")}, "names 'k', which no tensor uses, or names it twice"),
        ({"keys": ("x",)}, "names 'x', which no tensor uses"),
        ({"keys": ()}, "it goes on after its last storage"),
        ({"counts": ()}, "it ends before its storages do"),
        ({"counts": (7,)}, "it ends before its storages do"),
        ({"counts": (2**63,)}, "it ends before its storages do"),
        ({"counts": (5,)}, "it goes on after its last storage"),
        ({"counts": (6, 6)}, "it goes on after its last storage"),
        ({"state": state_pickle(a=A, b=tensor(of=storage("m")))}, "storage 'm' is missing"),
        ({"state": state_pickle(a=tensor(of=storage("k", count=5)))}, "has 12 bytes, expected 10"),
    ],
    ids=str,
)
def test_damaged_ones(tmp_path: Path, options: dict[str, Any], pattern: str) -> None:
    refused(legacy(tmp_path / "t.bin", **options), pattern)


@pytest.mark.parametrize(
    "pickled",
    [
        tensor()[:-2] + b"}tR",  # with metadata
        tensor(0, (1,) * 7 + (6,), (9,) * 7 + (1,)),
        tensor()
        .replace(numbers((3, 1)), numbers((3, 1)) + b"q\x09")
        .replace(ORDERED_DICT + b")R", b"h\x09"),  # memo of any number
    ],
)
def test_unusual_tensors(tmp_path: Path, pickled: bytes) -> None:
    file = TorchFile(torch_zip(tmp_path / "t.bin", state_pickle(a=pickled)))
    assert file.read("a", 1, 3) == bytes(range(2, 6))


def test_a_view_of_a_storage(tmp_path: Path) -> None:
    """Files of torch before 0.4 may have them."""
    whole = storage()[:-2]  # without its end, a tuple's and a persistent id's
    refused(torch_zip(tmp_path / "t.bin", state_pickle(a=tensor(of=whole + b"K\x01tQ"))), "has a view of a storage")
    assert TorchFile(torch_zip(tmp_path / "t.bin", state_pickle(a=tensor(of=whole + b"NtQ")))).tensors["a"].shape


def test_a_pickle_that_goes_on_behind_its_entry(tmp_path: Path) -> None:
    """A whole number takes up the next entry's header, and the storage's first byte is the pickle's end."""
    path = tmp_path / "t.bin"
    header_size = 30 + len("archive/data/0")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02\x8a" + bytes([header_size]))
        archive.writestr("archive/data/0", b"." * 12)
    refused(path, "its pickle is longer than its entry in the zip archive")
