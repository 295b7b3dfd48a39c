"""Scores in a file: the same as in memory, gone on with after an interruption, and never mixed up."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pythia_cpu
from frames import Table
from pythia_cpu import _progress, _record_file, _score_file, _score_run

STORY = "It was a dark and stormy night, and the old man who sat by the fire said that he would not go. "


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load(threads=2)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LEAST_TOKENS_PER_WRITE", "_MOST_TOKENS_PER_WRITE"):
        monkeypatch.setattr(_score_file, name, 40)


INPUTS: list[Any] = [
    STORY,
    STORY * 3,
    {"id": "“ä”", "text": "Once upon a time"},
    {"id": 7, "context": STORY, "continuation": "The end."},
    {"context": "", "continuation": "Naïve “quotes”"},
    {"context": [5, 6], "continuation": [7]},
    np.arange(100, 160),
    [3],
]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_records(model: pythia_cpu.Model, tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    assert model.score_to_file(INPUTS, path, context_length=16) == len(INPUTS)
    records = read(path)
    assert [record["index"] for record in records] == list(range(len(INPUTS)))
    assert [record.get("id") for record in records] == [None, None, "“ä”", 7, None, None, None, None]
    assert len({record["model"] for record in records}) == 1
    assert len({record["input"] for record in records}) == len(INPUTS)
    for record, one in zip(records, INPUTS, strict=True):
        fields = one if isinstance(one, dict) else {"text": one}
        if "text" in fields:
            expected = model.perplexity(fields["text"], context_length=16)
            assert record["log_likelihood"] == -expected.nll
            assert (record["num_tokens"], record["num_bytes"]) == (expected.num_tokens, expected.num_bytes)
        else:
            score = model.score(fields["context"], fields["continuation"])
            assert record["log_likelihood"] == score.total
            assert record["tokens"] == score.tokens
            for name in ("logprobs", "ranks", "entropies", "varentropies"):
                array = getattr(score, name)
                np.testing.assert_array_equal(np.array(record[name], array.dtype), array)
        assert record["num_greedy"] == record["ranks"].count(0)
        assert math.fsum(map(float, np.array(record["logprobs"], np.float32))) == record["log_likelihood"]
        assert len(record["tokens"]) == len(record["entropies"]) == record["num_tokens"]
    assert model.score_to_file(INPUTS, path, context_length=np.int64(16)) == 0  # type: ignore[arg-type]


def test_bytes_of_continuations(model: pythia_cpu.Model, tmp_path: Path) -> None:
    """White space at a context's end is its continuation's."""
    pairs = [("It was", " dark"), ("It was ", "dark"), ("It was \n\u2003", "the naïve"), (" ", "A"), ("", "A")]
    inputs = [{"context": context, "continuation": continuation} for context, continuation in pairs]
    model.score_to_file([*inputs, {"context": [5, 6], "continuation": [7]}], tmp_path / "scores.jsonl")
    records = read(tmp_path / "scores.jsonl")
    assert [record["num_bytes"] for record in records] == [5, 5, 15, 2, 1, None]
    texts = [record["tokens"] for record in records[:2]]
    assert texts[0] == texts[1] == model.tokenizer.encode(" dark")


@pytest.mark.usefixtures("small_batches")
@settings(max_examples=25)
@given(data=st.data())
def test_goes_on_wherever_it_was_cut(
    model: pythia_cpu.Model, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    per_token = data.draw(st.booleans())
    whole, cut = folder / "whole.jsonl", folder / "cut.jsonl"
    model.score_to_file(INPUTS, whole, per_token=per_token)
    content = whole.read_bytes()
    size = data.draw(st.integers(0, len(content)))
    cut.write_bytes(content[:size])
    kept = content[:size].count(b"\n")
    assert model.score_to_file(iter(INPUTS), cut, per_token=per_token) == len(INPUTS) - kept
    assert cut.read_bytes() == content


def test_zeros_that_a_crash_left(model: pythia_cpu.Model, tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    model.score_to_file(["It was"], path)
    content = path.read_bytes()
    for rest in (b"\0" * 100, content[:50] + b"\0" * 50, content[:4] + b"\0"):
        path.write_bytes(rest)
        assert model.score_to_file(["It was"], path) == 1
        assert path.read_bytes() == content


def test_no_room(model: pythia_cpu.Model, tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "scores.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device: .*scores.jsonl"):
            model.score_to_file(["It was"], path)
    with pytest.raises(ValueError, match="path is None of type NoneType, expected a path"):
        model.score_to_file(["It was"], None)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_batches")
def test_interrupted(model: pythia_cpu.Model, tmp_path: Path) -> None:
    def inputs(stop: bool) -> Iterator[Any]:
        for number, one in enumerate(INPUTS):
            if stop and number == 5:
                raise KeyboardInterrupt
            yield one
            written.append(path.read_bytes().count(b"\n"))  # a process that is killed leaves as much

    written: list[int] = []
    path, whole = tmp_path / "scores.jsonl", tmp_path / "whole.jsonl"
    with pytest.raises(KeyboardInterrupt):
        model.score_to_file(inputs(True), path)
    kept = len(read(path))
    assert 0 < kept <= 5
    assert model.score_to_file(inputs(False), path) == len(INPUTS) - kept
    model.score_to_file(INPUTS, whole)
    assert path.read_bytes() == whole.read_bytes()
    assert written == [0, 2, 2, 2, 5, 5, 5, 5, 5, 5, 5, 7, 7]


def test_what_is_written_at_once(model: pythia_cpu.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as takes ten seconds, by the speed of the last time, within bounds."""
    monkeypatch.setattr(_score_file, "_LEAST_TOKENS_PER_WRITE", 40)
    monkeypatch.setattr(_score_file, "_MOST_TOKENS_PER_WRITE", 300)
    durations = iter([5.0, 8.0, 1.0, 0.0, 1000.0, 5.0])
    times = (t for begin, taken in enumerate(durations) for t in (2000.0 * begin, 2000.0 * begin + taken))
    monkeypatch.setattr(_score_file, "time", SimpleNamespace(monotonic=lambda: next(times)))
    path = tmp_path / "scores.jsonl"
    written = []

    def inputs() -> Iterator[list[int]]:
        for i in range(86):
            written.append(path.read_bytes().count(b"\n"))
            yield [i] * 9  # ten tokens with the first, which none scores

    assert model.score_to_file(inputs(), path) == 86
    assert sorted(set(written)) == [0, 4, 12, 22, 52, 82]


def test_bars(model: pythia_cpu.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, int | None, bool]] = []

    class Bar(_progress.ProgressBar):
        def __init__(self, total: int | None, *, what: str, unit: str, enabled: bool) -> None:
            shown.append((unit, total, enabled))
            super().__init__(total, what=what, unit=unit, enabled=False)

    monkeypatch.setattr(_record_file, "ProgressBar", Bar)
    monkeypatch.setattr(_score_run, "ProgressBar", Bar)
    for options in ({}, {"progress": False}):
        model.score([5, 6, 7], **options)  # type: ignore[call-overload]
        model.perplexity([5, 6, 7], **options)  # type: ignore[arg-type]
        model.word_surprisals("the", **options)  # type: ignore[call-overload]
        model.score_to_file([[5]], tmp_path / f"{options}.jsonl", **options)  # type: ignore[arg-type]
        model.score_to_file(iter([[5]]), tmp_path / f"{options}.jsonl", **options)  # type: ignore[arg-type]
        enabled = not options
        texts = [(" texts", 1, enabled), (" tokens", 1, False), (" texts", None, enabled)]
        assert shown == [(" tokens", 2, enabled), (" tokens", 3, enabled), (" tokens", 1, enabled), *texts]
        shown.clear()


def test_foreign_files(
    model: pythia_cpu.Model, tmp_path: Path, mini_checkpoint: Path, make_model_file: Callable[..., Path]
) -> None:
    path = tmp_path / "scores.jsonl"
    texts = ["Once upon", "It was"]
    model.score_to_file(texts, path)
    content = path.read_bytes()
    other = pythia_cpu.load(make_model_file(mini_checkpoint, "q4"))
    for call, message in [
        (lambda: other.score_to_file(texts, path), "line 1: was made from another model or weight format"),
        (lambda: model.score_to_file(["Once upon", "It is"], path), "line 2: was made from another input"),
        (
            lambda: model.score_to_file(texts, path, per_token=False),
            "line 1: was made from another input or with other",
        ),
        (lambda: model.score_to_file(texts, path, context_length=9), "other options"),
        (lambda: model.score_to_file(texts[:1], path), "more records than there are inputs, 1"),
        (
            lambda: model.score_to_file([{"id": 1, "text": texts[0]}], path),
            "line 1: was made from an input with another id",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
        assert path.read_bytes() == content
    moved = content.replace(b'{"index": 0', b'{"index": 1')
    other_spacing = content.replace(b": ", b":")
    for changed, message in [
        (moved, "line 1: was made from an input in another place"),
        (other_spacing, "line 1: is no record of scores"),
        (b"notes\n", "line 1: is no record of scores"),
        (b"[]\n", "line 1: is no record of scores"),
        (b'{"my": "results of a week"}', "line 1: is no record of scores"),
        (content + b"notes", "line 3: is no record of scores"),
        (content[:60] + b"\n", "line 1: is no record of scores"),
        (content[:120] + b"\n", "line 1: the record is damaged"),
        (content[:120] + 40 * b"\0" + b"}\n", "line 1: the record is damaged"),
        (content.replace(b"\n", b"\r\n"), "line 1: the record is damaged"),
    ]:
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=message):
            model.score_to_file(texts, path)
        assert path.read_bytes() == changed


def test_other_members_and_ids(model: pythia_cpu.Model, tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.jsonl", tmp_path / "scores.jsonl"
    model.score_to_file([{"id": 5, "text": "Once"}, {"id": 0.5, "text": "It"}, {"id": "a", "text": "He"}], plain)
    content = plain.read_bytes()
    model.score_to_file(
        [
            {"text": "Once", "meta": {"pile_set_name": "Books3"}, "id": np.int64(5)},
            {"text": "It", "id": np.float32(0.5), 7: None},
            {"text": np.str_("He"), "id": np.str_("a"), "score": math.nan},
        ],
        path,
    )
    assert path.read_bytes() == content
    plain.write_bytes(content[: content.index(b"\n") + 1])  # a file is gone on with whatever the other members are
    model.score_to_file(
        [{"id": 5, "text": "Once", "meta": 1}, {"id": 0.5, "text": "It"}, {"id": "a", "text": "He"}], plain
    )
    assert plain.read_bytes() == content


def test_members_that_are_none_are_missing(model: pythia_cpu.Model, tmp_path: Path) -> None:
    """As tables write them where some rows are texts and others pairs."""
    inputs = [{"text": "It was"}, {"context": "It", "continuation": " was", "id": 3}]
    table = [{"text": None, "context": None, "continuation": None, "id": None, **one} for one in inputs]
    for name, items in (("a", inputs), ("b", table)):
        model.score_to_file(items, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(ValueError, match=r"inputs\[0\] has \[\], expected 'text'"):
        model.score_to_file([{"text": None}], tmp_path / "c")


@pytest.mark.parametrize("stride", [None, 8])
def test_texts_without_tokens(model: pythia_cpu.Model, binary: Path, tmp_path: Path, stride: int | None) -> None:
    """The records of the binary."""
    inputs = [{"text": ""}, {"text": "Once upon a time", "note": [1]}, {"text": "", "id": "a"}, {"text": "a"}]
    model.score_to_file(inputs, tmp_path / "scores.jsonl", stride=stride, context_length=8)
    lines = "".join(json.dumps(one) + "\n" for one in inputs).encode()
    command = [
        binary,
        "score",
        "--jsonl",
        "--per-token",
        "-c",
        "8",
        *([] if stride is None else ["-s", str(stride)]),
        "-",
    ]
    output = subprocess.run(command, input=lines, capture_output=True, timeout=120, check=True).stdout
    for record, other in zip(read(tmp_path / "scores.jsonl"), map(json.loads, output.splitlines()), strict=True):
        for name in record.keys() - {"model", "input", "log_likelihood"}:
            assert record[name] == other[name], name
        assert record["log_likelihood"] == pytest.approx(other["log_likelihood"], rel=1e-12)
    whole = (tmp_path / "scores.jsonl").read_bytes()
    (tmp_path / "scores.jsonl").write_bytes(whole[: whole.index(b"\n") + 1])
    assert model.score_to_file(inputs, tmp_path / "scores.jsonl", stride=stride, context_length=8) == 3
    assert (tmp_path / "scores.jsonl").read_bytes() == whole
    assert model.score_to_file([[], ""], tmp_path / "empty.jsonl") == 2  # no pass at all
    assert [record["num_bytes"] for record in read(tmp_path / "empty.jsonl")] == [None, 0]


def test_one_writer_at_a_time(model: pythia_cpu.Model, tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"

    def inputs() -> Iterator[str]:
        with pytest.raises(ValueError, match="being written by another process"):
            model.score_to_file(["Once"], path)
        yield "Once"

    assert model.score_to_file(inputs(), path) == 1


def test_what_tables_have_for_missing_cells(model: pythia_cpu.Model, tmp_path: Path) -> None:
    full = [{"text": "It was"}, {"context": "It", "continuation": " was", "id": 3.5}]
    names = ["text", "context", "continuation", "id"]
    for number, missing in enumerate((None, math.nan, np.float64(math.nan))):
        rows = [{name: row.get(name, missing) for name in names} for row in full]
        assert model.score_to_file(rows, tmp_path / f"{number}.jsonl") == 2
        assert read(tmp_path / f"{number}.jsonl") == read(tmp_path / "0.jsonl")


def test_bad_inputs(model: pythia_cpu.Model, tmp_path: Path) -> None:
    cases: list[tuple[Any, str]] = [
        ("Once", "inputs is of type str"),
        ({"text": "Once"}, "inputs is of type dict"),
        (None, "inputs is of type NoneType, expected texts"),
        (Path("texts.txt"), "inputs is of type PosixPath, expected texts"),
        (Table(), r"inputs is of type Table.*pass one column, or \.to_dict\('records'\)"),
        (["Once", {"context": "a", "continuation": ""}], r"inputs\[1\]: continuation has no tokens"),
        ([{"text": "a", "context": "b"}], r"inputs\[0\] has \['context', 'text'\]"),
        ([{"texts": "a", 5: "b"}], r"inputs\[0\] has \['5', 'texts'\]"),
        ([{"context": [1] * 2049, "continuation": [1]}], r"inputs\[0\]: context and continuation have 2050 tokens"),
        ([3.5], r"inputs\[0\]"),
        (["Once", b"upon"], r"inputs\[1\] is neither str nor token ids"),
        ([[[1], [1, 2]]], r"inputs\[0\] is neither str nor token ids"),
        *(
            (["Once", {"id": identity, "text": "a"}], rf"inputs\[1\] has the id {shown}")
            for identity, shown in [
                ([1], r"\[1\]"),
                (np.bool_(True), "True"),
                (np.float32(math.inf), "inf"),
                ("\ud800", r"'\\ud800'"),
            ]
        ),
    ]
    for number, (inputs, message) in enumerate(cases):
        path = tmp_path / f"{number}.jsonl"
        with pytest.raises(ValueError, match=message):
            model.score_to_file(inputs, path)
        written = path.read_bytes().count(b"\n") if path.exists() else 0
        assert written == (isinstance(inputs, list) and inputs[0] == "Once")  # what comes before the bad one
    with pytest.raises(ValueError, match="per_token"):
        model.score_to_file(["Once"], tmp_path / "scores.jsonl", per_token=1)  # type: ignore[arg-type]
    with pytest.raises(FileExistsError, match="is no regular file"):
        model.score_to_file(["Once"], "/dev/zero")
    with pytest.raises(OSError, match=r"missing"):
        model.score_to_file(["Once"], tmp_path / "missing" / "scores.jsonl")
