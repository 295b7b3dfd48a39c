"""Small .pcpu files with random weights, for tests of the format."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import from_bfloat16_bits
from pythia_cpu import FormatError, _core

CONFIG: dict[str, Any] = {
    "vocab_size": 19,
    "hidden_size": 6,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 7,
    "max_position_embeddings": 32,
    "rotary_ndims": 2,
    "bos_token_id": 0,
    "eos_token_id": -1,
    "hidden_act": 0,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
    "attention_bias": True,
    "rotary_emb_base": 10000.0,
    "layer_norm_eps": 1e-5,
}
TOKENIZER = b"any bytes: the tokenizer's own reader checks them"
METADATA = {"source": "tiny", "revision": "étape"}
VECTOR, ROWS, PANELS = _core.LAYOUTS


def write_file(
    path: Path,
    *,
    config: dict[str, Any] | None = None,
    weights: str = "f16",
    stop_after: int | None = None,
    metadata: dict[str, str] | None = None,
    seed: int = 0,
    source_sha256: bytes = bytes(range(32)),
) -> dict[str, np.ndarray]:
    """Writes a small file with random weights and returns their values."""
    config = {**CONFIG, **(config or {})}
    rng = np.random.default_rng(seed)
    values = {}
    with _core.PcpuWriter(str(path), config, weights) as writer:
        for i, (name, layout, rows, cols) in enumerate(_core.expected_tensors(config)):
            if i == stop_after:
                break
            array = rng.standard_normal((rows, cols)).astype(np.float16).astype(np.float32)
            if weights == "bf16":
                array = from_bfloat16_bits((array.view(np.uint32) >> 16).astype(np.uint16))
            target = weights if layout != VECTOR else "f32"
            writer.begin_tensor(name, target, "f32")
            if layout == PANELS:
                writer.append(_core.pack_matrix(array, "f32", rows, cols, target))
            else:
                writer.append(_core.convert_elements(array, "f32", target))
            writer.end_tensor(source_sha256)
            values[name] = array[0] if layout == VECTOR else array
        writer.set_tokenizer(TOKENIZER)
        writer.set_metadata(metadata or METADATA)
        writer.set_fingerprint(77)
        writer.finish()
    return values


def refuser(folder: Path) -> Callable[[bytes, str], None]:
    """refuses(data, pattern): opening a file of these bytes is a FormatError naming the file, of this pattern."""

    def refuses(data: bytes, pattern: str) -> None:
        path = folder / "bad.pcpu"
        path.write_bytes(data)
        with pytest.raises(FormatError, match=pattern) as caught:
            _core.PcpuFile.open(str(path), 2)
        assert str(caught.value).startswith(f"{path}: ")

    return refuses


@functools.cache
def tiny_bytes() -> bytes:
    """The bytes of one valid file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.pcpu"
        write_file(path)
        return path.read_bytes()
