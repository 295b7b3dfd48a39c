"""Runs of Python as a user of the hub's server in hub_server.py, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkpoints import write_checkpoint
from hub_server import Hub
from pythia_cpu import _core

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
REPO = "EleutherAI/pythia-14m"


def checkpoint_files(folder: Path, seed: int = 0) -> dict[str, bytes]:
    write_checkpoint(folder, seed=seed, **SMALL)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


Run = Callable[..., "subprocess.CompletedProcess[str]"]


def runner(hub: Hub, tmp_path: Path) -> Run:
    """runner(...)(code, **environment) runs Python with a hub client of its own, whose cache is empty at first."""

    def run_code(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        env |= {"PYTHIA_CPU_CACHE": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1", **environment}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)

    return run_code


CONVERT = "import sys; from pythia_cpu._cli_convert import main; sys.exit(main(sys.argv[1:]))"


def converted(run: Run, output: Path, source: str, *options: str, **environment: str) -> _core.PcpuFile:
    done = run(CONVERT, source, "-o", str(output), *options, **environment)
    assert done.returncode == 0, done.stderr
    return _core.PcpuFile.open(str(output))


def refused(run: Run, tmp_path: Path, *arguments: str, **environment: str) -> str:
    done = run(CONVERT, *arguments, "-o", str(tmp_path / "m.pcpu"), **environment)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stderr.startswith("pythia-convert: ") and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "m.pcpu").exists()
    return done.stderr
