"""torch's names of number formats, in the engine's terms."""

from __future__ import annotations

# Calculations are in float32 always.
_WEIGHTS = {
    "auto": "auto",
    "float": "auto",
    "float32": "auto",
    "half": "f16",
    "float16": "f16",
    "bfloat16": "bf16",
}


def weights_for(dtype: object, weights: str | None) -> str:
    """``weights`` of ``pythia_cpu.load`` for a dtype: one of torch or NumPy, its name, "auto" or None.

    Raises:
        ValueError: another dtype, or both arguments.
    """
    if dtype is None:
        return weights or "auto"
    name = str(getattr(dtype, "__name__", dtype)).removeprefix("torch.")
    if name not in _WEIGHTS:
        raise ValueError(f"dtype is {dtype!r}, expected float32, float16, bfloat16 or auto; or use weights=")
    if weights is not None:
        raise ValueError(f"dtype is {dtype!r} and weights is {weights!r}: give one of them")
    return _WEIGHTS[name]
