"""Memorization scores are those of plain greedy generation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from frames import Column, Table
from pythia_cpu import _memorization, _progress, _record_file


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


def make_rows(model: pythia_cpu.Model, prefix: int, continuation: int) -> np.ndarray:
    """Rows of every kind: written by the model itself, with a token changed here and there, and random."""
    rng = np.random.default_rng(prefix)
    prefixes = rng.integers(1, 4096, (30, prefix))
    greedy = [g.tokens for g in model.generate(prefixes, max_new_tokens=continuation, ignore_eos=True)]
    rows = np.concatenate([prefixes, np.array(greedy)], axis=1)
    for i in range(8, 24):
        rows[i, prefix + i % continuation] = rng.integers(0, 4096)
    rows[24, -1] = (rows[24, -1] + 1) % 4096
    rows[25, prefix] = (rows[25, prefix] + 1) % 4096
    rows[26:, prefix:] = rng.integers(0, 4096, (4, continuation))
    return rows


def expected(model: pythia_cpu.Model, rows: np.ndarray, prefix: int, length: int, **options: Any) -> np.ndarray:
    """Bool [rows, length]: places where generate writes the row's token."""
    texts = model.generate(rows[:, :prefix], max_new_tokens=length, ignore_eos=True, **options)
    return np.array([text.tokens for text in texts]) == rows[:, prefix : prefix + length]


@pytest.mark.parametrize(("prefix", "length"), [(32, 32), (1, 1), (5, 40), (64, 2), (16, 1)])
def test_equals_generate(model: pythia_cpu.Model, prefix: int, length: int) -> None:
    rows = make_rows(model, prefix, length)
    result = model.memorization(rows, prefix_length=prefix, continuation_length=length)
    equal = expected(model, rows, prefix, length)
    assert (result.exact_match.dtype, result.matches.dtype) == (np.bool_, np.int64)
    np.testing.assert_array_equal(result.matches, equal.sum(1))
    np.testing.assert_array_equal(result.exact_match, equal.all(1))
    np.testing.assert_array_equal(result.scores, equal.mean(1))
    for count in range(1, length + 1):  # the first ones alone
        np.testing.assert_array_equal(result.first_mismatch >= count, equal[:, :count].all(1))
    assert 8 <= result.exact_match.sum() < 30


def test_tokens_match_again_after_a_difference(model: pythia_cpu.Model) -> None:
    """A count that stopped at the first difference, or that went on with the row's own tokens, would be another."""
    rows = make_rows(model, 32, 32)
    result = model.memorization(rows)
    equal = expected(model, rows, 32, 32)
    until_first = np.where(equal.all(1), 32, (~equal).argmax(1))
    choices = np.array([logits[31:63].argmax(1) for logits in model.logits(rows)])
    teacher_forced = (choices == rows[:, 32:64]).sum(1)
    assert (result.matches > until_first).any()
    assert (result.matches != teacher_forced).any()


def test_memory_limits_change_nothing(model: pythia_cpu.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(model, 32, 32)
    whole = model.memorization(rows)
    for limits in (
        {"_MAX_ROWS": 7},
        {"_MAX_KV_BYTES": 1},
        {"_MAX_LOGITS_BYTES": 4 * 4096 * 5},
        {"_MAX_LOGITS_BYTES": 1},
    ):
        with monkeypatch.context() as patch:
            for name, value in limits.items():
                patch.setattr(_memorization, name, value)
            result = model.memorization(rows)
        np.testing.assert_array_equal(result.matches, whole.matches)
        np.testing.assert_array_equal(result.exact_match, whole.exact_match)


def test_each_row_is_on_its_own(model: pythia_cpu.Model, tmp_path: Path) -> None:
    rows = make_rows(model, 32, 32)
    whole = model.memorization(rows)
    assert [int(model.memorization(rows[i : i + 1]).matches[0]) for i in range(30)] == whole.matches.tolist()
    longer = np.concatenate([rows, rows[:, :9]], axis=1)
    mapped = np.memmap(tmp_path / "rows.bin", np.uint16, "w+", shape=longer.shape)
    mapped[:] = longer
    for form in (longer, rows.tolist(), mapped, [*rows[:15].tolist(), *longer[15:]]):
        result = model.memorization(form)
        np.testing.assert_array_equal(result.matches, whole.matches)
    empty = model.memorization(rows[:0])
    assert empty.matches.shape == empty.exact_match.shape == empty.scores.shape == (0,)
    assert model.memorization([]).matches.shape == (0,)
    np.testing.assert_array_equal(model.memorization(Column(rows.tolist())).matches, whole.matches)


def test_to_file(model: pythia_cpu.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(model, 32, 32)
    whole = model.memorization(rows, progress=False)
    monkeypatch.setattr(_memorization, "_MAX_ROWS", 7)
    path = tmp_path / "rows.jsonl"
    assert model.memorization_to_file(rows, path) == 30
    content = path.read_bytes()
    records = [json.loads(line) for line in content.splitlines()]
    assert [record["index"] for record in records] == list(range(30))
    assert [record["exact_match"] for record in records] == whole.exact_match.tolist()
    assert [record["matches"] for record in records] == whole.matches.tolist()
    assert {record["continuation_length"] for record in records} == {32}
    for size in (0, 1, len(content) // 2, len(content) - 1, len(content)):
        path.write_bytes(content[:size])
        missing = 30 - content[:size].count(b"\n")
        assert model.memorization_to_file(iter(rows.tolist()), path, progress=False) == missing
        assert path.read_bytes() == content

    def interrupted() -> Iterator[np.ndarray]:
        yield from rows[:16]
        raise KeyboardInterrupt

    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        model.memorization_to_file(interrupted(), path)
    assert path.read_bytes() == b"".join(content.splitlines(keepends=True)[:14])

    for options in ({"suppress_eos": True}, {"prefix_length": 31}, {"continuation_length": 31}):
        with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: was made from another input or with other options"):
            model.memorization_to_file(rows, path, **options)
    with pytest.raises(ValueError, match="line 14: was made from another input"):
        model.memorization_to_file([*rows[:13], rows[0]], path)
    for bad, message in (
        ([*rows[:16], rows[0][:63]], r"rows\[16\] has 63 tokens.*= 64"),
        (rows[0], r"rows\[0\] is of type int64, expected token ids"),
        ([5, 6], r"rows\[0\] is of type int, expected token ids"),
        ([np.array(5)], r"rows\[0\] is of type ndarray, expected token ids"),
        (Table(), "rows is of type Table"),
        ([{"input_ids": rows[0]}], r"rows\[0\] has \['input_ids'\], expected 'tokens', perhaps 'id'"),
        ([{"tokens": {"a": rows[0]}}], r"rows\[0\] is of type dict, expected token ids: pass that member"),
        ([{"tokens": rows[0], "id": [1]}], r"rows\[0\] has the id \[1\], expected a str or a finite number"),
        ("text", "rows is of type str, expected rows of token ids"),
        (None, "rows is of type NoneType, expected rows of token ids"),
    ):
        with pytest.raises(ValueError, match=message):
            model.memorization_to_file(bad, path)  # type: ignore[arg-type]
    assert path.read_bytes() == b"".join(content.splitlines(keepends=True)[:16])  # those before the bad one


def test_rows_with_ids(model: pythia_cpu.Model, tmp_path: Path) -> None:
    rows = make_rows(model, 32, 32)[:3]
    path, bare = tmp_path / "ids.jsonl", tmp_path / "bare.jsonl"
    ids = ["a", 7, None]
    items = [{"tokens": row, "id": id, "other": 1} for row, id in zip(rows, ids, strict=True)]
    assert model.memorization_to_file(items, path) == model.memorization_to_file(rows, bare) == 3
    found, expected = ([json.loads(line) for line in one.read_text().splitlines()] for one in (path, bare))
    assert [record.pop("id", None) for record in found] == ids
    assert found == expected
    with pytest.raises(ValueError, match="line 2: was made from an input with another id"):
        model.memorization_to_file([items[0], {**items[1], "id": 8}], path)


def test_progress(model: pythia_cpu.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    class Bar(_progress.ProgressBar):
        def __init__(self, total: int | None, *, enabled: bool, **options: Any) -> None:
            shown.append([total, enabled])
            super().__init__(total, enabled=False, **options)

        def update(self, count: int) -> None:
            shown[-1].append(count)

    monkeypatch.setattr(_memorization, "ProgressBar", Bar)
    monkeypatch.setattr(_record_file, "ProgressBar", Bar)
    monkeypatch.setattr(_memorization, "_MAX_ROWS", 2)
    rows = np.ones((3, 64), int)
    row_bytes = (
        2 * 4 * model.config.num_hidden_layers * model.config.hidden_size * 63
    )  # the last token is compared only
    for limit, groups in ((3 * row_bytes, [2, 1]), (2 * row_bytes, [2, 1]), (2 * row_bytes - 1, [1, 1, 1])):
        with monkeypatch.context() as patch:
            patch.setattr(_memorization, "_MAX_KV_BYTES", limit)
            model.memorization(rows)
        assert shown.pop() == [3, True, *groups]
    model.memorization(rows)
    model.memorization(rows, progress=False)
    model.memorization_to_file(rows[:1], tmp_path / "rows.jsonl")
    model.memorization_to_file(rows, tmp_path / "rows.jsonl", progress=False)
    assert shown == [[3, True, 2, 1], [3, False, 2, 1], [1, True, 0, 1], [3, False, 1, 2]]


def test_suppress_eos(make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]) -> None:
    """A model that writes its end-of-text token often."""
    checkpoint = make_checkpoint(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=5)
    model = pythia_cpu.load(make_model_file(checkpoint))
    rows = np.random.default_rng(1).integers(0, 5, (20, 24))
    options: dict[str, Any] = {"prefix_length": 8, "continuation_length": 16}
    equal = expected(model, rows, 8, 16)
    np.testing.assert_array_equal(model.memorization(rows, **options).matches, equal.sum(1))
    banned = expected(model, rows, 8, 16, logit_bias={0: -np.inf})
    result = model.memorization(rows, **options, suppress_eos=True)
    np.testing.assert_array_equal(result.matches, banned.sum(1))
    assert (banned.sum(1) != equal.sum(1)).any()


class Dataset:
    """What Pythia's own reader of its training data has, and no more."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._rows[index].astype(np.uint16)


def test_datasets(model: pythia_cpu.Model, tmp_path: Path) -> None:
    rows = make_rows(model, 32, 32)[:9]
    expected = model.memorization(rows)
    found = model.memorization(Dataset(rows))
    assert found == expected
    assert model.memorization_to_file(Dataset(rows), tmp_path / "a.jsonl") == 9
    model.memorization_to_file(rows, tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [record["first_mismatch"] for record in records] == expected.first_mismatch.tolist()


class Scalar:
    """A row of a pyarrow.ChunkedArray."""

    def __init__(self, row: np.ndarray) -> None:
        self._row = row

    def as_py(self) -> list[int]:
        return [int(id) for id in self._row]


def test_rows_of_arrow(model: pythia_cpu.Model, tmp_path: Path) -> None:
    rows = make_rows(model, 32, 32)[:9]
    scalars: Any = [Scalar(row) for row in rows]
    expected = model.memorization(rows)
    assert model.memorization(Column(scalars)) == expected
    assert model.memorization(scalars) == expected
    assert model.memorization_to_file(iter(scalars), tmp_path / "a.jsonl") == 9
    assert model.memorization_to_file(rows, tmp_path / "a.jsonl") == 0


def test_passes_are_full(model: pythia_cpu.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are read once for about 512 tokens."""
    seen: list[list[int]] = []
    choose = _memorization.MemorizationScorer._choose

    def noted(scorer: Any, passes: Any) -> np.ndarray:
        seen.append([len(ids) for _, ids, _ in passes])
        return choose(scorer, passes)

    monkeypatch.setattr(_memorization.MemorizationScorer, "_choose", noted)
    rows = np.random.default_rng(0).integers(1, 4096, (64, 40))
    rows[:, 32:] = [text.tokens for text in model.generate(rows[:, :32], max_new_tokens=8, ignore_eos=True)]
    assert model.memorization(rows, continuation_length=8).exact_match.all()
    assert seen == [[35] * 14] * 4 + [[35] * 8] + [[4] * 64]
    seen.clear()
    long = np.random.default_rng(0).integers(1, 4096, (3, 616))
    model.memorization(long, prefix_length=600, continuation_length=1)
    assert seen == [[600]] * 3  # one may always run


def test_full_context(model: pythia_cpu.Model) -> None:
    row = np.random.default_rng(0).integers(1, 4096, 2049)
    row[-1] = int(model.logits(row[:-1])[-1].argmax())
    assert model.memorization(row[None], prefix_length=2048, continuation_length=1).exact_match.tolist() == [True]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([[1] * 63], {}, r"rows\[0\] has 63 tokens.*= 64"),
        ([[1] * 64, [5000] * 64], {}, r"rows\[1\] holds token id 5000"),
        ([1] * 64, {}, "not a list of rows"),
        ("text", {}, "not a list of rows"),
        (None, {}, "not a list of rows"),
        (np.array(5), {}, "not a list of rows"),
        ([["a"] * 64], {}, "of type str"),
        ([[1] * 64], {"prefix_length": 0}, "prefix_length is 0"),
        ([[1] * 64], {"continuation_length": 0}, "continuation_length is 0"),
        ([[1] * 64], {"continuation_length": 2.0}, "continuation_length is 2.0"),
        ([[1] * 64], {"prefix_length": 2048, "continuation_length": 2}, "2049 positions.*2048"),
        ([[1] * 64], {"suppress_eos": 1}, "suppress_eos is 1"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_errors(model: pythia_cpu.Model, rows: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.memorization(rows, **options)


def test_no_end_of_text_to_suppress(make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    checkpoint = make_checkpoint(config_updates={"eos_token_id": None}, **small)
    with pytest.raises(ValueError, match="suppress_eos is True, but the checkpoint has no end-of-text token"):
        pythia_cpu.load(make_model_file(checkpoint)).memorization([[1] * 64], suppress_eos=True)
