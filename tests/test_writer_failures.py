"""Writers of .pcpu files and threads at bad moments: a full disk, a fork, the end of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tiny_pcpu import CONFIG

# A disk that is full for a while: what was begun must not become a file with a hole.
FULL = f"""
import resource, signal, sys, numpy as np
from pythia_cpu import _core
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = _core.PcpuWriter(sys.argv[1], {CONFIG!r}, "f32")
name, layout, rows, cols = _core.expected_tensors({CONFIG!r})[0]
writer.begin_tensor(name, "f32", "f32")
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
try:
    writer.append(bytes(4 * rows * cols))
except OSError as error:
    print("full", error.filename == sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
for call in (lambda: writer.append(b"1234"), writer.finish):
    try:
        call()
    except ValueError as error:
        print("refused" if "finished or discarded" in str(error) else error)
"""

# A child that ends as processes do, its copies of all objects with it.
FORK = f"""
import os, sys
from pythia_cpu import _core
writer = _core.PcpuWriter(sys.argv[1], {CONFIG!r}, "f32")
before = os.listdir(os.path.dirname(sys.argv[1]))
if (child := os.fork()) == 0:
    sys.exit(0)
os.waitpid(child, 0)
print(len(before), os.listdir(os.path.dirname(sys.argv[1])) == before)
"""

END = """
import threading, time, numpy as np
from pythia_cpu import _core
rows = np.zeros((4000, 4096), np.float32)
threading.Thread(target=_core.log_softmax, args=(rows,), daemon=True).start()
time.sleep(0.02)
"""


def output(script: str, *arguments: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.split("\n")[:-1]


def test_a_write_that_failed_is_the_last(tmp_path: Path) -> None:
    (tmp_path / "m.pcpu").write_bytes(b"what was there")
    assert output(FULL, tmp_path / "m.pcpu") == ["full True", "refused", "refused"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.pcpu"]
    assert (tmp_path / "m.pcpu").read_bytes() == b"what was there"


def test_a_forked_process_leaves_the_file_alone(tmp_path: Path) -> None:
    assert output(FORK, tmp_path / "m.pcpu") == ["1 True"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("attempt", range(3))
def test_threads_run_while_the_process_ends(attempt: int) -> None:
    assert output(END) == []
