"""Checkpoint folders: layouts and tensor names that mean the same, and everything that is refused."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import (
    MINI_PYTHIA,
    neox_config,
    random_tensors,
    write_checkpoint,
    write_safetensors,
)
from pythia_cpu import CheckpointError, convert, open_checkpoint
from pythia_cpu._safetensors import SafetensorsFile

SMALL: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 70}
HEAD, EMBEDDING = "embed_out.weight", "gpt_neox.embed_in.weight"
QKV = "gpt_neox.layers.0.attention.query_key_value.weight"


DEEP = "[" * 100_000  # the parser's recursion ends long before the text does


def small_tensors(dtype: str = "float16", **config: Any) -> dict[str, np.ndarray]:
    return random_tensors(neox_config(**{**SMALL, **config}), dtype=dtype)


def write_small(folder: Path, **arguments: Any) -> Path:
    return write_checkpoint(folder, **{**SMALL, **arguments})


def write_shards(folder: Path, tensors: dict[str, np.ndarray]) -> dict[str, str]:
    """Replaces model.safetensors by two shards and their index; returns the weight map."""
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    weight_map = {}
    for i, part in enumerate((names[:7], names[7:])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        write_safetensors(folder / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def test_shards_give_the_same_file(tmp_path: Path) -> None:
    tensors = small_tensors()
    folder = write_small(tmp_path / "c", tensors=tensors)
    convert(folder, tmp_path / "single.pcpu")
    write_shards(folder, tensors)
    convert(folder, tmp_path / "sharded.pcpu")
    assert (tmp_path / "single.pcpu").read_bytes() == (tmp_path / "sharded.pcpu").read_bytes()


def test_shards_that_disagree_with_their_index(tmp_path: Path) -> None:
    tensors = small_tensors()
    folder = write_small(tmp_path / "c", tensors=tensors)
    weight_map = write_shards(folder, tensors)
    first, second = sorted(set(weight_map.values()))
    index = folder / "model.safetensors.index.json"

    def refused(changed: Any, pattern: str) -> None:
        index.write_text(changed if isinstance(changed, str) else json.dumps({"weight_map": changed}))
        with pytest.raises(CheckpointError, match=pattern):
            open_checkpoint(folder)

    refused({**weight_map, HEAD: first}, f"{first}: has no tensor '{HEAD}'")
    refused({**weight_map, "more": first}, f"{first}: has no tensor 'more'")
    refused({k: v for k, v in weight_map.items() if k != HEAD}, f"{second}: has tensor '{HEAD}'.*says is in no file")
    refused({**weight_map, HEAD: "none.safetensors"}, r"index\.json: tensor .* is in 'none\.safetensors', which is not")
    refused({**weight_map, HEAD: "../c/" + second}, r"is in '\.\./c/.*', expected the name of a file beside it")
    refused("[]", "is not an index with a weight_map")
    refused('{"weight_map": []}', "is not an index with a weight_map")
    refused("{", "is not an index with a weight_map")
    refused('{"weight_map": ' + DEEP, r"is not an index with a weight_map \(it is nested more than 64 times\)")


RENAMES: dict[str, Callable[[str], str]] = {
    "lm_head": lambda name: name.replace("embed_out", "lm_head"),
    "no prefix": lambda name: name.removeprefix("gpt_neox."),
}


@pytest.mark.parametrize("rename", RENAMES.values(), ids=RENAMES)
def test_other_names_give_the_same_file(tmp_path: Path, rename: Callable[[str], str]) -> None:
    tensors = small_tensors()
    convert(write_small(tmp_path / "a" / "c", tensors=tensors), tmp_path / "a.pcpu")
    buffers = {
        "gpt_neox.layers.0.attention.bias": np.ones((1, 1, 8, 8), np.bool_),
        "gpt_neox.layers.1.attention.masked_bias": np.float32(-1e9).reshape(()),
        "gpt_neox.layers.1.attention.rotary_emb.inv_freq": np.ones(2, np.float64),
        "gpt_neox.layers.1.attention.rotary_emb.cos_cached": np.ones((1, 1, 8, 2), np.float32),
        "gpt_neox.layers.1.attention.norm_factor": np.float32(4).reshape(()),
        "gpt_neox.rotary_emb.original_inv_freq": np.ones(2, np.float32),
    }
    renamed = {rename(name): array for name, array in {**tensors, **buffers}.items()}
    convert(write_small(tmp_path / "b" / "c", tensors=renamed), tmp_path / "b.pcpu")
    assert (tmp_path / "a.pcpu").read_bytes() == (tmp_path / "b.pcpu").read_bytes()


def test_a_stored_tied_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pythia_cpu._plan._COMPARE_ELEMENTS", 1000)
    tensors = small_tensors(tied=True)
    convert(write_small(tmp_path / "a" / "c", tensors=tensors, tied=True), tmp_path / "a.pcpu")
    tensors[HEAD] = tensors[EMBEDDING].copy()
    convert(write_small(tmp_path / "b" / "c", tensors=tensors, tied=True), tmp_path / "b.pcpu")
    assert (tmp_path / "a.pcpu").read_bytes() == (tmp_path / "b.pcpu").read_bytes()
    for place in ((0, 0), (3, 3), (69, 47)):
        tensors[HEAD] = tensors[EMBEDDING].copy()
        tensors[HEAD][place] += 1
        with pytest.raises(CheckpointError, match=f"tensor '{HEAD}' differs from '{EMBEDDING}'"):
            convert(write_small(tmp_path / "c", tensors=tensors, tied=True), tmp_path / "c.pcpu")


# Checkpoints that do not fit


def test_missing_extra_and_misshapen_tensors(tmp_path: Path) -> None:
    def refused(change: Callable[[dict[str, np.ndarray]], Any], *patterns: str) -> None:
        tensors = small_tensors()
        change(tensors)
        folder = write_small(tmp_path / "c", tensors=tensors)
        with pytest.raises(CheckpointError) as caught:
            convert(folder, tmp_path / "m.pcpu")
        for pattern in patterns:
            assert pattern in str(caught.value)
        assert str(caught.value).startswith(str(folder))
        assert not (tmp_path / "m.pcpu").exists()

    refused(lambda t: t.pop(HEAD), f"1 tensors are missing: {HEAD}")
    refused(
        lambda t: [t.pop(n) for n in list(t) if "mlp" in n], "8 tensors are missing: gpt_neox.layers.0.mlp.dense_4h"
    )
    refused(lambda t: [t.pop(n) for n in list(t) if "layers" in n], "24 tensors are missing", "and 16 more")
    refused(lambda t: t.update(score=np.ones((2, 48), np.float16)), "1 tensors are not part of a GPT-NeoX", "score")
    refused(lambda t: t.update({QKV: t[QKV].T.copy()}), f"{QKV} is [48, 144], expected [144, 48]")
    refused(lambda t: t.update({HEAD: t[HEAD].astype(np.int64)}), f"{HEAD} is int64, expected one of float32")
    refused(
        lambda t: t.update({"lm_head.weight": t[HEAD]}), "'embed_out.weight' and 'lm_head.weight' are the same weight"
    )
    refused(lambda t: t.update({"v_head.summary.bias": t[HEAD][0]}), "v_head", "with something added, save it without")
    for prefix in ("module.", "base_model.model."):
        refused(
            lambda t, prefix=prefix: [t.update({prefix + name: t.pop(name)}) for name in list(t)],
            "28 tensors are missing",
            f"the names begin with '{prefix}', which a wrapper of the model adds: save them without it",
        )
    refused(
        lambda t: (t.pop(HEAD), t.update(extra=np.ones(1, np.float16), **{QKV: t[QKV][:-1]})),
        f"missing: {HEAD}",
        "extra",
        f"{QKV} is [143, 48]",
    )


def test_biases_that_the_config_denies(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "c", config_updates={"attention_bias": False})
    with pytest.raises(CheckpointError, match=r"4 tensors are not part of .*attention\.dense\.bias"):
        convert(folder, tmp_path / "m.pcpu")


def test_main_of_a_folder_is_what_it_holds(tmp_path: Path) -> None:
    """As the hub calls it; unless there is a subfolder of that name."""
    folder = write_small(tmp_path / "c", seed=1)
    with open_checkpoint(folder) as own, open_checkpoint(folder, revision="main") as main:
        assert (main.folder, main.source) == (folder, own.source)
    subfolder = write_small(folder / "main", seed=2)
    with open_checkpoint(folder, revision="main") as main:
        assert (main.folder, main.source.revision) == (subfolder, "main")


def test_folders_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none.*is not a folder"):
        convert(tmp_path / "none", tmp_path / "m.pcpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no weights: found nothing"):
        convert(tmp_path / "empty", tmp_path / "m.pcpu")
    for name in ("config.json", "tokenizer.json"):
        folder = write_small(tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=f"{name}: is missing"):
            convert(folder, tmp_path / "m.pcpu")
    with pytest.raises(CheckpointError, match=r"has no subfolder 'step7' \(found: none\)"):
        convert(folder, tmp_path / "m.pcpu", revision=7)
    with pytest.raises(CheckpointError, match=r"no subfolder 'step7' \(found: step1800\)"):
        convert(MINI_PYTHIA.parent, tmp_path / "m.pcpu", revision=7)
    with pytest.raises(CheckpointError, match="no subfolder"):
        convert(MINI_PYTHIA, tmp_path / "m.pcpu", revision="../step1800")
    for bad in (-1, "", True, np.int64(-1), np.bool_(True), 1800.0):
        with pytest.raises(ValueError, match="revision is"):
            convert(MINI_PYTHIA.parent, tmp_path / "m.pcpu", revision=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'f8', expected one of auto, f32, f16, bf16, q8, q4"):
        convert(MINI_PYTHIA, tmp_path / "m.pcpu", weights="f8")


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS: list[Any] = [
    b"",
    b"1234567",
    (2**63).to_bytes(8, "little") + b"{}",
    (3).to_bytes(8, "little") + b"{}",
    (2).to_bytes(8, "little") + b"{]",
    (2).to_bytes(8, "little") + b"\xff\xff",
    len(DEEP).to_bytes(8, "little") + DEEP.encode(),
    {"a": {**F32, "more": json.loads("[" * 70 + "]" * 70)}},
    [],
    {"a": 1},
    {"a": {"dtype": "F32", "shape": [1]}},
    {"a": {**F32, "dtype": "F9"}},
    {"a": {**F32, "dtype": 4}},
    {"a": {**F32, "shape": [-1]}},
    {"a": {**F32, "shape": [True]}},
    {"a": {**F32, "shape": [1.0]}},
    {"a": {**F32, "shape": [2**40, 2**40, 2**40]}},
    {"a": {**F32, "data_offsets": [0, 8]}},
    {"a": {**F32, "data_offsets": [4, 0]}},
    {"a": {**F32, "data_offsets": [4, 8]}},
    {"a": {**F32, "data_offsets": [0]}},
    {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}},
    {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {**F32, "data_offsets": [4, 8]}},
]


def write_header(path: Path, header: Any) -> None:
    """A safetensors file with this header, or its first bytes, and 8 bytes of data."""
    if not isinstance(header, bytes):
        text = json.dumps(header).encode()
        header = len(text).to_bytes(8, "little") + text + bytes(8)
    path.write_bytes(header)


@pytest.mark.parametrize("header", HEADERS, ids=lambda v: str(v)[:40])
def test_bad_safetensors(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "model.safetensors"
    write_header(path, header)
    size = path.stat().st_size
    message = rf"has {size} bytes, expected a whole safetensors file \(.+\); download the file again"
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_safetensors_of_a_dtype_that_is_not_read(tmp_path: Path) -> None:
    write_header(tmp_path / "model.safetensors", {"a": {"dtype": "F8_E5M2", "shape": [8], "data_offsets": [0, 8]}})
    with pytest.raises(CheckpointError, match=r"tensor 'a' has dtype F8_E5M2, expected one of F64, F32, F16, BF16"):
        open_checkpoint(tmp_path)


@given(at=st.integers(0, 120), insert=st.binary(max_size=4), removed=st.integers(0, 4))
def test_any_safetensors_file_is_read_or_refused(at: int, insert: bytes, removed: int) -> None:
    text = json.dumps({"a": F32, "b": {"dtype": "BF16", "shape": [2], "data_offsets": [4, 8]}}).encode()
    text = text[:at] + insert + text[at + removed :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        try:
            file = SafetensorsFile(path)
        except CheckpointError:
            return
        for name, info in file.tensors.items():
            assert file.read(name, 0, info.num_elements) == bytes(info.size_bytes)
        file.close()


def test_truncated_safetensors(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "c")
    data = (folder / "model.safetensors").read_bytes()
    for length in (*range(0, 2000, 97), len(data) // 2, len(data) - 1):
        (folder / "model.safetensors").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
            open_checkpoint(folder)


def test_a_file_cut_off_while_it_is_read(tmp_path: Path) -> None:
    folder = write_small(tmp_path / "c")
    with open_checkpoint(folder) as checkpoint:
        os.truncate(folder / "model.safetensors", 5000)
        with pytest.raises(OSError, match="ends before byte .*model.safetensors"):
            dict(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_clone_without_git_lfs(tmp_path: Path, name: str) -> None:
    folder = write_small(tmp_path / "c")
    (folder / "model.safetensors").unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 28148400\n")
    with pytest.raises(CheckpointError, match=f"{name}: is git-lfs's pointer .* run 'git lfs pull'"):
        open_checkpoint(folder)
