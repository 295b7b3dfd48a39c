"""pythia-cpu score on JSON lines: its records, and a reader of JSON that accepts what is JSON and nothing else."""

from __future__ import annotations

import json
import math
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pythia_cpu

STORY = "It was a dark and stormy night, and the old man who sat by the fire said that he would not go. "


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


def run(binary: Path, lines: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [binary, "score", "--jsonl", *arguments, "-"]
    return subprocess.run(command, input=lines, capture_output=True, timeout=120, check=False)


def records(binary: Path, lines: bytes, *arguments: str) -> list[dict[str, Any]]:
    result = run(binary, lines, *arguments)
    assert (result.returncode, result.stderr) == (0, b"")
    return [json.loads(line) for line in result.stdout.splitlines()]


INPUTS: list[dict[str, Any]] = [
    {"text": STORY},
    {"id": "naïve “x”\n", "text": STORY * 3},
    {"context": STORY, "continuation": "The end.", "id": 12.50},
    {"context": STORY + " \u2003\x1c\n", "continuation": "The end."},
    {"context": "", "continuation": "Naïve “quotes” \U0001f600"},
    {"text": "", "note": [None, {"text": True}]},
]


@pytest.mark.parametrize("ascii_only", [True, False])
def test_records(binary: Path, model: pythia_cpu.Model, ascii_only: bool) -> None:
    lines = "\n\r\n".join(json.dumps(one, ensure_ascii=ascii_only) for one in INPUTS).encode()
    found = records(binary, lines, "--per-token", "-c", "16")
    assert [record["index"] for record in found] == list(range(len(INPUTS)))
    assert [record.get("id") for record in found] == [one.get("id") for one in INPUTS]
    for record, one in zip(found, INPUTS, strict=True):
        if one.get("text") == "":
            assert (record["num_tokens"], record["log_likelihood"], record["perplexity"]) == (0, 0, None)
            continue
        if "text" in one:
            expected = model.perplexity(one["text"], context_length=16)
            assert record["perplexity"] == pytest.approx(expected.value, rel=1e-12)
            assert record["log_likelihood"] == pytest.approx(-expected.nll, rel=1e-12)
        else:
            score = model.score(one["context"], one["continuation"])
            assert record["tokens"] == score.tokens
            moved = one["context"][len(one["context"].rstrip()) :]  # white space that counts as the continuation's
            assert record["num_bytes"] == len((moved + one["continuation"]).encode())
            for name in ("logprobs", "ranks", "entropies", "varentropies", "is_greedy"):
                array = getattr(score, name)
                np.testing.assert_array_equal(np.array(record[name], array.dtype), array)
        assert record["num_tokens"] == len(record["tokens"]) == len(record["entropies"])
        assert record["num_greedy"] == record["ranks"].count(0) == sum(record["is_greedy"])
        assert math.fsum(record["logprobs"]) == pytest.approx(record["log_likelihood"], rel=1e-6)


def test_files_and_batches(binary: Path, model: pythia_cpu.Model, tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"  # more than one batch, in a file known by its name
    texts = [f"{STORY[: 20 + i % 30]} {i}" for i in range(300)]
    path.write_text("".join(json.dumps({"context": text, "continuation": " go"}) + "\n" for text in texts))
    result = subprocess.run([binary, "score", path], capture_output=True, timeout=120, check=True)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    expected = model.score(texts, [" go"] * len(texts))
    assert [record["log_likelihood"] for record in found] == pytest.approx([one.total for one in expected], rel=1e-12)
    assert "tokens" not in found[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "expected ',' or '}'"),
        ("[1]", "expected an object"),
        ('{"texts": "a"}', 'expected an object with "text"'),
        ('{"text": "a", "context": "b", "continuation": "c"}', 'expected an object with "text"'),
        ('{"context": "b"}', 'expected an object with "text"'),
        ('{"text": 1}', '"text" is not a string'),
        ('{"text": "a", "text": "b"}', 'the name "text" for the second time at byte 15'),
        ('{"text": "a", "id": true}', '"id" is neither'),
        ('{"context": "a", "continuation": ""}', '"continuation" has no tokens'),
        ('{"context": "Th", "continuation": "e"}', '"continuation" adds no token to the 1 of "context"'),
        ('{"context": "%s", "continuation": "a"}' % ("word " * 2100), "expected at most 2049"),
        ('{"text": "\\ud800"}', "half of a surrogate pair at byte 11"),
        ('{"text": "\\ud83d\\n"}', "half of a surrogate pair at byte 11"),
        ("[" * 100, "deeper nesting than 64"),
        ('{"a":' * 100, "deeper nesting than 64"),
        ('{"text": "ab\x01"}', "a control character in a string at byte 13"),
        ('{"text": "a', "found the end of the text in a string at byte 12, expected a quote"),
        ('{"text": "a\\', "an escape that JSON does not have at byte 12"),
        ('{"text": "\\u12G4"}', "an escape that JSON does not have at byte 11"),
        ('{"id": tru}', "found 't' at byte 8, expected a value"),
        ('{"id": 01}', "found '1' at byte 9, expected ',' or '}'"),
        ('{"id": 1.}', "found '}' at byte 10, expected a digit"),
        ('{"id": -}', "found '}' at byte 9, expected a digit"),
        ('{text": "a"}', "found 't' at byte 2, expected a name in quotes"),
        ('{"é" "a"}', "found '\"' at byte 7, expected ':'"),
        ('{"a": é}', "found 'é' (U+00E9) at byte 7, expected a value"),
        ('\ufeff{"text": "a"}', "found '\ufeff' (U+FEFF) at byte 1, expected a value"),
        ("[\x7f", "found a control character at byte 2, expected a value"),
        ("[\x1f", "found a control character at byte 2, expected a value"),
        ("[1", "found the end at byte 3, expected ',' or ']'"),
        ("{} x", "found 'x' at byte 4, expected the end"),
    ],
)
def test_errors(binary: Path, line: str, message: str) -> None:
    result = run(binary, b'{"text": "sound"}\n\n' + line.encode())
    assert result.returncode == 1
    assert result.stderr.decode().startswith("pythia-cpu: line 3: ") and message in result.stderr.decode()
    assert result.stderr.count(b"\n") == 1
    assert [json.loads(one)["index"] for one in result.stdout.splitlines()] == [0]  # what comes before it


def test_what_windows_and_pandas_write(binary: Path) -> None:
    lines = b'\xef\xbb\xbf{"text": "It was", "id": null}\r\n{"text": "He said", "id": 7}\r\n'
    assert [record.get("id", "none") for record in records(binary, lines)] == ["none", 7]


def test_many_members(binary: Path) -> None:
    members = {f"member {i}": i for i in range(100_000)}
    line = json.dumps({**members, "text": "It was"})
    assert len(records(binary, line.encode())) == 1
    again = line[:-1] + ', "member 7": 0}'
    assert b'the name "member 7" for the second time' in run(binary, again.encode()).stderr


def test_escapes_of_any_case(binary: Path) -> None:
    line = b'{"id": "\\u00E9\\u00e9\\uD83D\\uDe00\\uFFff\\b\\f\\n\\r\\t\\/\\\\\\"", "text": "x"}'
    assert [record["id"] for record in records(binary, line)] == ['éé\U0001f600\uffff\b\f\n\r\t/\\"']


def test_space_where_json_allows_it(binary: Path) -> None:
    line = b' \t{ "a" : [ ] , "b" : { } , "c" : [ [ 1 , { "d" : 2 } ] , -0.5e+1 , 2E-3 ] , "id" : 7 , "text" : "x" } \r'
    assert [record["id"] for record in records(binary, line)] == [7]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25)
@given(
    data=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=6), json_values), min_size=1, max_size=20),
    ascii_only=st.booleans(),
)
def test_any_text_and_id(binary: Path, model: pythia_cpu.Model, data: list[Any], ascii_only: bool) -> None:
    objects = [{"other": other, "id": identity, "text": text} for text, identity, other in data]
    lines = "\n".join(json.dumps(one, ensure_ascii=ascii_only) for one in objects).encode()
    found = records(binary, lines, "--per-token")
    assert [record["id"] for record in found] == [one["id"] for one in objects]
    assert [record["tokens"] for record in found] == [model.tokenizer.encode(one["text"]) for one in objects]


def is_strict_json(text: bytes) -> bool:
    """Python's reader, with what RFC 8259 leaves open closed: names once, no NaN, whole surrogate pairs, few levels."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("a name twice")
        return dict(pairs)

    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=members, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except ValueError:
        return False
    return text.strip(b" \t\r\n") != b""


SEEDS = [
    b'{"text": "a", "n": [0, -1.5e+3, 0.25E-2, 1e5, true, false, null, {}, []]}',
    b'{"text": "\\u00e9\\ud83d\\ude00\\n\\"\\/", "o": {"p": {"q": [[[]]]}}} ',
    b'\t{"text":"\xc3\xa9\xf0\x9f\x98\x80" ,"x":"" }\r',
]
PIECES = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"0",
    b"-",
    b".",
    b"e",
    b"\\u12",
    b"\\udc00",
    b"NaN",
    b"\x00",
    b"\xff",
]


@pytest.mark.parametrize("seed", range(4))
def test_damaged_lines(binary: Path, seed: int) -> None:
    """The binary refuses what Python refuses, line by line, and never crashes."""
    rng = random.Random(seed)
    accepted = 0
    for _ in range(30):
        line = bytearray(rng.choice(SEEDS))
        for _ in range(rng.randint(0, 3)):
            place = rng.randrange(len(line))
            change = rng.choice(["insert", "delete", "replace", "cut"])
            if change == "insert":
                line[place:place] = rng.choice(PIECES)
            elif change == "delete":
                del line[place]
            elif change == "replace":
                line[place : place + 1] = rng.choice(PIECES)
            elif len(line) > 1:
                del line[place:]
            if not line:
                line = bytearray(b"{")
        result = run(binary, bytes(line))
        sound = is_strict_json(bytes(line))
        error = result.stderr.decode()
        assert result.returncode == (0 if not error else 1)
        if sound:  # JSON, though perhaps no record
            assert not error or "expected an object" in error or '"text" is not' in error, (bytes(line), error)
        else:
            assert result.returncode == 1 or not line.strip(), bytes(line)
        accepted += sound
    assert 0 < accepted < 30
