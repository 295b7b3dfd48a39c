"""Texts of many prompts in a file of JSON lines."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from pythia_cpu import Model

PROMPTS: list[Any] = ["Once upon a time", [5, 6, 7], {"prompt": "The", "id": "the"}, np.array([9, 8]), "He said"]
BARE = [one["prompt"] if isinstance(one, dict) else one for one in PROMPTS]


@pytest.fixture(scope="module")
def model() -> Model:
    return pythia_cpu.load()


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_are_what_generate_gives(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    options: dict[str, Any] = {"max_new_tokens": 9, "logprobs": 2, "stop": ["e"]}
    assert model.generate_to_file(iter(PROMPTS), path, **options) == len(PROMPTS)
    texts = model.generate(BARE, **options)
    for index, (record, text) in enumerate(zip(records(path), texts, strict=True)):
        assert record["index"] == index and record["model"] == model.key and "seed" not in record
        assert record.get("id") == ("the" if index == 2 else None)
        assert record["num_prompt_tokens"] == len(text.prompt_tokens)
        for name in ("text", "tokens", "finish_reason"):
            assert record[name] == getattr(text, name)
        assert np.array_equal(np.float32(record["logprobs"]), text.logprobs)
        assert [[id for id, _ in top] for top in record["top_logprobs"]] == [
            [id for id, _ in top] for top in text.top_logprobs or []
        ]
    assert len({record["input"] for record in records(path)}) == len(PROMPTS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "seed": 4, "logit_bias": {np.int64(3): np.float32(-2)}},
        {"do_sample": True, "seed": range(10, 15), "top_k": np.int64(50)},
        {"do_sample": True, "seed": np.arange(5), "num_return_sequences": 3},
        {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": (np.int64(1), 2)},
    ],
    ids=["greedy", "drawn", "a seed each", "several", "beams"],
)
def test_an_interrupted_run_is_continued(model: Model, tmp_path: Path, options: dict[str, Any]) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "texts.jsonl"
    model.generate_to_file(PROMPTS, whole, max_new_tokens=6, **options)
    lines = whole.read_bytes().splitlines(keepends=True)
    texts = model.generate(BARE, max_new_tokens=6, **options)
    for record, text in zip(records(whole), texts, strict=True):
        several = text if isinstance(text, list) else [text]
        assert [one["tokens"] for one in record.get("texts", [record])] == [one.tokens for one in several]
        assert ("texts" in record) == isinstance(text, list)
    for kept in (0, 2, 5):
        path.write_bytes(b"".join(lines[:kept]) + (lines[kept][:40] if kept < 5 else b""))
        assert model.generate_to_file(PROMPTS, path, max_new_tokens=6, **options) == 5 - kept
        assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("prompts", "options", "what"),
    [
        (PROMPTS, {"max_new_tokens": 5}, "another input or with other options"),
        (PROMPTS, {"ignore_eos": True}, "another input or with other options"),
        (PROMPTS, {"do_sample": True, "seed": 1}, "another input or with other options"),
        (["Twice", *PROMPTS[1:]], {}, "another input or with other options"),
        ([*PROMPTS[:2], {"prompt": "The", "id": "a"}, *PROMPTS[3:]], {}, "an input with another id"),
        (PROMPTS[:3], {}, "more records than there are inputs"),
    ],
)
def test_other_runs_are_refused(
    model: Model, tmp_path: Path, prompts: list[Any], options: dict[str, Any], what: str
) -> None:
    path = tmp_path / "texts.jsonl"
    model.generate_to_file(PROMPTS, path, max_new_tokens=4)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=what):
        model.generate_to_file(prompts, path, **{"max_new_tokens": 4, **options})
    assert path.read_bytes() == before


def test_what_came_before_an_error_is_written(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"

    def interrupted() -> Iterator[str]:
        yield from ("a", "b")
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        model.generate_to_file(interrupted(), path, max_new_tokens=3)
    assert [record["index"] for record in records(path)] == [0, 1]
    for bad, problem in (
        ({"text": "x"}, r"prompts\[2\] has \['text'\], expected 'prompt', and perhaps 'id'"),
        ({"prompt": "x", "id": True}, r"prompts\[2\] has the id True"),
        ("", r"prompts\[2\]"),
    ):
        with pytest.raises(ValueError, match=problem):
            model.generate_to_file(["a", "b", bad, "c"], path, max_new_tokens=3)
    assert model.generate_to_file(["a", "b", {"prompt": "c", "id": None}], path, max_new_tokens=3) == 1
    assert "id" not in records(path)[2]


def test_arguments(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    with pytest.raises(TypeError, match=r"generate_to_file\(\) got an unexpected keyword argument 'edit'"):
        model.generate_to_file(["a"], path, edit={})  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="temperature"):
        model.generate_to_file(["a"], path, temperature=-1.0)
    with pytest.raises(ValueError, match="prompts is of type str, expected prompts one after the other"):
        model.generate_to_file("a", path)
    assert not path.exists()
    with pytest.warns(UserWarning, match="top_k without do_sample=True"):
        model.generate_to_file(["a"], path, top_k=3, max_new_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.generate_to_file([], tmp_path / "none.jsonl") == 0
        draft = tmp_path / "draft.jsonl"
        model.generate_to_file(PROMPTS, draft, max_new_tokens=6, draft=model)
        model.generate_to_file(PROMPTS, path.with_suffix(".plain"), max_new_tokens=6)
    assert draft.read_bytes() == path.with_suffix(".plain").read_bytes()


def test_texts_drawn_without_a_seed_have_theirs(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    model.generate_to_file(PROMPTS[:2], path, max_new_tokens=5, do_sample=True)
    assert model.generate_to_file(PROMPTS, path, max_new_tokens=5, do_sample=True) == 3
    for record, prompt in zip(records(path), BARE, strict=True):
        again = model.generate(prompt, max_new_tokens=5, do_sample=True, seed=record["seed"])
        assert again.tokens == record["tokens"]
