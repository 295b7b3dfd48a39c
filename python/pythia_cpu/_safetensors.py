"""Reads ``.safetensors`` files: the safetensors library checks them, their bytes are read here, bfloat16 too."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from pythia_cpu._errors import CheckpointError
from pythia_cpu._json import read_json
from pythia_cpu._tensor_file import DTYPE_SIZES, FileBytes, TensorInfo

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

    The library's own tensors are numpy's, which has no bfloat16, so what it says of a file is used, not what it reads.

    Raises:
        CheckpointError: the file is not what the format's specification says, or has tensors of other dtypes.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file and checks its header."""
        self.path = path
        self._file = FileBytes(path)
        try:
            with safe_open(path, framework="numpy"):
                self.tensors, self._offsets = self._read_header()
        except CheckpointError:
            self._file.close()
            raise
        except (SafetensorError, ValueError) as error:
            self._file.close()
            raise CheckpointError(
                f"{path}: has {self._file.size_bytes} bytes, expected a whole safetensors file ({error}); download the "
                "file again"
            ) from None
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

    # Of a file that has been checked: its header's size (8 bytes), the header (JSON), the tensors.
    def _read_header(self) -> tuple[dict[str, TensorInfo], dict[str, int]]:
        """Tensors by name, and where in the file each begins, in bytes."""
        size = int.from_bytes(self._file.read(0, 8), "little")
        header = read_json(self._file.read(8, size))
        header.pop("__metadata__", None)
        tensors, offsets = {}, {}
        for name, entry in header.items():
            if entry["dtype"] not in _DTYPES:
                raise CheckpointError(
                    f"{self.path}: tensor '{name}' has dtype {entry['dtype']}, expected one of {', '.join(_DTYPES)}"
                )
            tensors[name] = TensorInfo(_DTYPES[entry["dtype"]], tuple(entry["shape"]))
            offsets[name] = 8 + size + entry["data_offsets"][0]
        return tensors, offsets
