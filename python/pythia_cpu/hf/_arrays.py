"""numpy and, where it is installed, torch: what comes in and what goes out."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def is_torch(value: object) -> bool:
    """Whether this is a torch tensor; does not import torch."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def to_torch(array: npt.NDArray[Any]) -> Any:
    """A torch tensor over the array's memory.

    Raises:
        ImportError: torch is not installed.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise ImportError(
            "torch tensors were asked for, but torch is not installed: install it, or use return_tensors='np'"
        ) from None
    return torch.from_numpy(array)


def to_lists(value: Any) -> Any:
    """Arrays and tensors, also those in lists, as lists of numbers; those without dimensions as numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [to_lists(item) for item in value] if isinstance(value, list | tuple) else value


def id_rows(name: str, value: object, *, floats: bool = False) -> npt.NDArray[np.int64]:
    """Whole numbers ``[batch, length]`` of a list, array or tensor on the CPU; one row may come without its batch. With
    ``floats`` they may be stored as such.

    Raises:
        ValueError: anything else, rows of different lengths included.
    """
    try:
        rows = np.asarray(value.detach().cpu() if is_torch(value) else value)  # type: ignore[attr-defined]
    except ValueError:
        raise ValueError(
            f"{name} has rows of different lengths: pad them, with tokenizer.padding_side = 'left' and padding=True"
        ) from None
    if floats and rows.dtype.kind == "f" and (rows == np.floor(rows)).all() and np.isfinite(rows).all():
        rows = rows.astype(np.int64)
    if rows.dtype.kind not in "iub" or rows.ndim not in (1, 2) or rows.size == 0:
        raise ValueError(
            f"{name} is an array of {rows.dtype} with shape {list(rows.shape)}, expected whole numbers [batch, length]"
        )
    return np.atleast_2d(rows).astype(np.int64)


_LEAVE_OUT = "leave it out"
# What to do instead, where there is something; ``model.model`` is the pythia_cpu.Model.
_INSTEAD = {
    "assistant_model": "use model.model.generate(draft=assistant.model)",
    "load_in_8bit": "use weights='q8'",
    "load_in_4bit": "use weights='q4'",
    "quantization_config": "use weights='q8' or 'q4'",
    "inputs_embeds": "use model.model.run(edit={'hook_embed': ...})",
}
_SHOWN_CHARACTERS = 60
_SECRETS = "token", "use_auth_token"


def refuse_unknown(call: str, arguments: Mapping[str, object], no_effect: Mapping[str, tuple[object, ...]]) -> None:
    """Passes arguments that change nothing here; ``no_effect`` has the values each may have, none for any value.

    Raises:
        ValueError: an argument that would be ignored.
    """
    for name, value in arguments.items():
        allowed = no_effect.get(name)
        shown = "..." if name in _SECRETS else repr(value)
        if len(shown) > _SHOWN_CHARACTERS:
            shown = f"{shown[:_SHOWN_CHARACTERS]}..."
        if allowed is None and value is not None:
            raise ValueError(f"{call}: {name}={shown} is not supported by pythia_cpu: {_INSTEAD.get(name, _LEAVE_OUT)}")
        if allowed and value is not None and not any(value is a or value == a or str(value) == a for a in allowed):
            values = ", ".join(map(repr, allowed))
            advice = _INSTEAD.get(name, _LEAVE_OUT)
            raise ValueError(f"{call}: {name} is {shown}, but pythia_cpu supports only {values}: {advice}")
