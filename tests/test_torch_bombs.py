"""PyTorch .bin files whose pickles grow out of all proportion, or do anything at all, end in short CheckpointErrors."""

from __future__ import annotations

import io
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_cpu import CheckpointError
from pythia_cpu._pickle_machine import load_pickle
from pythia_cpu._torch_bin import TorchFile
from torch_files import HALF, ORDERED_DICT, REBUILD, number, numbers, refused, storage, tensor, text, torch_zip

# Values that are small in the file and large, or deep, when they are looked at: 2^40 and 2000 tuples in one another.
BOMB = b")" + b"q\x00h\x00\x86" * 40
DEEP = b")" + b"\x85" * 2000
COLLISION = 2**61 - 1  # Python's hash of all multiples of it is 0


def bombs() -> dict[str, tuple[bytes, str]]:
    """Name -> (pickle, what the error must say)."""
    cases: dict[str, tuple[bytes, str]] = {
        "keys of one hash": (
            b"\x80\x02}(" + b"".join(number(i * COLLISION) + b"N" for i in range(1, 100)) + b"u.",
            f"a dict has {COLLISION} as a key",
        ),
        "long name": (b"\x80\x02c" + b"x" * 100_000 + b"\ny\n.", "a line of more than 4096 bytes"),
        "name to be cut": (b"\x80\x02c" + b"x" * 4000 + b"\ny\n.", r"imports x{200}\.\.\., which"),
        "long text": (b"\x80\x02}" + text("x" * 100_000) + b"Ns.", "a text of 100000 characters"),
        "long decimal number": (b"\x80\x02I" + b"9" * 100_000 + b"\n.", "a line of more than 4096 bytes"),
    }
    for name, value in (("bomb", BOMB), ("deep", DEEP)):
        view = storage() + number(0) + numbers((2, 3))
        rest = b"\x89" + ORDERED_DICT + b")RtR"
        bad_storages = {
            "kind": b"(" + value + HALF + text("0") + text("cpu") + number(6) + b"tQ",
            "type": storage(kind=value),
            "key": b"(" + text("storage") + HALF + value + text("cpu") + number(6) + b"tQ",
            "size": b"(" + text("storage") + HALF + text("0") + text("cpu") + value + b"tQ",
            "whole": value + b"Q",
        }
        shapes = {"shape": storage() + number(0) + value + numbers((3, 1)), "strides": view + value}
        shapes["a size"] = storage() + number(0) + b"(" + value + number(3) + b"t" + numbers((3, 1))
        shapes["offset"] = storage() + value + numbers((2, 3)) + numbers((3, 1))
        cases |= {
            f"{name} as module": (b"\x80\x04" + value + text("x") + b"\x93.", "where a str should be"),
            f"{name} as name": (b"\x80\x04" + text("torch") + value + b"\x93.", "where a str should be"),
            f"{name} as key": (b"\x80\x02}" + value + b"Ns.", "a dict has a tuple as a key"),
            f"{name} as function": (b"\x80\x02" + value + b")R.", "calls an object"),
            f"{name} as arguments": (b"\x80\x02" + ORDERED_DICT + value + b"R.", "calls collections.OrderedDict with"),
            f"{name} as list": (
                b"\x80\x02" + ORDERED_DICT + b"]" + value + b"a\x85R.",
                "calls collections.OrderedDict",
            ),
            f"{name} as state": (b"\x80\x02}" + value + b"b.", "sets the state of an object"),
            f"{name} as target": (b"\x80\x02" + value + b"Na.", "a tuple is where a list should be"),
            f"{name} as entry": (b"\x80\x02}" + text("a") + value + b"s.", "its entry 'a' is not a tensor"),
            f"{name} as everything": (b"\x80\x02" + value + b".", "holds a tuple, expected a dict"),
            **{f"{name} as a storage's {k}": (b"\x80\x02" + v + b".", "storage") for k, v in bad_storages.items()},
            **{
                f"{name} as a tensor's {k}": (b"\x80\x02" + REBUILD + b"(" + v + rest + b".", "a tensor.* shape")
                for k, v in shapes.items()
            },
        }
    return cases


BOMBS = bombs()


@pytest.mark.parametrize(("data", "pattern"), BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_bombs(tmp_path: Path, data: bytes, pattern: str, legacy: bool) -> None:
    path = tmp_path / "t.bin"
    if legacy:
        path.write_bytes(b"\x80\x02" + data[2:])
        pattern = f"{pattern}|it is a pickle that torch did not write"
    else:
        torch_zip(path, data)
    tracemalloc.start()
    start_s = time.monotonic()
    try:
        with pytest.raises(CheckpointError, match=pattern) as caught:
            TorchFile(path)
        assert len(str(caught.value)) < 1000 + len(str(path))
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
        assert time.monotonic() - start_s < 20
    finally:
        tracemalloc.stop()


def test_a_pickle_has_a_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\x80\x02}(" + text("a") + tensor() + b"u."
    for limit in (len(data), len(data) - 1, len(data) // 2):
        monkeypatch.setattr("pythia_cpu._pickle_machine._MAX_PICKLE_BYTES", limit)
        if limit == len(data):
            assert list(load_pickle(io.BytesIO(data + b"more"), "t.bin")) == ["a"]
        else:
            with pytest.raises(CheckpointError, match=f"damaged .it is longer than {limit} bytes"):
                load_pickle(io.BytesIO(data), "t.bin")


def test_too_many_instructions(tmp_path: Path) -> None:
    refused(torch_zip(tmp_path / "t.bin", b"\x80\x02" + b"]" * (1 << 20) + b"."), "more than 1048576 instructions")


# Small enough to be written out by what should not do it.
LITTLE_BOMB = b")" + b"q\x00h\x00\x86" * 12
CONSTANTS = [b"N", b"\x88", b"]", b")", b"}", b"K\x05", b"L7L\n", b"G" + bytes(8), number(-1), number(2**62), text("a")]
NAMES = [text("storage"), HALF, REBUILD, ORDERED_DICT]
VALUES = [*CONSTANTS, *NAMES, storage(), tensor(), numbers((2, 3)), b"h\x00", b"h\x01", LITTLE_BOMB, DEEP]
ACTIONS = [b"(", b"q\x00", b"q\x01", b"\x94", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"b", b"Q"]
ACTIONS += [b"R", b"\x93", b"0", b"2", b"\x80\x04", b"\x8b\x02\x00\x00\x00\xff\xff"]


@settings(max_examples=1000)
@given(st.lists(st.one_of(st.sampled_from(VALUES), st.sampled_from(ACTIONS), st.binary(max_size=3)), max_size=30))
def test_streams_of_instructions(parts: list[bytes]) -> None:
    """Whatever a pickle does ends in plain data or in a short CheckpointError."""
    try:
        load_pickle(io.BytesIO(b"\x80\x02" + b"".join(parts) + b"."), "t.bin")
    except CheckpointError as error:
        assert str(error).startswith("t.bin: its pickle ")
        assert len(str(error)) < 1000
