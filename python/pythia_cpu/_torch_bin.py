"""Reads ``pytorch_model.bin`` files without torch: a zip archive of a pickle and storages, or torch 1.5's stream."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pythia_cpu._errors import CheckpointError
from pythia_cpu._pickle_machine import StorageRef, TensorRef, load_pickle
from pythia_cpu._tensor_file import DTYPE_SIZES, FileBytes, TensorInfo

_ZIP_MAGIC = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30
_PICKLE_MAGIC = b"\x80\x02"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


class TorchFile:
    """One torch file; its pickle is interpreted by _pickle_machine, its storages are read when asked for.

    Raises:
        CheckpointError: not a torch file, damaged, or one that would run code in Python's unpickler.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, interprets its pickle and checks what that says of every tensor."""
        self.path = path
        self._file = FileBytes(path)
        try:
            with path.open("rb") as stream:
                magic = stream.read(4)
                stream.seek(0)
                if magic == _ZIP_MAGIC:
                    state, storages = self._read_zip(stream)
                elif magic[:2] == _PICKLE_MAGIC:
                    state, storages = self._read_legacy(stream)
                else:
                    raise self._fail(f"begins with {magic!r}, expected a torch file")
            self._refs = self._check_state(state)
            self._storages = self._check_storages(storages)
            self.tensors = {name: self._check_view(name, ref) for name, ref in self._refs.items()}
        except BaseException:
            self._file.close()
            raise

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Elements [begin, end) of a tensor in row-major order, as stored."""
        ref, info = self._refs[name], self.tensors[name]
        size = DTYPE_SIZES[info.dtype]
        start, _ = self._storages[ref.storage.key]
        if end <= begin:
            return b""
        if ref.strides == _contiguous_strides(ref):
            return self._file.read(start + (ref.offset + begin) * size, (end - begin) * size)
        row_elements = math.prod(ref.shape[1:])
        first, last = begin // row_elements, -(-end // row_elements)
        shape = (last - first, *ref.shape[1:])
        extent = 1 + sum((n - 1) * stride for n, stride in zip(shape, ref.strides, strict=True))
        data = self._file.read(start + (ref.offset + first * ref.strides[0]) * size, extent * size)
        rows: np.ndarray[Any, np.dtype[Any]] = np.ndarray(
            shape, f"V{size}", data, strides=[s * size for s in ref.strides]
        )
        return rows.reshape(-1)[begin - first * row_elements : end - first * row_elements].tobytes()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _fail(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {problem}; download the file again, or use safetensors weights")

    def _read_zip(self, stream: BinaryIO) -> tuple[Any, dict[str, tuple[int, int]]]:
        """The pickle and each storage's byte range, from a zip archive whose entries must be stored uncompressed."""
        try:
            archive = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise self._fail(f"its zip archive cannot be read ({error})") from None
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise self._fail("its zip archive names an entry twice")
        ranges = {name: self._entry_range(entry) for name, entry in entries.items()}
        position, last = 0, "the beginning"
        for start, size, name in sorted((start, size, name) for name, (start, size) in ranges.items()):
            if start < position:
                raise self._fail(f"entries {last} and {name} of its zip archive overlap")
            position, last = start + size, name

        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise self._fail(f"its zip archive has {len(pickles)} entries <name>/data.pkl, expected one")
        root = pickles[0].removesuffix("data.pkl")
        byte_order = ranges.get(f"{root}byteorder")
        if byte_order is not None and self._file.read(byte_order[0], min(byte_order[1], 16)) != b"little":
            raise self._fail("it was not saved on a little-endian machine, which is not supported")
        start, size = ranges[pickles[0]]
        stream.seek(start)
        state = load_pickle(stream, str(self.path))
        if stream.tell() > start + size:
            raise self._fail("its pickle is longer than its entry in the zip archive")
        prefix = f"{root}data/"
        return state, {name.removeprefix(prefix): r for name, r in ranges.items() if name.startswith(prefix)}

    def _entry_range(self, entry: zipfile.ZipInfo) -> tuple[int, int]:
        """Start and size in bytes of an entry's data, from its local header."""
        name = entry.filename
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise self._fail(f"entry {name} of its zip archive is compressed or encrypted, which torch never does")
        try:
            header = self._file.read(entry.header_offset, _LOCAL_HEADER_BYTES)
        except (OverflowError, OSError):
            raise self._fail(f"entry {name} of its zip archive lies beyond the end of the file") from None
        name_size, extra_size = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        start = entry.header_offset + _LOCAL_HEADER_BYTES + name_size + extra_size
        if header[:4] != _ZIP_MAGIC or start + entry.file_size > self._file.size_bytes:
            raise self._fail(f"entry {name} of its zip archive is damaged or lies beyond the end of the file")
        return start, entry.file_size

    def _read_legacy(self, stream: BinaryIO) -> tuple[Any, dict[str, tuple[int, int]]]:
        """What torch before 1.6 wrote: pickles of magic, version, machine, state, storage keys; then the storages."""
        where = str(self.path)
        if load_pickle(stream, where) != _LEGACY_MAGIC or load_pickle(stream, where) != _LEGACY_PROTOCOL:
            raise self._fail("it is a pickle that torch did not write")
        machine = load_pickle(stream, where)
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise self._fail("it was not saved on a little-endian machine, which is not supported")
        state = load_pickle(stream, where)
        keys = load_pickle(stream, where)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise self._fail("its list of storages is damaged")
        sizes = {ref.storage.key: DTYPE_SIZES[ref.storage.dtype] for ref in self._check_state(state).values()}
        storages: dict[str, tuple[int, int]] = {}
        position = stream.tell()
        for key in keys:
            if key not in sizes or key in storages:
                raise self._fail(f"its list of storages names '{key}', which no tensor uses, or names it twice")
            if position + 8 > self._file.size_bytes:
                raise self._fail("it ends before its storages do")
            size = int.from_bytes(self._file.read(position, 8), "little") * sizes[key]
            if size > self._file.size_bytes - position - 8:
                raise self._fail("it ends before its storages do")
            storages[key] = (position + 8, size)
            position += 8 + size
        if position != self._file.size_bytes:
            raise self._fail("it goes on after its last storage")
        return state, storages

    def _check_state(self, state: Any) -> dict[str, TensorRef]:
        if not isinstance(state, dict):
            raise self._fail(f"holds a {type(state).__name__}, expected a dict of tensors")
        for name, value in state.items():
            if not isinstance(name, str) or not isinstance(value, TensorRef):
                raise self._fail(f"its entry {name!r} is not a tensor")
        return state

    def _check_storages(self, storages: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """Every storage that a tensor uses is there, of one dtype, and of the size the pickle says."""
        used: dict[str, StorageRef] = {}
        for ref in self._refs.values():
            storage = ref.storage
            if used.setdefault(storage.key, storage) != storage:
                raise self._fail(f"storage '{storage.key}' is used as two different ones")
            if storage.key not in storages:
                raise self._fail(f"storage '{storage.key}' is missing")
            found, expected = storages[storage.key][1], storage.num_elements * DTYPE_SIZES[storage.dtype]
            if found != expected:
                raise self._fail(f"storage '{storage.key}' has {found} bytes, expected {expected}")
        return storages

    def _check_view(self, name: str, ref: TensorRef) -> TensorInfo:
        info = TensorInfo(ref.storage.dtype, ref.shape)
        extent = 1 + sum((n - 1) * stride for n, stride in zip(ref.shape, ref.strides, strict=True))
        if info.num_elements and ref.offset + extent > ref.storage.num_elements:
            raise self._fail(
                f"tensor '{name}' of shape {list(ref.shape)}, strides {list(ref.strides)} and offset {ref.offset} "
                f"does not fit in its storage of {ref.storage.num_elements} elements"
            )
        if info.num_elements > ref.storage.num_elements:
            raise self._fail(f"tensor '{name}' of shape {list(ref.shape)} has more elements than its storage")
        return info


def _contiguous_strides(ref: TensorRef) -> tuple[int, ...]:
    """The strides of a row-major tensor; those of dimensions of size 1 are free, and kept as they are."""
    strides: list[int] = []
    step = 1
    for size, stride in zip(reversed(ref.shape), reversed(ref.strides), strict=True):
        strides.append(stride if size == 1 else step)
        step *= size
    return tuple(reversed(strides))
