"""From a checkpoint's ``config.json``, in any dialect of transformers 3 to 5, to the engine's hyperparameters."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pythia_cpu import _core
from pythia_cpu._errors import CheckpointError
from pythia_cpu._json import read_json

# Names in transformers.activations.ACT2FN -> number of the function in _core.ACTIVATIONS, which has one name for each.
_ALIASES = {
    "gelu": ("gelu_python",),
    "gelu_new": ("gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"),
    "silu": ("swish",),
}
ACTIVATIONS: dict[str, int] = {
    alias: number for number, name in enumerate(_core.ACTIVATIONS) for alias in (name, *_ALIASES.get(name, ()))
}

# transformers.GPTNeoXConfig's defaults, which hold for every key that a config.json leaves out.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 50432,
    "hidden_size": 6144,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "intermediate_size": 24576,
    "hidden_act": "gelu",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "attention_bias": True,
}
_DEFAULT_ROTARY_PCT = 0.25
_DEFAULT_ROTARY_EMB_BASE = 10000.0
_MAX_INTEGER = 2**62  # far above every limit, and a number that the core can take
_SUPPORTED_ARCHITECTURES = ("GPTNeoXForCausalLM", "GPTNeoXModel")


@dataclass(frozen=True)
class NeoxConfig:
    """Hyperparameters as csrc/format/config.h has them; ``hidden_act`` is an Activation, an id of -1 is none."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    rotary_ndims: int
    bos_token_id: int
    eos_token_id: int
    hidden_act: int
    use_parallel_residual: bool
    tie_word_embeddings: bool
    attention_bias: bool
    rotary_emb_base: float
    layer_norm_eps: float

    def to_core(self) -> dict[str, Any]:
        """The dict that ``_core`` takes for a config."""
        return asdict(self)


class _Reader:
    """Typed access to the raw JSON, with errors that name the file and the key."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw = raw
        self.where = where

    def fail(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {problem}")

    def get(self, key: str) -> Any:
        value = self.raw.get(key)
        return _DEFAULTS[key] if value is None and key not in ("bos_token_id", "eos_token_id") else value

    def integer(self, key: str) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_INTEGER:
            raise self.fail(f"{key} is {value!r}, expected a whole number of at most 2**62")
        return value

    def number(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise self.fail(f"{key} is {value!r}, expected a finite number")
        return float(value)

    def boolean(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.fail(f"{key} is {value!r}, expected true or false")
        return value

    def token_id(self, key: str) -> int:
        """The id, or the first of a list of ids; -1 for null and an empty list."""
        value = self.raw.get(key, _DEFAULTS[key])
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(id, bool) or not isinstance(id, int) or not 0 <= id < 2**31 for id in ids):
            raise self.fail(f"{key} is {value!r}, expected a token id, a list of them, or null")
        return ids[0] if ids else -1


def parse_config(text: str, where: str) -> NeoxConfig:
    """Reads the text of a ``config.json``; ``where`` is the file's name for messages.

    Raises:
        CheckpointError: not JSON, another architecture, or a setting that the engine does not support, which is named.
    """
    try:
        raw = read_json(text)
    except ValueError as error:
        raise CheckpointError(f"{where}: not JSON ({error}); download the checkpoint again") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{where}: holds a {type(raw).__name__}, expected an object of settings")
    reader = _Reader(raw, where)
    _check_architecture(reader)

    hidden_size, num_heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    if num_heads < 1 or hidden_size < 1 or hidden_size % num_heads:
        raise reader.fail(
            f"hidden_size is {hidden_size}, expected a positive multiple of num_attention_heads, {num_heads}"
        )
    head_dim = hidden_size // num_heads
    if raw.get("head_dim") not in (None, head_dim):
        raise reader.fail(f"head_dim is {raw['head_dim']!r}, expected hidden_size / num_attention_heads = {head_dim}")
    rotary_pct, rotary_emb_base = _rotary_settings(reader)
    rotary_ndims = int(head_dim * rotary_pct)
    if rotary_ndims % 2:
        raise reader.fail(
            f"rotary_pct {rotary_pct} of head_dim {head_dim} rotates {rotary_ndims} dimensions, expected an even number"
        )

    config = NeoxConfig(
        vocab_size=reader.integer("vocab_size"),
        hidden_size=hidden_size,
        num_hidden_layers=reader.integer("num_hidden_layers"),
        num_attention_heads=num_heads,
        intermediate_size=reader.integer("intermediate_size"),
        max_position_embeddings=reader.integer("max_position_embeddings"),
        rotary_ndims=rotary_ndims,
        bos_token_id=reader.token_id("bos_token_id"),
        eos_token_id=reader.token_id("eos_token_id"),
        hidden_act=_activation(reader),
        use_parallel_residual=reader.boolean("use_parallel_residual"),
        tie_word_embeddings=reader.boolean("tie_word_embeddings"),
        attention_bias=reader.boolean("attention_bias"),
        rotary_emb_base=rotary_emb_base,
        layer_norm_eps=reader.number("layer_norm_eps", reader.get("layer_norm_eps")),
    )
    try:
        _core.expected_tensors(config.to_core())
    except ValueError as error:
        raise reader.fail(str(error)) from None
    return config


def _check_architecture(reader: _Reader) -> None:
    architectures = reader.raw.get("architectures") or []
    if not isinstance(architectures, list):
        raise reader.fail(f"architectures is {architectures!r}, expected a list of names")
    model_type = reader.raw.get("model_type")
    if model_type is None and any(name in _SUPPORTED_ARCHITECTURES for name in architectures):
        model_type = "gpt_neox"
    if model_type != "gpt_neox":
        raise reader.fail(
            f"model_type is {model_type!r}, expected 'gpt_neox'; this engine runs GPT-NeoX checkpoints only"
        )
    if architectures and not any(name in _SUPPORTED_ARCHITECTURES for name in architectures):
        raise reader.fail(
            f"architectures is {architectures!r}, expected GPTNeoXForCausalLM; "
            "a model with another head gives no logits over tokens"
        )
    if reader.raw.get("quantization_config"):
        raise reader.fail(
            "quantization_config is set, but only unquantized checkpoints are read; use the original weights"
        )


def _activation(reader: _Reader) -> int:
    name = reader.get("hidden_act")
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise reader.fail(
            f"hidden_act is {name!r}, which is not supported; supported are {', '.join(sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name]


def _rotary_settings(reader: _Reader) -> tuple[float, float]:
    """The rotated share of a head, and the base of the frequencies, wherever a dialect puts them."""
    raw = reader.raw
    rope = _flat_rope_parameters(reader)
    for key, settings in (("rope_scaling", raw.get("rope_scaling")), ("rope_parameters", rope)):
        if not settings:
            continue
        if not isinstance(settings, dict):
            raise reader.fail(f"{key} is {settings!r}, expected null or an object")
        kind = settings.get("rope_type", settings.get("type", "default" if key == "rope_parameters" else None))
        if kind != "default":
            raise reader.fail(f"{key} has type {kind!r}, which is not supported; only unscaled rotary embeddings are")

    def one_value(name: str, default: float, spellings: Mapping[str, Any]) -> float:
        found = {key: reader.number(key, value) for key, value in spellings.items() if value is not None}
        if len(set(found.values())) > 1:
            listing = ", ".join(f"{key} = {value:g}" for key, value in found.items())
            raise reader.fail(f"it gives {name} twice and differently ({listing}); remove the wrong one")
        return next(iter(found.values()), default)

    scaling = raw.get("rope_scaling") or {}
    rotary_pct = one_value(
        "the rotated share of a head",
        _DEFAULT_ROTARY_PCT,
        {
            "rotary_pct": raw.get("rotary_pct"),
            "partial_rotary_factor": raw.get("partial_rotary_factor"),
            "rope_parameters.partial_rotary_factor": rope.get("partial_rotary_factor"),
            "rope_scaling.partial_rotary_factor": scaling.get("partial_rotary_factor"),
        },
    )
    rotary_emb_base = one_value(
        "the rotary base",
        _DEFAULT_ROTARY_EMB_BASE,
        {
            "rotary_emb_base": raw.get("rotary_emb_base"),
            "rope_theta": raw.get("rope_theta"),
            "rope_parameters.rope_theta": rope.get("rope_theta"),
            "rope_scaling.rope_theta": scaling.get("rope_theta"),
        },
    )
    if not 0 <= rotary_pct <= 1:
        raise reader.fail(f"the rotated share of a head is {rotary_pct:g}, expected 0 to 1")
    return rotary_pct, rotary_emb_base


def _flat_rope_parameters(reader: _Reader) -> dict[str, Any]:
    """``rope_parameters``, which transformers 5 may nest by layer type; GPT-NeoX has one type, so all must agree."""
    rope = reader.raw.get("rope_parameters")
    if rope is None:
        return {}
    if not isinstance(rope, dict):
        raise reader.fail(f"rope_parameters is {rope!r}, expected an object")
    if rope and all(isinstance(value, dict) for value in rope.values()):
        first, *others = rope.values()
        if any(other != first for other in others):
            raise reader.fail("rope_parameters differ between layer types, which is not supported")
        return dict(first)
    return rope
