"""The cache of converted checkpoints, and the pythia-convert command."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from checkpoints import MINI_PYTHIA, write_checkpoint
from pythia_cpu import CheckpointError, _core
from pythia_cpu._cache import _locked, cache_folder, cached_conversion, clear_cache, list_cache
from pythia_cpu._cli_convert import main

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}
IDENTITY = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def cached(tmp_path: Path) -> Callable[..., Path]:
    def convert(source: Any, revision: Any = None, weights: str = "auto") -> Path:
        return cached_conversion(source, revision, weights, tmp_path / "cache", False)

    return convert


def test_a_checkpoint_is_converted_once(tmp_path: Path, cached: Callable[..., Path]) -> None:
    folder = write_checkpoint(tmp_path / "my model", **SMALL)
    auto = cached(folder)
    inode = auto.stat().st_ino
    assert auto.parent == tmp_path / "cache" / "my--model"
    assert cached(folder).stat().st_ino == inode
    assert cached(folder, weights="f16").stat().st_ino == inode
    q8 = cached(folder, weights="q8")
    assert q8.stat().st_ino != inode
    assert _core.PcpuFile.open(str(auto)).weights == "f16"
    assert _core.PcpuFile.open(str(q8)).weights == "q8"
    assert [file.path.name.rsplit("-", 1)[1] for file in list_cache(tmp_path / "cache")] == ["f16.pcpu", "q8.pcpu"]


def test_a_changed_checkpoint_is_converted_again(tmp_path: Path, cached: Callable[..., Path]) -> None:
    folder = write_checkpoint(tmp_path / "c", seed=1, **SMALL)
    first = cached(folder)
    weights = folder / "model.safetensors"
    times = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and time as before
    second = cached(folder)
    assert first != second
    assert first.read_bytes() != second.read_bytes()


def test_revisions_of_a_folder_are_apart(cached: Callable[..., Path]) -> None:
    for step in (1800, "1800", np.int64(1800)):
        assert cached(MINI_PYTHIA.parent, step) == cached(MINI_PYTHIA.parent, "step1800")
    assert _core.PcpuFile.open(str(cached(MINI_PYTHIA.parent, 1800))).metadata["revision"] == "step1800"
    with pytest.raises(CheckpointError, match="has no subfolder 'step5'"):
        cached(MINI_PYTHIA.parent, 5)


def test_failures_leave_nothing(tmp_path: Path, cached: Callable[..., Path]) -> None:
    folder = write_checkpoint(tmp_path / "c", **SMALL, config_updates={"num_hidden_layers": 3})
    with pytest.raises(CheckpointError, match="12 tensors are missing"):
        cached(folder)
    assert [path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [".lock"]
    with pytest.raises(ValueError, match="'f8', expected one of"):
        cached(folder, weights="f8")


def test_many_processes_convert_once(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", **{**SMALL, "hidden_size": 256, "vocab_size": 20000})
    code = (
        "import sys; import pythia_cpu._cache as c; convert = c.convert_checkpoint\n"
        "def counted(*a, **k):\n    print('converting', file=sys.stderr); return convert(*a, **k)\n"
        "c.convert_checkpoint = counted\n"
        "path = c.cached_conversion(sys.argv[1], None, sys.argv[3], sys.argv[2], False)\n"
        "from pythia_cpu import _core; print(_core.PcpuFile.open(str(path)).fingerprint, path.resolve().name)"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "cache")]
    processes = [
        subprocess.Popen([*command, "auto"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, results
    assert "".join(errors for _, errors in results).count("converting") == 1
    assert len({output for output, _ in results}) == 1


def test_a_killed_process_stops_nobody(tmp_path: Path) -> None:
    """One that is killed while it converts leaves the lock to the next, and nothing that would be taken for a model."""
    folder, cache = (
        write_checkpoint(tmp_path / "c", **{**SMALL, "hidden_size": 256, "vocab_size": 20000}),
        tmp_path / "cache",
    )
    code = (
        "import sys, time; from pythia_cpu import _core; import pythia_cpu._cache as c\n"
        "_core.convert_elements = lambda *_: time.sleep(60)\n"
        "c.cached_conversion(sys.argv[1], None, 'auto', sys.argv[2], False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder), str(cache)])
    deadline = time.monotonic() + 60
    while not list(cache.rglob("*.partial-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not list_cache(cache)
    path = cached_conversion(folder, cache_dir=cache, progress=False)
    assert _core.PcpuFile.open(str(path)).weights == "f16"
    assert len(list_cache(cache)) == 1
    assert not list(cache.rglob("*.partial-*"))


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.setenv("PYTHIA_CPU_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("PYTHIA_CPU_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "pythia-cpu"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c" / ".cache" / "pythia-cpu"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)  # nobody that this machine knows
    with pytest.raises(OSError, match="set PYTHIA_CPU_CACHE"):
        cache_folder()


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("no folder")
    with pytest.raises(NotADirectoryError, match="; set PYTHIA_CPU_CACHE or cache_dir to a folder .*home"):
        pythia_cpu.load(write_checkpoint(tmp_path / "my model", **SMALL), cache_dir=tmp_path / "home/.cache")


def test_clearing_removes_conversions_and_nothing_else(tmp_path: Path, cached: Callable[..., Path]) -> None:
    assert clear_cache(tmp_path / "none") == 0
    path = cached(write_checkpoint(tmp_path / "c", **SMALL))
    size = path.stat().st_size
    (tmp_path / "cache" / "mine.txt").write_text("x")
    (path.parent / "also mine.txt").write_text("x")
    (path.parent / "mine-v2-q8.pcpu").write_text("x")
    path.with_name(f"{IDENTITY}-v4-q8.pcpu.partial-1-0").write_text("left behind")
    assert clear_cache(tmp_path / "cache") == size + len("left behind")
    assert sorted(p.name for p in (tmp_path / "cache").rglob("*")) == [
        "also mine.txt", "c", "mine-v2-q8.pcpu", "mine.txt",
    ]  # fmt: skip
    assert not list_cache(tmp_path / "cache")
    assert cached(tmp_path / "c").exists()


def test_clearing_leaves_what_is_being_converted(tmp_path: Path, cached: Callable[..., Path]) -> None:
    path = cached(write_checkpoint(tmp_path / "c", **SMALL))
    working = path.with_name(f"{IDENTITY}-v4-q8.pcpu.partial-1-0")
    working.write_text("half")
    lock = path.with_name(f"{IDENTITY}-v4-q8.pcpu.lock")
    with _locked(lock):
        clear_cache(tmp_path / "cache")
        assert sorted(p.name for p in path.parent.iterdir()) == [lock.name, working.name]
    assert clear_cache(tmp_path / "cache") == len("half")
    assert not path.parent.exists()


def test_removing_single_conversions(tmp_path: Path, cached: Callable[..., Path]) -> None:
    cache, mini = tmp_path / "cache", MINI_PYTHIA.parent
    other = cached(write_checkpoint(tmp_path / "c", **SMALL)).resolve()
    f16, q8, whole = (path.resolve() for path in (cached(mini, 1800), cached(mini, 1800, "q8"), cached(MINI_PYTHIA)))

    def remove(*arguments: Any, **options: Any) -> list[Path]:
        return [file.path for file in pythia_cpu.remove_cached(*arguments, cache_dir=cache, **options)]

    assert remove(mini, revision=5) == remove(mini, weights="q4") == remove("pythia-14m") == []
    model = pythia_cpu.load(q8)
    auto = cached(mini, 1800)
    assert remove(mini, revision=1800, weights="q8") == [q8]
    assert model.verify()  # still mapped
    assert auto.is_symlink() and auto.resolve() == f16
    unknown = f16.with_name(f"{f16.name[:8]}f32{IDENTITY[11:]}-v0-q8.pcpu")
    unknown.write_bytes(b"of another version")
    assert remove(mini, revision="step5") == remove(mini, weights="f32") == []
    assert remove(mini, weights="q8") == [unknown]
    assert remove(mini, revision="step1800") == [f16]
    assert not f16.parent.exists()  # with the link that "auto" is, and the locks
    assert remove(MINI_PYTHIA, revision="main") == [whole]
    assert [file.path for file in pythia_cpu.list_cache(cache)] == [other]
    assert remove(tmp_path / "c", revision=other.name.split("-")[0]) == [other]
    assert cached(mini, 1800).exists()
    with pytest.raises(ValueError, match="weights is 'auto', expected one of f32, f16"):
        remove(mini, weights="auto")
    with pytest.raises(CheckpointError, match="is not a folder"):
        remove("no/such/model")


def test_folders_of_one_name_are_apart(tmp_path: Path, cached: Callable[..., Path]) -> None:
    """As those of several runs are; and what is not read makes no other conversion."""
    first, second = (write_checkpoint(tmp_path / run / "step5", **SMALL) for run in "ab")
    kept = cached(second)
    removed = cached(first).resolve()
    (first / "notes.txt").write_text("mine")
    assert cached(first).resolve() == removed
    assert [file.path for file in pythia_cpu.remove_cached(first, cache_dir=tmp_path / "cache")] == [removed]
    assert kept.exists()


def test_removing_by_another_name_of_the_commit(tmp_path: Path, cached: Callable[..., Path]) -> None:
    path = cached(MINI_PYTHIA).resolve()
    link = path.with_name("step9-v0-auto.pcpu")  # as hub models have them
    link.symlink_to(path.name)
    removed = pythia_cpu.remove_cached(MINI_PYTHIA, revision="step9", cache_dir=tmp_path / "cache")
    assert [file.path for file in removed] == [path] and not link.is_symlink()


def test_load_converts_a_folder_into_the_cache(tmp_path: Path) -> None:
    model = pythia_cpu.load(MINI_PYTHIA, cache_dir=tmp_path, progress=False)
    shipped = pythia_cpu.load()
    np.testing.assert_array_equal(model.logits([5, 6, 7]), shipped.logits([5, 6, 7]))
    assert len(list_cache(tmp_path)) == 1


# The command


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHIA_CPU_CACHE", str(tmp_path / "cache"))
    output, report = tmp_path / "m.pcpu", tmp_path / "report.json"
    arguments = [str(MINI_PYTHIA.parent), "--revision", "1800", "-o", str(output), "--report", str(report)]
    assert main(arguments) == 0
    assert "mini-pythia at step1800, 2,238,464 parameters in f16" in capsys.readouterr().out
    assert '"weights": "f16"' in report.read_text()
    assert report.stat().st_mode == output.stat().st_mode
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")

    cached_conversion(MINI_PYTHIA, progress=False)
    cached_conversion(MINI_PYTHIA.parent, 1800, progress=False)
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("\n") == 2 and "f16   step1800  " in listed and str(tmp_path / "cache") in listed
    assert main(["--remove", str(MINI_PYTHIA.parent), "--revision", "1800"]) == 0
    assert capsys.readouterr().out.startswith(f"removed 4.9 MB, {tmp_path}/cache/mini-pythia/")
    assert main(["--remove", str(MINI_PYTHIA.parent)]) == 1
    assert "has no such conversion of" in capsys.readouterr().err
    (tmp_path / "cache" / "old").mkdir()
    (tmp_path / "cache" / "old" / f"{IDENTITY}-v1-f16.pcpu").write_bytes(b"of long ago")
    assert main(["--list"]) == 0
    assert "0.0 MB  ?     damaged, or of another version  " in capsys.readouterr().out
    left = tmp_path / "cache" / "old" / f"{IDENTITY}-v1-f16.pcpu.partial-1-2"
    left.write_bytes(bytes(200000))
    assert main(["--list"]) == 0
    assert f"0.2 MB  ?     unfinished; if it is none's, --clear removes it  {left}\n" in capsys.readouterr().out
    assert main(["--clear"]) == 0
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.startswith("removed 5.1 MB from ")


def test_revisions_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHIA_CPU_CACHE", str(tmp_path))
    for revision in ("step0", "step1"):
        write_checkpoint(tmp_path / "run" / revision, **SMALL)
        cached_conversion(tmp_path / "run", revision, progress=False)
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert "run@step0  " in listed and "run@step1  " in listed


def test_who_reads_has_seen_enough(tmp_path: Path) -> None:
    cached_conversion(MINI_PYTHIA, cache_dir=tmp_path, progress=False)
    program = "import sys; from pythia_cpu._cli_convert import main; sys.stdin.read(); sys.exit(main(['--list']))"
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHIA_CPU_CACHE": str(tmp_path)}
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, **pipes) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_sweeps_side_by_side(tmp_path: Path) -> None:
    """Processes that convert and remove each its own revision do not see each other."""
    run, cache = tmp_path / "run", tmp_path / "cache"
    for step in range(1, 4):
        write_checkpoint(run / f"step{step}", **SMALL)
    program = """
import pythia_cpu, sys
run, cache, own = sys.argv[1:]
for turn in range(30):
    pythia_cpu.load(run, revision=own, cache_dir=cache)
    assert len(pythia_cpu.remove_cached(run, revision=own, cache_dir=cache)) == 1
"""
    steps = ("step1", "step2", "step3")
    sweeps = [subprocess.Popen([sys.executable, "-c", program, run, cache, step]) for step in steps]
    assert [sweep.wait(120) for sweep in sweeps] == [0, 0, 0]


def test_the_instruction_set_is_known_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHIA_CPU_ISA", "mmx")
    monkeypatch.setattr("pythia_cpu._convert.convert_checkpoint", None)
    with pytest.raises(ValueError, match="mmx"):
        pythia_cpu.convert(MINI_PYTHIA, tmp_path / "m.pcpu", progress=False)


def test_a_conversion_removed_before_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = []

    def converted_and_removed(*arguments: Any) -> Path:
        path = cached_conversion(*arguments)
        if not removed:
            removed.extend(pythia_cpu.remove_cached(MINI_PYTHIA, cache_dir=tmp_path))
        return path

    monkeypatch.setattr("pythia_cpu._cache.cached_conversion", converted_and_removed)
    model = pythia_cpu.load(MINI_PYTHIA, cache_dir=tmp_path, threads=3)
    assert len(removed) == 1 and model.config.num_hidden_layers == 6
    assert model.threads == 3


def test_a_lock_that_is_removed_while_one_waits(tmp_path: Path) -> None:
    """Who gets it then has a file of no name, and makes a new one, which others see."""
    path, order = tmp_path / "x.lock", []

    def wait() -> None:
        with _locked(path):
            order.append(path.exists())

    with _locked(path):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        path.unlink()
    thread.join(30)
    assert order == [True]


def test_command_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path / "c", **SMALL, config_updates={"hidden_act": "mish"})
    for arguments, message in (
        ([str(folder), "-o", str(tmp_path / "m")], "hidden_act is 'mish', which is not supported"),
        ([str(MINI_PYTHIA), "-o", str(tmp_path / "none" / "m")], "none/m"),
        ([str(MINI_PYTHIA), "-o", str(tmp_path)], "Is a directory"),
        ([str(MINI_PYTHIA), "-o", str(tmp_path / "m"), "--revision", "5"], "has no subfolder 'step5'"),
        ([str(MINI_PYTHIA), "-o", str(tmp_path / "m"), "--revision", ".."], "has no subfolder '..'"),
        (["", "-o", str(tmp_path / "m")], "source is empty, expected a path"),
        ([str(MINI_PYTHIA), "-o", ""], "path is empty, expected a path"),
    ):
        assert main(arguments) == 1
        out, errors = capsys.readouterr()
        assert out == "" and errors.startswith("pythia-convert: ") and errors.count("\n") == 1
        assert message in errors


def test_command_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHIA_CPU_CACHE", str(tmp_path))
    for arguments in (
        [],
        ["x"],
        ["-o", "m"],
        ["x", "-o", "m", "--weights", "f8"],
        ["x", "--list"],
        ["--list", "--weights", "q8"],
        ["--clear", "--revision", "3"],
        ["--nonsense"],
        ["--remove"],
        ["x", "--remove", "--weights", "auto"],
        ["x", "-o", "-"],
        ["x", "-o", "m", "--report", "-"],
        ["x", "-o", "m", "--report", "./m"],
        ["x", "-o", "m", "--report-text", "m"],
        ["x", "-o", "m", "--report", "r", "--report-text", "r"],
        ["x", "-o", "m", "-q", "--report-text", "t"],
        ["--list", "--report", "r"],
        ["--clear", "--report-text", "t"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: pythia-convert" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "--revision" in capsys.readouterr().out
