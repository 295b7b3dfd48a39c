"""Checkpoints that transformers itself saved, versions 4 and 5, in every layout: the same model from each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import MINI_PYTHIA
from pythia_cpu import _core, convert, load, open_checkpoint
from pythia_cpu._provenance import provenance
from reference import Reference, assert_logits_agree

SAVED_BY_4 = Path(__file__).parent / "data" / "transformers-4.57"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def saved_by_4(folder: Path, weights: str) -> Path:
    """A folder with one of the files that transformers 4 saved."""
    folder.mkdir(parents=True)
    for name in ("config.json", weights):
        shutil.copyfile(SAVED_BY_4 / name, folder / name)
    return with_tokenizer(folder)


def with_tokenizer(folder: Path) -> Path:
    shutil.copyfile(MINI_PYTHIA / "tokenizer.json", folder / "tokenizer.json")
    return folder


def tensors_and_config(folder: Path, output: Path) -> tuple[Any, dict[str, Any]]:
    convert(folder, output, progress=False)
    file = _core.PcpuFile.open(str(output))
    return provenance(file)["tensors"], file.config


def test_files_of_transformers_4(tmp_path: Path) -> None:
    found = [tensors_and_config(saved_by_4(tmp_path / name / "c", name), tmp_path / f"{name}.pcpu") for name in WEIGHTS]
    assert found[0] == found[1]
    assert found[0][1]["rotary_ndims"] == 4 and found[0][1]["rotary_emb_base"] == 5000
    first, second = ((tmp_path / f"{name}.pcpu").read_bytes() for name in WEIGHTS)
    assert first == second


@pytest.mark.parametrize("max_shard_size", ["5GB", "5KB"])
def test_files_of_transformers_5(tmp_path: Path, max_shard_size: str) -> None:
    """Read from transformers 4's file and saved again: other config keys, and shards."""
    transformers = pytest.importorskip("transformers", minversion="5")
    old = saved_by_4(tmp_path / "old", WEIGHTS[0])
    network = transformers.GPTNeoXForCausalLM.from_pretrained(old, dtype="float16")
    new = tmp_path / "new"
    network.save_pretrained(new, max_shard_size=max_shard_size)
    with_tokenizer(new)
    assert (len(list(new.glob("model*.safetensors"))) > 1) == (max_shard_size == "5KB")
    assert "rope_parameters" in json.loads((new / "config.json").read_text())
    assert tensors_and_config(new, tmp_path / "new.pcpu") == tensors_and_config(old, tmp_path / "old.pcpu")


def test_a_state_dict_of_transformers_5_saved_by_torch(tmp_path: Path) -> None:
    """It calls the head `lm_head`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5")
    old = saved_by_4(tmp_path / "old", WEIGHTS[0])
    network = transformers.GPTNeoXForCausalLM.from_pretrained(old, dtype="float16")
    new = tmp_path / "new"
    network.config.save_pretrained(new)
    torch.save(network.state_dict(), new / "pytorch_model.bin")
    with_tokenizer(new)
    with open_checkpoint(new) as checkpoint:
        assert "lm_head.weight" in checkpoint
    assert tensors_and_config(new, tmp_path / "new.pcpu") == tensors_and_config(old, tmp_path / "old.pcpu")


@pytest.mark.parametrize("weights", WEIGHTS)
def test_logits_of_a_file_of_transformers_4(tmp_path: Path, weights: str) -> None:
    folder = saved_by_4(tmp_path / "c", weights)
    convert(folder, tmp_path / "m.pcpu", progress=False)
    tokens = np.random.default_rng(0).integers(0, 20, 60).tolist()
    assert_logits_agree(load(tmp_path / "m.pcpu").logits(tokens), Reference(folder).logits(tokens))
