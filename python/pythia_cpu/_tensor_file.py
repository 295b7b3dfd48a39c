"""What the readers of the weight file layouts have in common: lazily read tensors, by name."""

from __future__ import annotations

import errno
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core

# dtype names as PyTorch spells them, and their sizes in bytes.
DTYPE_SIZES: dict[str, int] = {
    **dict.fromkeys(("float64", "int64"), 8),
    **dict.fromkeys(("float32", "int32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool"), 1),
}
# The dtypes that weights may have, and their names in the core.
WEIGHT_DTYPES: dict[str, str] = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's dtype (PyTorch's name), shape, and size in bytes when stored row by row."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Its size in bytes."""
        return self.num_elements * DTYPE_SIZES[self.dtype]


class TensorFile(Protocol):
    """One file of tensors, open for reading."""

    path: Path
    tensors: dict[str, TensorInfo]

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Elements [begin, end) of a tensor in row-major order, as stored, little-endian."""

    def close(self) -> None:
        """Closes the file; tensors that were read stay valid."""


class FileBytes:
    """Positioned reads of a file, safe from several threads."""

    def __init__(self, path: Path) -> None:
        """Opens the file. Raises OSError."""
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size_bytes = os.fstat(self._fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``offset``; OSError if the file ends before, cut off since it was opened."""
        if self._fd < 0:
            raise ValueError(f"{self.path}: is closed: open the checkpoint again")
        pieces, missing = [], size
        while missing:
            piece = os.pread(self._fd, min(missing, 1 << 30), offset + size - missing)
            if not piece:
                problem = f"ends before byte {offset + size}; do not change a checkpoint while it is read"
                raise OSError(errno.EIO, problem, str(self.path))
            pieces.append(piece)
            missing -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __reduce__(self) -> tuple[type[FileBytes], tuple[Path]]:
        """A copy opens the file for itself: it would close the descriptor under the others."""
        return FileBytes, (Path(os.path.abspath(self.path)),)

    def close(self) -> None:
        """Closes the file; more often than once is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        """Closes a file that nobody has closed."""
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def to_numpy(info: TensorInfo, data: bytes) -> npt.NDArray[Any]:
    """A tensor's bytes as a writable array; bfloat16, which numpy lacks, becomes float32 of the same values."""
    if info.dtype == "bfloat16":
        return _core.convert_elements(data, "bf16", "f32").view(np.float32).reshape(info.shape)
    return np.frombuffer(bytearray(data), dtype=info.dtype).reshape(info.shape)
