"""pythia-cpu and what is outside it: Ctrl-C, closed pipes, full disks, streams that do not block."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import pythia_cpu


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


def start(binary: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [binary, "generate", "-n", "2000", "--ignore-eos", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # communicate() does not see what a buffered read took beyond its own bytes
        **options,
    )


def interrupted(binary: Path, *arguments: str) -> bytes:
    """What the command has written, ended by Ctrl-C as soon as it can be, at work on something slow."""
    process = subprocess.Popen(
        [binary, *arguments, "-t", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHIA_CPU_ISA": "portable"},
    )
    status = Path(f"/proc/{process.pid}/status")
    while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) >> (signal.SIGINT - 1) & 1:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    written, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"")
    return written


def test_text_streams_and_ctrl_c_ends_it(binary: Path, model: pythia_cpu.Model) -> None:
    process = start(binary, "Once upon a time")
    assert process.stdout is not None
    # The pipe holds less than the whole text: the process cannot have ended before it is read.
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    seen = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    text = (seen + rest).decode()
    assert (process.returncode, errors) == (130, b"")
    whole = model.generate("Once upon a time", max_new_tokens=2000, ignore_eos=True).text
    assert len(whole) > 5000
    assert text.endswith("\n") and whole.startswith(text[:-1])
    assert len(text) < len(whole)


def test_ctrl_c_ends_json_too(binary: Path) -> None:
    """The object says that the text has no end of its own."""
    got = json.loads(interrupted(binary, "generate", "-n", "2000", "--ignore-eos", "--json", "Once upon a time"))
    assert got["finish_reason"] is None and len(got["tokens"]) < 2000


def test_ctrl_c_ends_scoring(binary: Path, tmp_path: Path) -> None:
    """Nothing is written of a text or of a batch of lines that is not scored whole."""
    (tmp_path / "text.txt").write_text("a b c d " * 20_000)
    (tmp_path / "lines.jsonl").write_text((json.dumps({"text": "a b c d " * 500}) + "\n") * 40)
    for name in ("text.txt", "lines.jsonl"):
        assert interrupted(binary, "score", str(tmp_path / name)) == b""


def test_an_ignored_ctrl_c_stays_ignored(binary: Path, model: pythia_cpu.Model) -> None:
    """As shells start the background jobs of scripts."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(binary, "-n", "1500", "Once upon a time")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert process.stdout is not None
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    seen = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")
    whole = model.generate("Once upon a time", max_new_tokens=1500, ignore_eos=True).text
    assert (seen + rest).decode() == whole + "\n"


def test_ctrl_c_ends_a_batch_between_lines(binary: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"Chapter {i}\n" for i in range(2000)))
    process = start(binary, "-n", "30", "--batch", "--prompt-file", str(path))
    assert process.stdout is not None
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"")
    got = [json.loads(line) for line in (first + rest).decode().splitlines()]
    assert 1 <= len(got) < 2000
    assert [one["index"] for one in got] == list(range(len(got)))
    assert all(one["prompt"] == f"Chapter {one['index']}" for one in got)
    assert got[0]["finish_reason"] == "length"
    assert {(one["finish_reason"], len(one["tokens"]) == 30) for one in got} <= {("length", True), (None, False)}


def test_lines_of_long_records_come_while_others_are_scored(binary: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    line = json.dumps({"text": " a b" * 300}) + "\n"
    path.write_text(line * 2000)
    command = [binary, "score", path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, b"")
    found = [json.loads(one) for one in (first + rest).splitlines()]
    assert 0 < len(found) < 2000 and [one["index"] for one in found] == list(range(len(found)))


def test_progress_on_a_terminal(binary: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("a b c d " * 60)
    primary, terminal = os.openpty()
    slow = {**os.environ, "PYTHIA_CPU_ISA": "portable"}
    command = [binary, "score", "-t", "1", path]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, env=slow, check=True)
    os.close(terminal)
    shown = os.read(primary, 1 << 16)
    os.close(primary)
    assert b"perplexity" in process.stdout
    assert re.fullmatch(rb"(\r\x1b\[Kscoring: \d+% of \d+ tokens)+\r\x1b\[K", shown)


def test_closed_pipe_and_full_disk(binary: Path) -> None:
    process = start(binary, "Once")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(5)
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [binary, "generate", "Once"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert result.returncode == 1
    assert result.stderr == b"pythia-cpu: standard output: No space left on device\n"


def test_streams_that_do_not_block(binary: Path, model: pythia_cpu.Model) -> None:
    """Another process that shares them may have made them so: the binary waits for what it reads and writes."""
    text = "a b c d " * 1000
    input_end, text_end = os.pipe()
    lines_end, output_end = os.pipe()
    fcntl.fcntl(output_end, fcntl.F_SETPIPE_SZ, 4096)
    for end in (input_end, output_end):
        os.set_blocking(end, False)
    process = subprocess.Popen(
        [binary, "tokenize", "-"], stdin=input_end, stdout=output_end, stderr=subprocess.PIPE, bufsize=0
    )
    os.close(input_end)
    os.close(output_end)
    time.sleep(0.2)  # it finds nothing to read
    with open(text_end, "w") as source:
        source.write(text)
    time.sleep(0.2)  # it finds no room to write
    with open(lines_end) as lines:
        ids = [int(line) for line in lines]
    errors = process.communicate(timeout=60)[1]
    assert (process.returncode, errors) == (0, b"")
    assert ids == model.tokenizer.encode(text)
