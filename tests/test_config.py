"""config.json in every dialect of transformers, and the settings that are refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from checkpoints import MINI_PYTHIA, neox_config
from pythia_cpu import CheckpointError
from pythia_cpu._config import ACTIVATIONS, NeoxConfig, parse_config

BASE = neox_config(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=100)


def parse(updates: dict[str, Any] | None = None, *, without: tuple[str, ...] = ()) -> NeoxConfig:
    raw = {**BASE, **(updates or {})}
    return parse_config(json.dumps({key: value for key, value in raw.items() if key not in without}), "config.json")


def test_the_mini_checkpoint() -> None:
    config = parse_config((MINI_PYTHIA / "config.json").read_text(), "config.json")
    assert config == NeoxConfig(
        vocab_size=4096,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=2048,
        rotary_ndims=8,
        bos_token_id=0,
        eos_token_id=0,
        hidden_act=0,
        use_parallel_residual=True,
        tie_word_embeddings=False,
        attention_bias=True,
        rotary_emb_base=10000.0,
        layer_norm_eps=1e-5,
    )


ROTARY = ("rotary_pct", "rotary_emb_base")
DIALECTS: dict[str, dict[str, Any]] = {
    "transformers 3 and 4": {"rotary_pct": 0.5, "rotary_emb_base": 500},
    "newer 4": {"rotary_pct": 0.5, "rotary_emb_base": 500, "partial_rotary_factor": 0.5, "rope_theta": 500.0},
    "only the newer names": {"partial_rotary_factor": 0.5, "rope_theta": 500, "rope_scaling": None},
    "5": {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 500, "rope_type": "default"}},
    "5, nested": {"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5, "rope_theta": 500}}},
    "4 and 5": {"rotary_pct": 0.5, "rope_parameters": {"rope_theta": 500}},
    "rope_scaling of no scaling": {"rotary_pct": 0.5, "rope_theta": 500, "rope_scaling": {"type": "default"}},
    "rope_scaling with both": {
        "rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 500}
    },
}


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_rotary_dialects(dialect: dict[str, Any]) -> None:
    config = parse(dialect, without=tuple(set(ROTARY) - set(dialect)))
    assert (config.rotary_ndims, config.rotary_emb_base) == (8, 500.0)


@pytest.mark.parametrize(("share", "dimensions"), [(0.25, 4), (0.29, 4), (0.3, 4), (0.375, 6), (0.43, 6)])
def test_part_of_a_dimension_is_not_rotated(share: float, dimensions: int) -> None:
    """Of 16, as in transformers."""
    assert parse({"rotary_pct": share}).rotary_ndims == dimensions


def test_missing_keys_have_the_defaults_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    default = transformers.GPTNeoXConfig()
    config = parse_config('{"model_type": "gpt_neox"}', "config.json")
    names = set(NeoxConfig.__dataclass_fields__) - {"rotary_ndims", "rotary_emb_base", "hidden_act"}
    assert {name: getattr(config, name) for name in names} == {name: getattr(default, name) for name in names}
    assert ACTIVATIONS[default.hidden_act] == config.hidden_act
    assert default.rope_parameters["rope_theta"] == config.rotary_emb_base
    assert int(96 * default.rope_parameters["partial_rotary_factor"]) == config.rotary_ndims


def test_what_transformers_writes_now_is_read(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    ropes = {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 0.5}}
    transformers.GPTNeoXConfig(**{k: v for k, v in BASE.items() if k not in ROTARY}, **ropes).save_pretrained(tmp_path)
    config = parse_config((tmp_path / "config.json").read_text(), "config.json")
    assert (config.rotary_ndims, config.rotary_emb_base, config.vocab_size) == (8, 777.0, 100)


def test_activations_compute_what_transformers_computes() -> None:
    torch = pytest.importorskip("torch")
    functions = pytest.importorskip("transformers.activations").ACT2FN
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    tanh = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    expected = {0: torch.nn.functional.gelu(x), 1: tanh, 2: x.clamp(min=0), 3: x * torch.sigmoid(x)}
    expected[4] = x * torch.sigmoid(1.702 * x)
    for name, number in ACTIVATIONS.items():
        assert (functions[name](x) - expected[number]).abs().max() < 1e-6, name


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, -1), (0, 0), (5, 5), ([7], 7), ([7, 0], 7), ([], -1)],
    ids=["null", "zero", "five", "list of one", "list", "empty list"],
)
def test_token_ids(value: Any, expected: int) -> None:
    config = parse({"bos_token_id": value, "eos_token_id": value})
    assert (config.bos_token_id, config.eos_token_id) == (expected, expected)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llama"}, "model_type is 'llama', expected 'gpt_neox'"),
    ({"model_type": "gpt_neox_japanese"}, "model_type is 'gpt_neox_japanese'"),
    ({"model_type": None, "architectures": None}, "model_type is None"),
    ({"architectures": 5}, "architectures is 5, expected a list of names"),
    ({"architectures": "GPTNeoXForCausalLM"}, "architectures is 'GPTNeoXForCausalLM', expected a list of names"),
    ({"architectures": ["GPTNeoXForSequenceClassification"]}, "architectures is .*SequenceClassification"),
    ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
    ({"hidden_act": "xielu"}, "hidden_act is 'xielu', which is not supported; supported are gelu, "),
    ({"hidden_act": ["gelu"]}, "hidden_act is"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling has type 'linear', which is not supported"),
    ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling has type 'yarn'"),
    ({"rope_scaling": {"factor": 2.0}}, "rope_scaling has type None"),
    ({"rope_scaling": "linear"}, "rope_scaling is 'linear', expected null or an object"),
    ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters has type 'dynamic'"),
    ({"rope_parameters": [1]}, r"rope_parameters is \[1\], expected an object"),
    ({"rope_parameters": {"x": json.loads("[" * 70 + "]" * 70)}}, r"not JSON \(it is nested more than 64 times\)"),
    ({"rope_parameters": {"a": {"rope_theta": 1}, "b": {"rope_theta": 2}}}, "differ between layer types"),
    ({"partial_rotary_factor": 0.5}, "twice and differently .*rotary_pct = 0.25, partial_rotary_factor = 0.5"),
    ({"rope_theta": 500}, "the rotary base twice and differently"),
    (
        {"rope_scaling": {"type": "default", "partial_rotary_factor": 0.5}},
        "rotary_pct = 0.25, rope_scaling.partial_rotary_factor = 0.5",
    ),
    ({"rope_scaling": {"type": "default", "rope_theta": 5}}, "rotary_emb_base = 10000, rope_scaling.rope_theta = 5"),
    ({"rotary_pct": 1.5}, "the rotated share of a head is 1.5, expected 0 to 1"),
    ({"rotary_pct": "all"}, "rotary_pct is 'all', expected a finite number"),
    ({"rotary_pct": 10**400}, "rotary_pct is 10*, expected a finite number"),
    ({"rotary_pct": 0.2}, "rotates 3 dimensions, expected an even number"),
    ({"rotary_emb_base": 0}, "rotary_emb_base is 0, expected a finite number of at least 1"),
    ({"rotary_emb_base": 1e-60}, "rotary_emb_base is 1e-60, expected a finite number of at least 1"),
    ({"hidden_size": 65}, "hidden_size is 65, expected a positive multiple of num_attention_heads, 4"),
    ({"hidden_size": 0}, "hidden_size is 0"),
    ({"hidden_size": 10**400, "num_attention_heads": 1}, "hidden_size is 10*, expected"),
    ({"intermediate_size": 10**400}, "intermediate_size is 10*, expected"),
    ({"vocab_size": -(10**30)}, "vocab_size is -10*, expected"),
    ({"num_attention_heads": 0}, "num_attention_heads, 0"),
    ({"head_dim": 32}, "head_dim is 32, expected .* = 16"),
    ({"hidden_size": "64"}, "hidden_size is '64', expected a whole number"),
    ({"hidden_size": 64.0}, "hidden_size is 64.0, expected a whole number"),
    ({"vocab_size": 2**40}, "vocab_size is .*1099511627776"),
    ({"vocab_size": 2**24 + 1}, r"vocab_size is 16777217, expected 1\.\.16777216"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ({"num_hidden_layers": True}, "num_hidden_layers is True, expected a whole number"),
    ({"max_position_embeddings": 0}, "max_position_embeddings is 0"),
    (
        {"max_position_embeddings": 2**20, "hidden_size": 4096, "rotary_pct": 1},
        "max_position_embeddings is 1048576, expected at most 131072 with rotary_ndims 1024",
    ),
    ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
    ({"layer_norm_eps": 10**400}, "layer_norm_eps is 10*, expected a finite number"),
    ({"layer_norm_eps": None, "use_parallel_residual": "yes"}, "use_parallel_residual is 'yes', expected true or"),
    ({"eos_token_id": [0, -2]}, r"eos_token_id is \[0, -2\], expected a token id, a list of them, or null"),
    ({"eos_token_id": [[0]]}, r"eos_token_id is \[\[0\]\], expected a token id, a list of them, or null"),
    ({"bos_token_id": -1}, "bos_token_id is -1"),
    ({"eos_token_id": 2**31}, "eos_token_id is 2147483648"),
]


@pytest.mark.parametrize(("updates", "pattern"), REFUSED, ids=lambda v: str(v)[:40])
def test_refused(updates: dict[str, Any], pattern: str) -> None:
    with pytest.raises(CheckpointError, match=pattern) as caught:
        parse(updates)
    assert str(caught.value).startswith("config.json: ")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"gpt_neox"', "[" * 100_000], ids=lambda v: v[:10])
def test_not_an_object(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: (not JSON|holds a)"):
        parse_config(text, "config.json")
