"""The scripts in tools/."""

from __future__ import annotations

import shutil
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


@pytest.mark.parametrize(
    ("file", "body", "finding"),
    [
        ("model/rotary", "return expf(x) + sqrtf(x) + nextafterf(floorf(x), fmodf(x, 3));", "calls libm's expf,"),
        ("model/rotary", "return (float)pow(x, 0.3);", "calls libm's pow,"),
        ("cli/score_result", "return (float)exp(x);", "calls libm's exp,"),
        ("kernels/isa_base", "return sqrtf(x) + ldexpf(ceilf(x), (int)rintf(x)) + fmaf(x, x, x);", ""),
    ],
)
def test_what_objects_take_from_libm(tmp_path: Path, file: str, body: str, finding: str) -> None:
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    for name, code in (("kernels/isa_other", "return x;"), (file, body)):
        target = tmp_path / "CMakeFiles" / "pythia_core.dir" / "csrc" / f"{name}.cc.o"
        target.parent.mkdir(parents=True, exist_ok=True)
        source = f"#include <math.h>\nfloat f(float x) {{ {code} }}\n"
        command = [compiler, "-O2", "-ffp-contract=off", "-x", "c", "-c", "-", "-o", target]
        subprocess.run(command, input=source, text=True, check=True)
    command = [sys.executable, ROOT / "tools" / "check_isa_objects.py", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == bool(finding), result.stdout
    assert finding in result.stdout and result.stdout.count("libm's") == bool(finding)
