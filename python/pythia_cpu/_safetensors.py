"""Reads ``.safetensors`` files: a JSON header of names, dtypes, shapes and offsets, then the bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pythia_cpu._errors import CheckpointError
from pythia_cpu._json import read_json
from pythia_cpu._tensor_file import DTYPE_SIZES, MAX_TENSOR_BYTES, FileBytes, TensorInfo

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


class SafetensorsFile:
    """One safetensors file, its header fully checked; tensor bytes are read when asked for.

    Raises:
        CheckpointError: the header is not what the format's specification says, or the file has another size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = FileBytes(path)
        try:
            self.tensors, self._offsets = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Elements [begin, end) of a tensor, as stored."""
        size = DTYPE_SIZES[self.tensors[name].dtype]
        return self._file.read(self._offsets[name] + begin * size, (end - begin) * size)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _fail(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {problem}; download the file again")

    def _read_header(self) -> tuple[dict[str, TensorInfo], dict[str, int]]:
        file_size = self._file.size_bytes
        if file_size < 8:
            raise self._fail(f"has {file_size} bytes, expected a safetensors file")
        header_size = int.from_bytes(self._file.read(0, 8), "little")
        if header_size > min(_MAX_HEADER_BYTES, file_size - 8):
            raise self._fail(f"its header is said to have {header_size} bytes, the file has {file_size}")
        try:
            header = read_json(self._file.read(8, header_size))
        except ValueError as error:
            raise self._fail(f"its header is not JSON ({error})") from None
        if not isinstance(header, dict):
            raise self._fail(f"its header is a {type(header).__name__}, expected an object")
        header.pop("__metadata__", None)

        data_start = 8 + header_size
        tensors: dict[str, TensorInfo] = {}
        ranges: list[tuple[int, int, str]] = []
        for name, entry in header.items():
            info, begin, end = self._parse_entry(name, entry)
            tensors[name] = info
            ranges.append((begin, end, name))
        position = 0
        for begin, end, name in sorted(ranges):
            if begin != position:
                raise self._fail(f"tensor '{name}' begins at byte {begin} of the data, expected {position}")
            position = end
        if data_start + position != file_size:
            raise self._fail(f"has {file_size} bytes, its header describes {data_start + position}")
        return tensors, {name: data_start + begin for begin, _, name in ranges}

    def _parse_entry(self, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
        def is_size(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TENSOR_BYTES

        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise self._fail(f"tensor '{name}' has no dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise self._fail(f"tensor '{name}' has dtype {dtype!r}, expected one of {', '.join(_DTYPES)}")
        if not isinstance(shape, list) or len(shape) > 8 or not all(map(is_size, shape)):
            raise self._fail(f"tensor '{name}' has shape {shape!r}, expected a list of sizes")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_size, offsets)):
            raise self._fail(f"tensor '{name}' has data_offsets {offsets!r}, expected two byte offsets")
        info = TensorInfo(_DTYPES[dtype], tuple(shape))
        if offsets[1] - offsets[0] != info.size_bytes:
            raise self._fail(
                f"tensor '{name}' has {offsets[1] - offsets[0]} bytes, expected {info.size_bytes} for its shape"
            )
        return info, offsets[0], offsets[1]
