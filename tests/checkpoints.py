"""Random GPT-NeoX checkpoints in Hugging Face layout, made with numpy and safetensors alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

MINI_PYTHIA = Path(__file__).parent / "data" / "mini-pythia" / "step1800"
MINI_PYTHIA_VOCAB_SIZE = 4096


def to_bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Rounds finite float32 values half to even to bfloat16, as uint16 bit patterns."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16_bits(bits: np.ndarray) -> np.ndarray:
    """Float32 values of uint16 bfloat16 bit patterns."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def neox_config(
    *,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    rotary_pct: float = 0.25,
    vocab_size: int = MINI_PYTHIA_VOCAB_SIZE,
    parallel: bool = True,
    tied: bool = False,
    attention_bias: bool = True,
    intermediate_size: int | None = None,
    max_position_embeddings: int = 2048,
    hidden_act: str = "gelu",
    rotary_emb_base: float = 10000,
    layer_norm_eps: float = 1e-5,
) -> dict[str, Any]:
    """A config.json as transformers 4 writes it."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "attention_bias": attention_bias,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": hidden_act,
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size if intermediate_size is None else intermediate_size,
        "layer_norm_eps": layer_norm_eps,
        "max_position_embeddings": max_position_embeddings,
        "model_type": "gpt_neox",
        "num_attention_heads": num_attention_heads,
        "num_hidden_layers": num_hidden_layers,
        "rotary_emb_base": rotary_emb_base,
        "rotary_pct": rotary_pct,
        "tie_word_embeddings": tied,
        "use_parallel_residual": parallel,
        "vocab_size": vocab_size,
    }


def neox_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors a checkpoint with this config holds."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in.weight": (vocab, hidden)}
    for i in range(config["num_hidden_layers"]):
        layer = f"gpt_neox.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{layer}{norm}.weight"] = (hidden,)
            shapes[f"{layer}{norm}.bias"] = (hidden,)
        linears = {
            "attention.query_key_value": (3 * hidden, hidden),
            "attention.dense": (hidden, hidden),
            "mlp.dense_h_to_4h": (inner, hidden),
            "mlp.dense_4h_to_h": (hidden, inner),
        }
        for name, (rows, cols) in linears.items():
            shapes[f"{layer}{name}.weight"] = (rows, cols)
            if config["attention_bias"] or not name.startswith("attention."):
                shapes[f"{layer}{name}.bias"] = (rows,)
    shapes["gpt_neox.final_layer_norm.weight"] = (hidden,)
    shapes["gpt_neox.final_layer_norm.bias"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["embed_out.weight"] = (vocab, hidden)
    return shapes


def random_tensors(config: Mapping[str, Any], *, dtype: str = "float16", seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of a model's usual sizes; dtype "bfloat16" gives uint16 bit patterns."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in neox_shapes(config).items():
        if len(shape) == 2:
            # Large enough for attention to be far from uniform and for errors to show.
            scale = 1.0 if "embed_in" in name else 1.5 / np.sqrt(shape[1])
            values = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        else:
            values = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1)
            if "norm.weight" in name:
                values += 1
        tensors[name] = to_bfloat16_bits(values) if dtype == "bfloat16" else values.astype(dtype)
    return tensors


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file; uint16 arrays are stored as bfloat16."""
    names = {"float64": "F64", "float32": "F32", "float16": "F16", "uint16": "BF16"}
    names |= {"uint8": "U8", "bool": "BOOL", "int64": "I64"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    chunks, offset = [], 0
    for name, array in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": names[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))
    safetensors.numpy.safe_open(path, framework="np")  # the reference reader accepts what was written


def write_checkpoint(
    folder: Path,
    *,
    dtype: str = "float16",
    seed: int = 0,
    tensors: Mapping[str, np.ndarray] | None = None,
    config_updates: Mapping[str, Any] | None = None,
    tokenizer: bool = True,
    **config_arguments: Any,
) -> Path:
    """Writes config.json, model.safetensors and the mini model's tokenizer.json to `folder`, and returns it.

    `config_arguments` are neox_config's (hidden_size, num_hidden_layers, num_attention_heads, ...). `tensors` replaces
    the random weights, `config_updates` is merged into config.json after the weights are made.
    """
    config = neox_config(**config_arguments)
    folder.mkdir(parents=True, exist_ok=True)
    if tensors is None:
        tensors = random_tensors(config, dtype=dtype, seed=seed)
    (folder / "config.json").write_text(json.dumps({**config, **(config_updates or {})}, indent=2))
    write_safetensors(folder / "model.safetensors", tensors)
    if tokenizer:
        shutil.copyfile(MINI_PYTHIA / "tokenizer.json", folder / "tokenizer.json")
    return folder
