"""The scripts in tools/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = sorted(path.name for path in (ROOT / "tools").iterdir() if path.is_file())


@pytest.mark.parametrize("name", TOOLS)
def test_help_does_nothing_else(name: str, shipped_model: Path) -> None:
    made = ROOT / "python" / "pythia_cpu" / "data" / shipped_model.name
    before = made.stat()
    command = [sys.executable, ROOT / "tools" / name, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"usage: {name} ")
    after = made.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
