"""pythia-cpu on a model that differs from the shipped one wherever it can: no end-of-text token, a tied head, q4."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import pythia_cpu
from pythia_cpu import _core


@pytest.fixture(scope="module")
def path(make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]) -> Path:
    checkpoint = make_checkpoint(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        rotary_pct=0.5,
        vocab_size=4100,
        parallel=False,
        tied=True,
        attention_bias=False,
        intermediate_size=100,
        max_position_embeddings=64,
        hidden_act="relu",
        rotary_emb_base=500.5,
        layer_norm_eps=1e-4,
        config_updates={"bos_token_id": None, "eos_token_id": None},
    )
    return make_model_file(checkpoint, "q4")


def run(binary: Path, command: str, *arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binary, command, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )


def fingerprint(path: Path) -> str:
    return f"{struct.unpack_from('<Q', path.read_bytes(), 192)[0]:016x}"


def test_info_for_people(binary: Path, path: Path) -> None:
    found = run(binary, "info", path)
    assert (found.returncode, found.stderr) == (0, "")
    provenance = pythia_cpu.load(path).provenance
    assert found.stdout.splitlines() == [
        f"file                {path}",
        f"size                {path.stat().st_size:,} bytes, format version 4",
        "weights             q4, 235,208 parameters in 24 tensors",
        "layers              2, sequential residual",
        "hidden size         48, inner 100, relu",
        "attention heads     3 of 16, 8 of these rotary",
        "context length      64",
        "vocabulary          4100 outputs, 4096 tokens",
        f"source              {provenance['source']}",
        f"converter version   {provenance['converter_version']}",
        f"tokenizer sha256    {provenance['tokenizer_sha256']}",
        f"fingerprint         {fingerprint(path)} (of the logits; see pythia-cpu verify)",
    ]
    shipped = dict(line.split(maxsplit=1) for line in run(binary, "info").stdout.splitlines())
    assert (shipped["layers"], shipped["revision"]) == ("6, parallel residual", "step1800")
    assert shipped["vocabulary"] == "4096 outputs, 4096 tokens, end of text 0"


def test_info_for_programs(binary: Path, path: Path) -> None:
    found = json.loads(run(binary, "info", "--json", path).stdout)
    assert found["config"] == {
        "vocab_size": 4100,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 100,
        "max_position_embeddings": 64,
        "rotary_ndims": 8,
        "rotary_emb_base": 500.5,
        "layer_norm_eps": 1e-4,
        "hidden_act": "relu",
        "use_parallel_residual": False,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    assert (found["file"], found["format_version"], found["num_parameters"]) == (str(path), 4, 235208)
    assert found["fingerprint"] == fingerprint(path)
    assert (found["tokenizer_vocab_size"], found["revision"], found["commit"]) == (4096, None, None)
    tensors = _core.PcpuFile.open(str(path)).tensors
    for mine, stored in zip(found["tensors"], tensors, strict=True):
        assert mine["source_dtype"] == "f16"
        for name in ("name", "layout", "format", "source_dtype", "rows", "cols", "size_bytes"):
            assert mine[name] == stored[name]
        assert mine["source_sha256"] == (None if stored["derived"] else stored["source_sha256"].hex())


NO_TOKEN = "the model has no end-of-text token to"


@pytest.mark.parametrize(
    ("arguments", "text", "message"),
    [
        (["score"], "a b", f"{NO_TOKEN} begin the text with; give --stride"),
        (["score", "--jsonl"], '{"text": "a b"}', f"line 1: {NO_TOKEN} begin the text with; give --stride"),
        (
            ["score", "--jsonl"],
            '{"context": " ", "continuation": "a"}',
            f'line 1: "context" has no tokens, and {NO_TOKEN}',
        ),
        (["score", "--stride", "1"], "a", "the text has 1 tokens, none of which has one before it; expected a longer"),
        (["generate"], "", "the prompt is empty, expected text"),
        (["bench", "--decode-tokens", "64", "--prompt-tokens", "65"], "", "prompts of 65 tokens do not fit"),
    ],
)
def test_without_an_end_of_text_token(binary: Path, path: Path, arguments: list[str], text: str, message: str) -> None:
    found = run(binary, *arguments, "-m", path, *(["-"] if arguments[0] != "bench" else []), text=text)
    assert (found.returncode, found.stdout) == (1, "")
    assert message in found.stderr and found.stderr.count("\n") == 1
