"""Model.key: another one for files that may give other results, however little they differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from checkpoints import neox_config, random_tensors, write_checkpoint
from pcpu_file import parse
from pythia_cpu import _core, _identity

VOCAB_SIZE = 200
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": VOCAB_SIZE,
}
FINGERPRINT_TOKENS = {(i + 1) * 2654435761 % 2**32 % VOCAB_SIZE for i in range(32)}  # docs/format.md


@pytest.fixture(scope="module")
def plain(make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]) -> Path:
    return make_model_file(make_checkpoint(**SMALL))


def other_row() -> dict[str, np.ndarray]:
    """Weights that differ in the embedding of a token that the fingerprint has not."""
    tensors = random_tensors(neox_config(**SMALL))
    tensors["gpt_neox.embed_in.weight"][next(i for i in range(VOCAB_SIZE) if i not in FINGERPRINT_TOKENS)] += 1
    return tensors


def key(path: Path) -> str:
    return pythia_cpu.load(path).key


def facts(path: Path) -> dict[str, Any]:
    """The parts of a file that a key is made of."""
    file = _core.PcpuFile.open(str(path))
    return {
        "fingerprint": file.fingerprint,
        "config": file.config,
        "tokenizer": file.tokenizer,
        "tensors": [tensor["source_sha256"] for tensor in file.tensors],
        "formats": [tensor["format"] for tensor in file.tensors],
    }


@pytest.mark.parametrize(
    ("differs", "options"),
    [
        ("config", {"config_updates": {"eos_token_id": 5}}),
        ("config", {"config_updates": {"bos_token_id": None}}),
        ("config", {"max_position_embeddings": 1024}),
        ("tokenizer", {}),
        ("tensors", {"tensors": other_row()}),
        ("formats", {"weights": "f32"}),
    ],
    ids=["eos", "bos", "context", "tokenizer", "tensors", "formats"],
)
def test_files_that_differ_in_one_thing(plain: Path, tmp_path: Path, differs: str, options: dict[str, Any]) -> None:
    weights = options.get("weights", "auto")
    folder = write_checkpoint(tmp_path / "c", **SMALL, **{k: v for k, v in options.items() if k != "weights"})
    if differs == "tokenizer":
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["model"]["merges"].pop()
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    pythia_cpu.convert(folder, tmp_path / "m.pcpu", weights=weights, progress=False)
    before, after = facts(plain), facts(tmp_path / "m.pcpu")
    assert [name for name in before if before[name] != after[name]] == [differs]
    assert key(tmp_path / "m.pcpu") != key(plain)


def with_header(path: Path, output: Path, fingerprint: int, *, hashes: bool = True) -> Path:
    """A copy with another fingerprint, perhaps without the tensors' hashes."""
    parsed = parse(path.read_bytes())
    parsed.header["fingerprint"] = fingerprint
    for record in parsed.records:
        record["source_sha256"] = record["source_sha256"] if hashes else bytes(32)
    output.write_bytes(parsed.assemble())
    return output


def test_fingerprints_count(plain: Path, tmp_path: Path) -> None:
    keys = {key(plain), *(key(with_header(plain, tmp_path / f"{i}.pcpu", i)) for i in (0, 1, 2))}
    assert len(keys) == 4


def test_files_without_fingerprint_and_hashes(plain: Path, tmp_path: Path) -> None:
    """Are told apart by all that they hold."""
    folder = write_checkpoint(tmp_path / "c", **SMALL, tensors=other_row())
    pythia_cpu.convert(folder, tmp_path / "other.pcpu", progress=False)
    one = with_header(plain, tmp_path / "1.pcpu", 0, hashes=False)
    other = with_header(tmp_path / "other.pcpu", tmp_path / "2.pcpu", 0, hashes=False)
    assert facts(one) == facts(other)
    assert key(one) != key(other)
    assert key(one) == key(shutil.copyfile(one, tmp_path / "3.pcpu"))


def test_versions_of_the_package(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(plain)
    monkeypatch.setattr(_identity, "version", lambda _: "1.2.3")
    assert key(plain) != before


def test_where_a_file_is_and_came_from_does_not_count(plain: Path, tmp_path: Path) -> None:
    assert key(shutil.copyfile(plain, tmp_path / "copy.pcpu")) == key(plain)
    pythia_cpu.convert(write_checkpoint(tmp_path / "again", **SMALL), tmp_path / "again.pcpu", progress=False)
    assert (tmp_path / "again.pcpu").read_bytes() != plain.read_bytes()  # another source
    assert key(tmp_path / "again.pcpu") == key(plain)
    named = with_header(tmp_path / "again.pcpu", tmp_path / "named.pcpu", 0)  # the tensors' hashes are enough
    assert key(named) == key(with_header(plain, tmp_path / "plain.pcpu", 0))
