"""The logits' fingerprint: stored by the converter, the same on every instruction set, false where the file says so."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import pythia_cpu
from checkpoints import write_checkpoint
from pcpu_file import parse
from pythia_cpu import _core

SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 70}
FINGERPRINT_OFFSET, CHECKSUM_OFFSET = 192, 248  # docs/format.md, "Header"


def small_file(folder: Path, *, weights: str = "auto", **config: int) -> Path:
    pythia_cpu.convert(write_checkpoint(folder / "c", **SMALL, **config), folder / "m.pcpu", weights=weights)
    return folder / "m.pcpu"


def with_fingerprint(path: Path, fingerprint: int) -> Path:
    """A copy of a file that stores this fingerprint."""
    data = bytearray(path.read_bytes())
    data[FINGERPRINT_OFFSET : FINGERPRINT_OFFSET + 8] = fingerprint.to_bytes(8, "little")
    data[CHECKSUM_OFFSET : CHECKSUM_OFFSET + 8] = _core.checksum64(data[:CHECKSUM_OFFSET]).to_bytes(8, "little")
    other = path.with_name("other.pcpu")
    other.write_bytes(data)
    return other


@pytest.mark.parametrize("weights", _core.WEIGHT_FORMATS)
def test_every_instruction_set_computes_the_stored_one(tmp_path: Path, weights: str) -> None:
    path = str(small_file(tmp_path, weights=weights))
    models = [_core.Model.open(path, threads, isa) for isa in _core.supported_isas() for threads in (1, 2)]
    assert {model.fingerprint() for model in models} == {models[0].file.fingerprint}
    assert pythia_cpu.load(path).verify()


@pytest.mark.parametrize("max_position_embeddings", [2048, 9])
def test_it_is_what_the_document_says(tmp_path: Path, max_position_embeddings: int) -> None:
    path = small_file(tmp_path, max_position_embeddings=max_position_embeddings)
    tokens = [(i + 1) * 2654435761 % 2**32 % 70 for i in range(min(32, max_position_embeddings))]
    logits = pythia_cpu.load(path).logits(tokens)
    stored = int.from_bytes(path.read_bytes()[FINGERPRINT_OFFSET : FINGERPRINT_OFFSET + 8], "little")
    assert stored == _core.checksum64(np.ascontiguousarray(logits))
    assert len(parse(path.read_bytes()).records) == len(_core.PcpuFile.open(str(path)).tensors)


def test_another_fingerprint_fails(tmp_path: Path, binary: Path) -> None:
    path = small_file(tmp_path)
    stored = pythia_cpu.load(path).verify() and _core.PcpuFile.open(str(path)).fingerprint
    wrong = with_fingerprint(path, stored ^ 1)
    assert not pythia_cpu.load(wrong).verify()

    def verify(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHIA_CPU_MODEL"}
        return subprocess.run(
            [binary, "verify", *arguments], capture_output=True, text=True, env=environment, check=False
        )

    right = verify(path)
    assert (right.returncode, right.stderr) == (0, "")
    assert f"{stored:016x}" in right.stdout
    failed = verify("-m", wrong, "-t", "1")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert f"{stored:016x}" in failed.stderr and f"{stored ^ 1:016x}" in failed.stderr
    assert failed.stderr.count("\n") == 1
    # Each of several files; one that is not there or not right does not keep the others from being looked at.
    missing = tmp_path / "missing.pcpu"
    some = verify(path, missing, wrong, path)
    assert (some.returncode, some.stdout) == (1, 2 * right.stdout)
    first, second = some.stderr.splitlines()
    assert first.startswith(f"pythia-cpu: {missing}: ")
    assert second.startswith(f"pythia-cpu: {wrong}: the logits' fingerprint is ")
    assert verify("-m", path, path).stdout == 2 * right.stdout


def test_a_file_without_a_fingerprint(tmp_path: Path, binary: Path) -> None:
    path = with_fingerprint(small_file(tmp_path), 0)
    with pytest.raises(ValueError, match=r"other.pcpu has no fingerprint"):
        pythia_cpu.load(path).verify()
    failed = subprocess.run([binary, "verify", path], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == f"pythia-cpu: {path}: no fingerprint is stored; convert the checkpoint again\n"


def test_the_shipped_model() -> None:
    assert pythia_cpu.load().verify()


@pytest.mark.parametrize("weights", ["f32", "q8"])
def test_a_run_that_diverged(tmp_path: Path, weights: str) -> None:
    """NaNs have other bits on other machines, and count as equal."""
    folder = write_checkpoint(tmp_path / "c", **SMALL)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["gpt_neox.layers.1.mlp.dense_4h_to_h.bias"][3] = np.inf
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    pythia_cpu.convert(folder, tmp_path / "m.pcpu", weights=weights, progress=False)
    models = [_core.Model.open(str(tmp_path / "m.pcpu"), 2, isa) for isa in _core.supported_isas()]
    assert {model.fingerprint() for model in models} == {models[0].file.fingerprint}
    assert pythia_cpu.load(tmp_path / "m.pcpu").verify()
