"""Torch files made by hand, instruction by instruction, for tests of what is refused."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pythia_cpu import CheckpointError
from pythia_cpu._torch_bin import TorchFile

HALF = b"ctorch\nHalfStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED_DICT = b"ccollections\nOrderedDict\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", count: int = 6, kind: bytes = HALF) -> bytes:
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(
    offset: int = 0,
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (3, 1),
    *,
    of: bytes | None = None,
) -> bytes:
    view = number(offset) + numbers(shape) + numbers(strides)
    return REBUILD + b"(" + (storage() if of is None else of) + view + b"\x89" + ORDERED_DICT + b")RtR"


def state_pickle(**tensors: bytes) -> bytes:
    """The pickle of a dict of tensors."""
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in tensors.items()) + b"u."


def torch_zip(path: Path, data: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> Path:
    storages = {"0": bytes(range(12))} if storages is None else storages
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")
    return path


def refused(path: Path, pattern: str) -> None:
    with pytest.raises(CheckpointError, match=pattern) as caught:
        TorchFile(path)
    assert str(caught.value).startswith(f"{path}: ")
