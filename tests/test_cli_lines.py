"""pythia-cpu with lines that come one by one: answers before the next line, and what is left when it is stopped."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pythia_cpu

GENERATE = ("generate", "--batch", "-n", "3", "-")
SCORE = ("score", "--jsonl", "-")
PATIENCE_S = 60


@contextmanager
def started(binary: Path, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([binary, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[bytes], line: str) -> dict[str, Any]:
    """The answer to a line, while the process waits for more."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(line.encode() + b"\n")
    assert select.select([process.stdout], [], [], PATIENCE_S)[0], "no answer before the input ends"
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def test_prompts_are_answered_as_they_come(binary: Path) -> None:
    model = pythia_cpu.load()
    with started(binary, *GENERATE) as process:
        for index, prompt in enumerate(["Once upon", "He said", "Once upon"]):
            answer = ask(process, prompt)
            assert (answer["index"], answer["prompt"]) == (index, prompt)
            assert answer["tokens"] == model.generate(prompt, max_new_tokens=3).tokens
        assert process.communicate(timeout=PATIENCE_S) == (b"", b"")
        assert process.returncode == 0


def test_texts_are_scored_as_they_come(binary: Path) -> None:
    model = pythia_cpu.load()
    with started(binary, *SCORE) as process:
        for index, text in enumerate(["Once upon", "He said"]):
            answer = ask(process, json.dumps({"text": text, "context": None, "continuation": None, "id": None}))
            assert (answer["index"], "id" in answer) == (index, False)
            assert answer["log_likelihood"] == pytest.approx(-model.perplexity(text).nll)
        assert process.communicate(timeout=PATIENCE_S) == (b"", b"")


def test_half_a_line_waits_for_its_end(binary: Path) -> None:
    with started(binary, *GENERATE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"Once ")
        assert not select.select([process.stdout], [], [], 0.3)[0]
        assert ask(process, "upon")["prompt"] == "Once upon"
        process.stdin.write(b"He")  # the last line may have no end
        written, _ = process.communicate(timeout=PATIENCE_S)
        assert json.loads(written)["prompt"] == "He"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_what_is_done_is_written_when_it_is_stopped(binary: Path, signum: signal.Signals) -> None:
    """Also where an earlier text goes on; that is written as far as it came."""
    environment = {**os.environ, "PYTHIA_CPU_ISA": "portable"}
    options = ("-n", "2000", "--ignore-eos", "--stop", "sand", "-t", "1", "-")
    with started(binary, "generate", "--batch", *options, env=environment) as process:
        assert process.stdin is not None
        process.stdin.write(b"Once upon a time\nthousand thousand thousand thou\n")
        model = pythia_cpu.load()
        status = Path(f"/proc/{process.pid}/status")
        while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) >> (signum - 1) & 1:
            time.sleep(0.01)
        with pytest.raises(subprocess.TimeoutExpired):  # the first text takes longer
            process.wait(timeout=1)
        process.send_signal(signum)
        written, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (128 + signum, b"")
    first, second = map(json.loads, written.splitlines())
    assert first["finish_reason"] is None and 0 < len(first["tokens"]) < 2000
    assert first["tokens"] == model.generate("Once upon a time", max_new_tokens=len(first["tokens"])).tokens
    assert second["index"] == 1 and second["finish_reason"] in ("stop", None)


def test_a_bad_line_comes_after_the_answers_before_it(binary: Path) -> None:
    prompts = b"\xef\xbb\xbfOnce\r\nHe said\n\nIt\n"  # with a byte order mark, as Windows writes
    done = subprocess.run([binary, *GENERATE], input=prompts, capture_output=True, timeout=PATIENCE_S, check=False)
    assert [json.loads(line)["prompt"] for line in done.stdout.splitlines()] == ["Once", "He said"]
    assert done.returncode == 1
    assert done.stderr.startswith(b"pythia-cpu: line 3: the prompt is empty") and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "--top-p", "7", "x"), "pythia-cpu: generate: --top-p is 7, expected a number above 0"),
        (("generate", "--stop", "", "x"), "pythia-cpu: generate: a stop string is empty"),
        (("generate", "--logit-bias", "9999999:1", "x"), "pythia-cpu: logit_bias names token 9999999"),
    ],
)
def test_errors_are_for_users_of_the_command(binary: Path, arguments: tuple[str, ...], message: str) -> None:
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stderr.startswith(message)


def test_errors_keep_the_users_own_words(binary: Path) -> None:
    for name in ("a: [x] b.pcpu", "[abc] b.pcpu", "x[model] b.pcpu", "x: [" + "a" * 60_000):
        done = subprocess.run([binary, "info", name], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 1 and done.stderr.startswith(f"pythia-cpu: {name}: ")
    line = '{"x: [' + "a" * 100_000 + '": 1, "x: [' + "a" * 100_000 + '": 2}'
    done = subprocess.run(
        [binary, "score", "--jsonl", "-"], input=line, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1


def test_the_parts_of_messages_are_listed() -> None:
    """The binary leaves them out (csrc/common/errors.h)."""
    folder = Path(__file__).parents[1] / "csrc"
    listed = re.findall(r'"\[([a-z_]+)\] "', (folder / "common/errors.h").read_text())
    others = {folder / "bindings", folder / "cli"}  # errors of the Python extension, and the command's own
    sources = [p for p in folder.rglob("*") if p.suffix in {".cc", ".inl"} and p.parent not in others]
    found = {part for p in sources for part in re.findall(r'"\[([a-z_]+)\] ', p.read_text())}
    assert sorted(found) == sorted(listed)


def test_help_of_a_command_and_a_model_that_the_environment_names(binary: Path) -> None:
    helps = [
        subprocess.run([binary, *words], capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
        for words in (["help", "score"], ["score", "--help"])
    ]
    assert helps[0] == helps[1] != ""
    environment = {**os.environ, "PYTHIA_CPU_MODEL": "/no/such.pcpu"}
    done = subprocess.run(
        [binary, "generate", "x"], capture_output=True, text=True, env=environment, timeout=PATIENCE_S, check=False
    )
    expected = "pythia-cpu: /no/such.pcpu: No such file, expected the .pcpu file that PYTHIA_CPU_MODEL names\n"
    assert (done.returncode, done.stderr) == (1, expected)
