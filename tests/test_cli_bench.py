"""pythia-cpu bench: that it runs and that its figures hang together, not how fast the machine is."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pythia_cpu

SIZES = ("--prompt-tokens", "24", "--decode-tokens", "64", "--repetitions", "2")


def bench(binary: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binary, "bench", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )


def report(binary: Path, *arguments: str | Path, **environment: str) -> dict[str, Any]:
    result = bench(binary, *SIZES, "--json", *arguments, **environment)
    assert (result.returncode, result.stderr) == (0, "")
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def assert_consistent(got: dict[str, Any], *, token_operations: int, logit_operations: int, limit: str) -> None:
    limits = got["limits"]
    assert len(limits) == 4 and all(rate > 0 for rate in limits.values())
    for name, tokens, rows in (("prefill", 24, 1), ("scoring", 8 * 24, 8 * 24)):
        part = got[name]
        assert (part["tokens"], len(part["seconds"]), part["limit"]) == (tokens, 2, limit)
        rate = (tokens * token_operations + rows * logit_operations) / min(part["seconds"])
        assert part["matmul_operations_per_second"] == pytest.approx(rate)
        assert part["fraction_of_limit"] == pytest.approx(rate / limits[f"{limit}_operations_per_second"])
        assert 0 < part["fraction_of_limit"] < 2
    decode = got["decode"]
    assert (decode["tokens"], len(decode["seconds"])) == (64, 2)
    assert decode["tokens_per_second"] == pytest.approx(64 / min(decode["seconds"]))
    rate = decode["tokens_per_second"] * got["matmul_weights_bytes"]
    assert decode["weights_bytes_per_second"] == pytest.approx(rate)
    for size in ("read_1gib", "read_weights_size"):
        assert decode[f"fraction_of_{size}"] == pytest.approx(rate / limits[f"{size}_bytes_per_second"])
    assert 0 < decode["fraction_of_read_weights_size"] < 2


@pytest.mark.parametrize("weights", ["f16", "q8", "q4"])
def test_figures(
    binary: Path, make_model_file: Callable[..., Path], mini_checkpoint: Path, tmp_path: Path, weights: str
) -> None:
    path = make_model_file(mini_checkpoint, weights)
    got = report(binary, "-m", path, "-t", "1")
    assert (got["model"], got["weights"], got["threads"]) == (str(path), weights, 1)
    assert got["isa"] == pythia_cpu.load(path).isa
    assert got["machine"] and got["date"].endswith("Z")
    matrices = [t for t in json.loads(info(binary, path))["tensors"] if t["layout"] == "panels"]
    assert got["matmul_weights_bytes"] == sum(t["size_bytes"] for t in matrices)
    operations = {t["name"]: 2 * t["rows"] * t["cols"] for t in matrices}
    # Tokens without logits need the last layer's keys and values only.
    last = f"gpt_neox.layers.{pythia_cpu.load(path).config.num_hidden_layers - 1}."
    with_logits = sum(n for name, n in operations.items() if name.startswith((last, "embed_out.")))
    keys_values = operations[f"{last}attention.query_key_value.weight"] * 2 // 3
    token_operations = sum(operations.values()) - with_logits + keys_values
    limit = "fp32" if weights == "f16" else "int8"
    assert_consistent(got, token_operations=token_operations, logit_operations=with_logits - keys_values, limit=limit)


def info(binary: Path, path: Path) -> str:
    return subprocess.run([binary, "info", "--json", path], capture_output=True, text=True, check=True).stdout


def test_instruction_set_is_the_one_asked_for(binary: Path, shipped_model: Path) -> None:
    fast = report(binary, "-m", shipped_model, "-t", "1")
    slow = report(binary, "-m", shipped_model, "-t", "1", PYTHIA_CPU_ISA="portable")
    assert slow["isa"] == "portable"
    if fast["isa"] != "portable":
        for name in ("int8", "fp32"):
            rates = [one["limits"][f"{name}_operations_per_second"] for one in (fast, slow)]
            assert rates[0] > 1.5 * rates[1]


def test_scoring_can_be_left_out(binary: Path, shipped_model: Path) -> None:
    assert report(binary, "-m", shipped_model, "--score-texts", "0")["scoring"] is None
    assert "scoring" not in bench(binary, *SIZES, "-m", shipped_model, "--score-texts", "0").stdout


def test_table_for_people(binary: Path, shipped_model: Path) -> None:
    result = bench(binary, *SIZES, "-m", shipped_model)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines if line] == [
        "machine",
        "date",
        "model",
        "weights",
        "limits",
        "tokens",
        "prefill",
        "decode",
        "scoring",
    ]
    ends = {line.index(unit) + len(unit) for line, unit in zip(lines[-3:], ("OP/s", "B/s", "OP/s"), strict=True)}
    assert ends == {lines[-4].index("rate") + len("rate")}
    assert str(shipped_model) in result.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (("--prompt-tokens", "0"), 2, "--prompt-tokens is 0"),
        (("--repetitions", "0"), 2, "--repetitions is 0"),
        (("model.pcpu",), 2, "name the model with -m"),
        (("--prompt-tokens", "5000"), 1, "context of 2048"),
        (("--decode-tokens", "5000"), 1, "context of 2048"),
        (("-m", "missing.pcpu"), 1, "missing.pcpu"),
    ],
    ids=str,
)
def test_errors(binary: Path, shipped_model: Path, arguments: tuple[str, ...], status: int, part: str) -> None:
    result = bench(binary, *SIZES, "-m", shipped_model, *arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert result.stderr.startswith("pythia-cpu: ") and part in result.stderr and result.stderr.count("\n") == 1
