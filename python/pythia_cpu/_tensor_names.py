"""The names tensors go by in checkpoints, and the names the engine knows them by."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from pythia_cpu import _core
from pythia_cpu._errors import CheckpointError

EMBEDDING, HEAD = _core.EMBEDDING_NAME, _core.HEAD_NAME

# Masks and rotary tables that old checkpoints store beside the weights; they are computed, not read.
_BUFFER = re.compile(
    r"(gpt_neox\.)?((layers\.\d+\.attention\.)?rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)"
    r"|layers\.\d+\.attention\.(bias|masked_bias|norm_factor))"
)
_WITHOUT_PREFIX = re.compile(r"(embed_in|layers|final_layer_norm)\.")


def no_tensor(name: object, names: Iterable[str], where: str) -> KeyError:
    """The error for a name that none of the tensors has."""
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.0)
    return KeyError(f"{where} has no tensor {name!r}; near it: {', '.join(near) or 'nothing'} (all: its keys())")


def canonical_name(name: str) -> str | None:
    """The engine's name of a checkpoint's tensor, or None for a buffer.

    transformers 5 calls the head ``lm_head`` in memory, and a bare GPTNeoXModel saves without the ``gpt_neox.`` prefix.
    """
    if _BUFFER.fullmatch(name):
        return None
    if name == "lm_head.weight":
        return HEAD
    return f"gpt_neox.{name}" if _WITHOUT_PREFIX.match(name) else name


def canonical_names(names: Iterable[str], where: str) -> dict[str, str]:
    """Engine name -> name in the checkpoint, for every weight.

    Raises:
        CheckpointError: two of the names mean the same weight.
    """
    result: dict[str, str] = {}
    for name in names:
        canonical = canonical_name(name)
        if canonical is None:
            continue
        if canonical in result:
            raise CheckpointError(
                f"{where}: tensors '{result[canonical]}' and '{name}' are the same weight; remove one of them"
            )
        result[canonical] = name
    return result
