"""pythia-cpu score: the figures of the Python module, in the forms the binary writes them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import pythia_cpu

TEXT = "It was a dark and stormy night; the rain fell in torrents.\n\n“Who is there?” cried the old man. " * 20 + "\n"


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("score") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def run(binary: Path, *arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [binary, "score", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


def output(binary: Path, *arguments: str | Path, stdin: bytes = b"") -> str:
    result = run(binary, *arguments, stdin=stdin)
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout.decode("utf-8")


def test_summary(binary: Path, model: pythia_cpu.Model, text_file: Path) -> None:
    lines = dict(line.rsplit(maxsplit=1) for line in output(binary, text_file).splitlines())
    expected = model.perplexity(TEXT)
    assert int(lines["tokens"]) == int(lines["scored"]) == expected.num_tokens
    assert float(lines["log-likelihood"]) == pytest.approx(-expected.nll, rel=1e-7)
    assert float(lines["perplexity"]) == pytest.approx(expected.value, rel=1e-7)
    assert float(lines["bits per byte"]) == pytest.approx(expected.bits_per_byte, rel=1e-7)
    assert output(binary, "-", stdin=TEXT.encode()) == output(binary, text_file, "--threads", "1")


@pytest.mark.parametrize("stride", [0, 50, 128])
def test_json_and_windows(binary: Path, model: pythia_cpu.Model, text_file: Path, stride: int) -> None:
    options = ["--stride", str(stride)] if stride else []
    found = json.loads(output(binary, "--json", "--per-token", "-c", "128", *options, text_file))
    expected = model.perplexity(TEXT, context_length=128, stride=stride or None)
    assert found["num_tokens"] == expected.num_tokens == len(found["tokens"]) == len(found["is_greedy"])
    assert found["perplexity"] == pytest.approx(expected.value, rel=1e-12)
    assert found["log_likelihood"] == pytest.approx(-expected.nll, rel=1e-12)
    assert found["num_bytes"] == expected.num_bytes
    assert found["num_greedy"] == sum(found["is_greedy"])


def test_lines_of_tokens(binary: Path, model: pythia_cpu.Model, text_file: Path) -> None:
    ids = model.tokenizer.encode(TEXT)
    score = model.score([0], ids)  # the text is shorter than the context
    rows = [line.split("\t") for line in output(binary, "--per-token", text_file).splitlines()]
    assert [int(row[0]) for row in rows] == ids
    np.testing.assert_array_equal(np.array([row[1] for row in rows], np.float32), score.logprobs)
    assert [row[2] == "1" for row in rows] == score.is_greedy.tolist()
    assert json.loads(rows[0][3]) == model.tokenizer.decode(ids[:1])


def test_errors(binary: Path, text_file: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    for status, message, arguments in [
        (2, "found 0 files", []),
        (2, "found 2 files", [text_file, text_file]),
        (2, "--stride is 0", ["--stride", "0", text_file]),
        (2, "--stride is 65, expected 1 to 64", ["--stride", "65", "-c", "64", text_file]),
        (2, "--context-length is 4096, expected 2 to 2048", ["-c", "4096", text_file]),
        (2, "--context-length is 4096", ["-c", "4096", "--jsonl", empty]),
        (2, "--stride is 2049, expected 1 to 2048", ["--stride", "2049", "--jsonl", empty]),
        (1, "missing.txt", [tmp_path / "missing.txt"]),
        (1, "has 0 tokens", [empty]),
    ]:
        result = run(binary, *arguments)
        assert (result.returncode, result.stdout) == (status, b"")
        assert message in result.stderr.decode() and result.stderr.count(b"\n") == 1
    assert "usage: pythia-cpu score" in output(binary, "--help")


def test_bytes_of_what_is_scored(binary: Path, model: pythia_cpu.Model, tmp_path: Path) -> None:
    """With a stride some tokens have nothing before them; the rest has the bits per byte of its own bytes."""
    text = TEXT.strip()  # no piece before the first word or after the last
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())  # with a byte order mark
    ids = model.tokenizer.encode(text)
    disjoint = range(0, len(ids), 16)
    for options, begins in (([], []), (["-c", "16", "-s", "5"], [0]), (["-c", "16", "-s", "16"], disjoint)):
        found = json.loads(output(binary, "--json", *options, tmp_path / "text.txt"))
        expected = len(text.encode()) - sum(len(model.tokenizer.token_bytes(ids[i])) for i in begins)
        assert found["num_bytes"] == expected
        assert found["num_tokens"] == len(ids) - len(begins)
        windows = {name: int(value) for name, value in zip(("context_length", "stride"), options[1::2], strict=False)}
        perplexity = model.perplexity(text, **windows)
        assert (perplexity.num_bytes, perplexity.nll) == (expected, -found["log_likelihood"])
        assert perplexity.bits_per_byte == pytest.approx(found["bits_per_byte"])
        words = len(re.split(r"\s+", text))
        starts = {m.start() for m in re.finditer(r"(?<!\S)\S", text)}
        offsets = model.tokenizer.offsets(text)
        unscored = sum(any(b <= s < e for s in starts) for b, e in (offsets[i].tolist() for i in begins))
        assert perplexity.num_words == words - unscored
