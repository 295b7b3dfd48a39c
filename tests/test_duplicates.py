"""Equal checkpoints and tensors among converted files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from checkpoints import neox_config, random_tensors, write_checkpoint
from pythia_cpu import SharedTensors, find_duplicates
from pythia_cpu._cli_convert import main
from tiny_pcpu import write_file

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
SHARD = ["gpt_neox.embed_in.weight", "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"]


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Path]:
    """convert(name, tensors, weights) -> a .pcpu file of them."""

    def make(name: str, tensors: dict[str, np.ndarray], weights: str = "auto") -> Path:
        folder = write_checkpoint(tmp_path / name, tensors=tensors, **SMALL)
        pythia_cpu.convert(folder, tmp_path / f"{name}.pcpu", weights=weights, progress=False)
        return tmp_path / f"{name}.pcpu"

    return make


def tensors(seed: int) -> dict[str, np.ndarray]:
    """Random ones, no two seeds with one in common."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(array.shape).astype(array.dtype)
        for name, array in random_tensors(neox_config(**SMALL)).items()
    }


def test_equal_checkpoints_and_shared_tensors(convert: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    first, other = tensors(1), tensors(2)
    a = convert("a", first)
    b = convert("b", other | {name: first[name] for name in SHARD})
    c = convert("c", tensors(3))
    a_again = convert("again", first, "q8")
    assert find_duplicates([a, b, c, a_again]) == [
        SharedTensors([a, a_again], list(pythia_cpu.load(a).provenance["tensors"]), True),  # type: ignore[call-overload]
        SharedTensors([a, b, a_again], SHARD, False),
    ]
    assert find_duplicates([str(b), c, c]) == []

    assert main(["--duplicates", str(a), str(b), str(c), str(a_again)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["equal checkpoints:", f"  a  {a}", f"  again  {a_again}"]
    assert lines[3:] == [
        f"equal tensors, {SHARD[0]} and 1 more:", f"  a  {a}", f"  b  {b}", f"  again  {a_again}", "4 files compared",
    ]  # fmt: skip
    assert main(["--duplicates", str(b), str(c)]) == 0
    assert capsys.readouterr().out == "2 files compared, nothing found that is in two of them\n"


def test_the_cache_is_searched_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHIA_CPU_CACHE", str(tmp_path / "cache"))
    for name in ("x", "y"):
        pythia_cpu.load(write_checkpoint(tmp_path / name, seed=4, **SMALL), progress=False)
    assert main(["--duplicates"]) == 0
    assert capsys.readouterr().out.startswith(f"equal checkpoints:\n  x  {tmp_path}/cache/x/")


def test_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.pcpu").write_bytes(b"not a model")
    with pytest.raises(pythia_cpu.FormatError, match=r"bad\.pcpu"):
        find_duplicates([tmp_path / "bad.pcpu"])
    write_file(tmp_path / "bare.pcpu", source_sha256=bytes(32))
    with pytest.raises(ValueError, match=r"bare\.pcpu has no hashes"):
        find_duplicates([tmp_path / "bare.pcpu"])
    for path in (tmp_path / "bare.pcpu", str(tmp_path / "bare.pcpu")):
        with pytest.raises(ValueError, match="paths is of type .*, expected a list"):
            find_duplicates(path)  # type: ignore[arg-type]
    assert main(["--duplicates", str(tmp_path / "bare.pcpu")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
