"""The examples of the README, docs/inspection.md and docs/checkpoints.md run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

from checkpoints import write_checkpoint

ROOT = Path(__file__).parents[1]


def blocks_of(name: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w*)\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


BLOCKS = blocks_of("README.md")


def test_first_command() -> None:
    line = next(block.strip() for _, block in BLOCKS if block.startswith("pip install . && "))
    command = shlex.split(line.removeprefix("pip install . && "))
    command[0] = str(Path(sysconfig.get_path("scripts")) / command[0])
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(result.stdout.split()) > 20
    assert result.stderr == ""


def test_python_example(tmp_path: Path) -> None:
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert blocks
    for block in blocks:
        check = "\nassert logits.shape == (len(tokens), 4096)" if "logits = " in block else ""
        command = [sys.executable, "-W", "error", "-c", block + check]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert result.returncode == 0, result.stderr
        assert len(result.stdout.split()) >= 10


def test_recipes(tmp_path: Path) -> None:
    """One script, whose own assertions check what its text says."""
    script = "\n".join(block for _, block in blocks_of("docs/inspection.md"))
    assert script.count("assert ") >= 5
    command = [sys.executable, "-W", "error", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    rows = np.load(tmp_path / "activations.npy")
    assert rows.shape[1] == 128 and (rows != 0).all()


def test_a_study_of_checkpoints(tmp_path: Path) -> None:
    """With a run of three small checkpoints in place of the hub's."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 4096}
    for step in (0, 1000, 2000):
        write_checkpoint(tmp_path / "run" / f"step{step}", seed=step, **shape)
    script = "\n".join(block for _, block in blocks_of("docs/checkpoints.md"))
    hub = '"EleutherAI/pythia-70m"'
    assert script.count(hub) == 1
    command = [sys.executable, "-W", "error", "-c", script.replace(hub, repr(str(tmp_path / "run")))]
    environment = {**os.environ, "PYTHIA_CPU_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert "step0 0.0 1.0" not in result.stdout and "step2000 0.0 1.0 0" in result.stdout
    assert re.search(r"gpt_neox.embed_in.weight 1\.\d", result.stdout)
