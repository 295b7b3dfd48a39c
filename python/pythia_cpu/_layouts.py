"""The files that show how a checkpoint's weights are laid out."""

from __future__ import annotations

from pathlib import Path

from pythia_cpu._errors import CheckpointError
from pythia_cpu._json import read_json

# The preferred layout first.
LAYOUT_FILES: tuple[str, ...] = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def read_index(path: Path) -> dict[str, str]:
    """Which file of its folder holds each tensor, from a ``*.index.json``.

    Raises:
        CheckpointError: not JSON, or without a weight_map of file names.
    """
    try:
        weight_map = read_json(path.read_bytes())["weight_map"]
        shards = {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: is not an index with a weight_map ({error}); download it again") from None
    for name, shard in shards.items():
        if Path(shard).name != shard:
            raise CheckpointError(
                f"{path}: tensor '{name}' is in '{shard}', expected the name of a file beside it; download it again"
            )
    return shards
