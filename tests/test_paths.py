"""Paths with bytes that are not UTF-8, as Linux allows, which Python holds as lone surrogates."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest

import pythia_cpu
from pythia_cpu._cli_convert import main

ODD = os.fsdecode(b"odd\xff")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / ODD
    try:
        path.mkdir()
    except OSError:
        pytest.skip("this system's file names are UTF-8")
    return path


def test_files(folder: Path, shipped_model: Path) -> None:
    path = folder / f"{ODD}.pcpu"
    shutil.copyfile(shipped_model, path)
    model = pythia_cpu.load(path)
    assert model.verify()
    assert model.score_to_file(["Once"], folder / f"{ODD}.jsonl") == 1
    assert repr(str(path)) in repr(model) and repr(str(path)) in repr(model.tensors)
    assert pickle.loads(pickle.dumps(model)).logits([5]).shape == (1, 4096)
    assert ODD in repr(model._file)
    path.write_bytes(b"junk")
    with pytest.raises(pythia_cpu.FormatError, match=rf"{ODD}\.pcpu: file size is 4 bytes"):
        pythia_cpu.load(path)
    path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        pythia_cpu.load(path)
    assert caught.value.filename == str(path)


def test_conversion(folder: Path, mini_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = folder / "run" / ODD
    shutil.copytree(mini_checkpoint, checkpoint)
    model = pythia_cpu.load(folder / "run", revision=ODD, cache_dir=folder / "cache", progress=False)
    assert (model.provenance["source"], model.provenance["revision"]) == ("run", "odd\ufffd")
    assert pythia_cpu.load(checkpoint, cache_dir=folder / "cache", progress=False).provenance["source"] == "odd\ufffd"
    removed = pythia_cpu.remove_cached(checkpoint, cache_dir=folder / "cache")
    assert [cached.path.parent.name for cached in removed] == ["odd--"]
    output = folder / f"{ODD}.pcpu"
    assert main([str(checkpoint), "-o", str(output)]) == 0
    assert capsys.readouterr().out.startswith(f"{folder.parent}/odd\\udcff/odd\\udcff.pcpu: odd\ufffd, ")
    assert main(["--duplicates", str(output)]) == 0


def test_names_that_no_file_can_have(mini_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"junk")
    for name, message in (("a\0.pcpu", "null (byte|character)"), ("a\ud800.pcpu", "surrogates not allowed")):
        with pytest.raises(ValueError, match=message):
            pythia_cpu.load(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            pythia_cpu.convert(mini_checkpoint, tmp_path / name, progress=False)
