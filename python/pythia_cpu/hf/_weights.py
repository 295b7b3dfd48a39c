"""A model's weights as torch tensors that cannot be changed: nothing would come of it."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from pythia_cpu.hf._arrays import to_torch

# Methods whose names look as if they changed a tensor's values.
_HARMLESS = frozenset({"requires_grad_", "share_memory_", "retain_grad_"})
_CHANGING = frozenset({"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__ifloordiv__"})


def fixed_array(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The array, which cannot be written to any more."""
    array.flags.writeable = False
    return array


def fixed_tensor(array: npt.NDArray[np.float32]) -> Any:
    """A torch tensor over the array's memory. What operations make of it are plain tensors, but for views of it; those
    that would change it raise ValueError.
    """
    return to_torch(array).as_subclass(_tensor_type())


@functools.cache
def _tensor_type() -> Any:
    torch = importlib.import_module("torch")
    get_data, set_data = torch.Tensor.data.__get__, torch.Tensor.data.__set__

    class Weight(torch.Tensor):  # type: ignore[misc, name-defined]
        """See ``fixed_tensor``."""

        _is_param = True  # isinstance(weight, torch.nn.Parameter)

        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name, named = getattr(function, "__name__", ""), kwargs or {}
            first = args[0] if args else named.get("tensor", named.get("input"))
            changes = function == set_data or name in _CHANGING
            changes = changes or (name.endswith("_") and not name.endswith("__") and name not in _HARMLESS)
            if (changes and isinstance(first, cls)) or isinstance(named.get("out"), cls):
                raise ValueError(
                    "a script changes a weight, but pythia_cpu runs those of the converted file: change a copy "
                    "(weight.clone()), and put it in its place: model = pythia_cpu.load(pythia_cpu.open_checkpoint("
                    "source).edited({name: copy})), which GPTNeoXForCausalLM(model) wraps"
                )
            with torch._C.DisableTorchFunctionSubclass():
                result = function(*args, **named)
                is_view = (
                    type(result) is torch.Tensor
                    and isinstance(first, cls)
                    and result.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
                )
                return result.as_subclass(cls) if is_view or function == get_data else result

        def __deepcopy__(self, memo: Any) -> Any:
            """The caller's own."""
            return self.clone()

        def __reduce_ex__(self, protocol: Any) -> Any:
            """Pickled as a plain tensor."""
            with torch._C.DisableTorchFunctionSubclass():
                return self.as_subclass(torch.Tensor).__reduce_ex__(protocol)

    return Weight
