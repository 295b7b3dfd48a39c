"""pythia-convert and files of users: nothing of theirs is lost, and what it leaves or cannot read is no obstacle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pythia_cpu
from checkpoints import MINI_PYTHIA, write_checkpoint
from pythia_cpu._cache import cached_conversion, list_cache
from pythia_cpu._cli_convert import main

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHIA_CPU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "link"])
@pytest.mark.parametrize("option", ["-o", "--report"])
def test_files_of_the_checkpoint_are_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, option: str
) -> None:
    folder = write_checkpoint(tmp_path / "run" / "step5", **SMALL)
    path = folder / name
    if name == "link":
        path = tmp_path / "link"
        path.symlink_to(folder / "model.safetensors")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    others = [] if option == "-o" else ["-o", str(tmp_path / "m.pcpu")]
    assert main([str(folder.parent), "--revision", "5", option, str(path), *others]) == 1
    assert capsys.readouterr().err == (
        f"pythia-convert: {path}: is a file of the checkpoint, which would be lost: name another\n"
    )
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert main([str(folder), "-o", str(folder / "m.pcpu"), "-q"]) == 0  # beside them is fine, and again
    assert main([str(folder), "-o", str(folder / "m.pcpu"), "-q"]) == 0


def test_leftovers_of_killed_conversions_are_removed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", **SMALL)
    leftover = tmp_path / "m.pcpu.partial-1-0"
    others = [tmp_path / name for name in ("m.pcpu.partial-notes", "n.pcpu.partial-1-0", "m.pcpu.partial")]
    for path in (leftover, *others):
        path.write_text("x")
    (tmp_path / "m.pcpu.partial-2-0").mkdir()
    config = pythia_cpu._core.PcpuFile.open(str(pythia_cpu.load()._file.path)).config
    with pythia_cpu._core.PcpuWriter(str(tmp_path / "m.pcpu"), config, "f16"):  # another one, at work
        assert not leftover.exists()
        (working,) = tmp_path.glob(f"m.pcpu.partial-{os.getpid()}-*")
        assert main([str(folder), "-o", str(tmp_path / "m.pcpu"), "-q"]) == 0
        assert working.exists()
    assert all(path.exists() for path in others)


def test_what_is_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time")
    assert main([str(MINI_PYTHIA), "-o", str(tmp_path / "m.pcpu"), "--report-text", str(text)]) == 0
    assert capsys.readouterr().out.endswith("\nf16 holds every value exactly: nothing to measure\n")


def test_a_model_is_whole_where_its_measurement_finds_no_room(tmp_path: Path) -> None:
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000));"  # q8 takes 3.3 MB, f16 4.9
        "from pythia_cpu._cli_convert import main; sys.exit(main(sys.argv[1:]))"
    )
    output, report = tmp_path / "m.pcpu", tmp_path / "r.json"
    command = [sys.executable, "-c", limited, str(MINI_PYTHIA), "-o", str(output), "--weights", "q8"]
    done = subprocess.run([*command, "--report", str(report)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "predictions not compared: the lossless weights cannot be kept beside the output: File too large" in done.stdout
    )
    assert pythia_cpu.load(output).verify() and "cannot be kept" in report.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pcpu", "r.json"]


def test_conversions_of_a_folder_that_is_gone(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_checkpoint(tmp_path / name / "run", **SMALL)
        cached_conversion(tmp_path / name / "run", progress=False)
    shutil.rmtree(tmp_path / "a")
    assert main(["--remove", "a/run"]) == 0  # by its name
    (left,) = list_cache()
    shutil.rmtree(tmp_path / "b")
    assert main(["--remove", str(left.path), "--weights", "q8"]) == 1
    assert main(["--remove", str(left.path)]) == 0  # as --list gives it
    assert list_cache() == []
    capsys.readouterr()
    assert main(["--remove", "a/run/never"]) == 1
    assert "a/run/never: is not a folder, and not a hub id" in capsys.readouterr().err


def test_what_others_keep_in_the_cache(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path / "c", **SMALL)
    kept = cached_conversion(folder, progress=False).resolve()
    mine = cache / "mine" / "precious-v2-q8.pcpu"
    (mine.parent / "folder.pcpu").mkdir(parents=True)
    shutil.copy(kept, mine)
    damaged = kept.with_name(f"{kept.name[:40]}-v1-q8.pcpu")
    damaged.write_bytes(b"garbage")
    assert [file.path for file in list_cache()] == sorted([kept, damaged])
    assert main(["--duplicates"]) == 0
    out, errors = capsys.readouterr()
    assert out == "1 file compared, nothing found that is in two of them\n"
    assert errors == f"pythia-convert: {damaged}: damaged, or of another version: left out\n"
    assert main(["--duplicates", str(mine), str(kept)]) == 0
    assert "equal checkpoints:" in capsys.readouterr().out
    assert main(["--clear"]) == 0
    assert mine.exists() and not kept.exists() and not damaged.exists()


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup: a closed terminal stops no conversion."""
    seen = []

    def noted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGHUP)
        seen.append([signal.getsignal(signum) for signum in (signal.SIGHUP, signal.SIGTERM)])
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr("pythia_cpu._cli_convert.convert", noted)
        assert main([str(tmp_path), "-o", str(tmp_path / "m.pcpu")]) == 130
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    ((of_hangup, of_end),) = seen
    assert of_hangup == signal.SIG_IGN and callable(of_end)
