"""What scripts call of a torch module around inference."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

import numpy as np

from pythia_cpu._model import Model
from pythia_cpu._tensor_names import EMBEDDING, HEAD
from pythia_cpu.hf._weights import fixed_array, fixed_tensor

_FLOATS = "float32", "float16", "bfloat16"
_Module = TypeVar("_Module", bound="TorchModule")


class TorchModule:
    """Names of ``torch.nn.Module`` for a model that runs on the CPU, in float32, and is not trained."""

    model: Model
    training = False

    @property
    def device(self) -> Any:
        """The CPU: torch's device if torch is imported, else "cpu"."""
        torch = sys.modules.get("torch")
        return "cpu" if torch is None else torch.device("cpu")

    @property
    def dtype(self) -> Any:
        """What it calculates in: float32, torch's if torch is imported, else numpy's."""
        torch = sys.modules.get("torch")
        return np.dtype(np.float32) if torch is None else torch.float32

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """Names and values of the weights, as in ``model.tensors``: float32; torch tensors if torch is imported, else
        arrays. Attempts to change them raise ValueError, because the model would stay as it is. A tied head is not
        there again.
        """
        convert = fixed_array if "torch" not in sys.modules else fixed_tensor
        for name, value in self.model.tensors.items():
            if name != HEAD or not self.model.config["tie_word_embeddings"]:
                yield name, convert(value)

    def parameters(self) -> Iterator[Any]:
        """The values of ``named_parameters``."""
        return (value for _, value in self.named_parameters())

    def state_dict(self) -> dict[str, Any]:
        """``named_parameters`` as a dict, all in memory."""
        return dict(self.named_parameters())

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many parameters the checkpoint has, with or without the input embeddings; all count as trainable."""
        tensors = [tensor for tensor in self.model._file.tensors if not tensor["derived"]]
        left_out = {EMBEDDING} if exclude_embeddings else set()
        return sum(tensor["rows"] * tensor["cols"] for tensor in tensors if tensor["name"] not in left_out)

    def eval(self: _Module) -> _Module:
        """Itself: there is no training mode."""
        return self

    def train(self: _Module, mode: bool = True) -> _Module:
        """Itself, for ``train(False)``. Raises ValueError for another mode."""
        if mode:
            raise ValueError("train() is called, but pythia_cpu is for inference only: use eval()")
        return self

    def requires_grad_(self: _Module, requires_grad: bool = True) -> _Module:
        """Itself, for ``requires_grad_(False)``: there are no gradients. Raises ValueError for True."""
        if requires_grad:
            raise ValueError("requires_grad_() is called, but pythia_cpu has no gradients: use requires_grad_(False)")
        return self

    def cpu(self: _Module) -> _Module:
        """Itself: everything is on the CPU."""
        return self

    def float(self: _Module) -> _Module:
        """Itself: calculations are in float32."""
        return self

    def to(self: _Module, device: object = "cpu", dtype: object = None, **others: object) -> _Module:
        """Itself: everything is on the CPU, and calculations are in float32 whatever the dtype, which is more exact
        than fewer bits. Raises ValueError for another device or dtype.
        """
        for wanted in (device, dtype):
            if str(wanted).removeprefix("torch.") not in ("cpu", "cpu:0", "None", *_FLOATS):
                self._refuse(f"to is given {str(wanted)!r}")
        return self

    def half(self: _Module) -> _Module:
        """Itself: as ``to``."""
        return self

    def bfloat16(self: _Module) -> _Module:
        """Itself: as ``to``."""
        return self

    def cuda(self, device: object = None) -> NoReturn:
        """Raises ValueError: there is the CPU only."""
        self._refuse("cuda() is called")

    @staticmethod
    def _refuse(what: str) -> NoReturn:
        raise ValueError(
            f"{what}, but pythia_cpu runs on the CPU, in float32: use 'cpu', and for weights that are stored in fewer "
            "bits from_pretrained's dtype or weights"
        )
