"""The weights of a loaded model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._results import ByIdentity
from pythia_cpu._tensor_names import no_tensor


class Tensors(ByIdentity, Mapping[str, npt.NDArray[np.float32]]):
    """A model's weights by their names in the checkpoint; ``Model.tensors`` is one.

    An array is read from the file, and dequantized, each time it is asked for: it is the caller's own, and changing it
    does not change the model (``Checkpoint.edited`` makes one with other weights).
    """

    def __init__(self, file: _core.PcpuFile) -> None:
        """``Model`` makes these."""
        self._file = file
        self._names = {tensor["name"]: None for tensor in file.tensors}

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        """The tensor's values: float32 ``[size]`` or ``[num_outputs, num_inputs]``. Raises KeyError, which names those
        most like it.
        """
        if name not in self._names:
            raise no_tensor(name, self._names, self._file.path)
        return self._file.read(name)

    def _ipython_key_completions_(self) -> list[str]:
        """What IPython offers after ``tensors[``."""
        return list(self._names)

    def __contains__(self, name: object) -> bool:
        """Whether the model has the tensor."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """The names, in the order of the file."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._names)

    def __reduce__(self) -> NoReturn:
        """Says that it cannot be pickled or copied."""
        raise TypeError("a model's tensors cannot be pickled or copied: dict(model.tensors) has all of them in memory")

    def __repr__(self) -> str:
        """The file and how many tensors it has."""
        return f"<Tensors of {self._file.path!r}: {len(self)}>"
