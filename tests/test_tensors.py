"""The weights of a loaded model, against the checkpoint and against a reader of the format in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import pcpu_file
import pythia_cpu
from pythia_cpu import _core

SHAPE = {"hidden_size": 72, "num_attention_heads": 3, "num_hidden_layers": 2}


@pytest.mark.parametrize("weights", _core.WEIGHT_FORMATS)
def test_tensors_are_those_of_the_checkpoint(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path], weights: str
) -> None:
    checkpoint = make_checkpoint(**SHAPE, dtype="bfloat16" if weights == "bf16" else "float16")
    path = make_model_file(checkpoint, weights)
    model = pythia_cpu.load(path)
    assert isinstance(model.tensors, Mapping)
    parsed = pcpu_file.parse(path.read_bytes())
    records = {record["name"].rstrip(b"\0").decode(): record for record in parsed.records}  # type: ignore[attr-defined]
    assert list(model.tensors) == list(records) and len(model.tensors) == len(records)
    with pythia_cpu.open_checkpoint(checkpoint) as source:
        assert set(model.tensors) == set(source)
        for name, array in model.tensors.items():
            assert array.dtype == np.float32 and array.shape == source[name].shape, name
            np.testing.assert_array_equal(array, pcpu_file.read_tensor(parsed, records[name]), name)
            if weights not in ("q8", "q4"):
                np.testing.assert_array_equal(array, source[name], name)


def test_a_tied_head_and_a_name_that_is_not_there(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> None:
    tensors = pythia_cpu.load(make_model_file(make_checkpoint(**SHAPE, tied=True))).tensors
    np.testing.assert_array_equal(tensors["embed_out.weight"], tensors["gpt_neox.embed_in.weight"])
    assert "embed_out.weight" in tensors and "lm_head.weight" not in tensors and 3 not in tensors
    with pythia_cpu.open_checkpoint(make_checkpoint(**SHAPE)) as checkpoint:
        for mapping in (tensors, checkpoint):
            with pytest.raises(KeyError, match=r"has no tensor 'layers\.1\.mlp'; near it: gpt_neox\.layers\.1\.mlp\."):
                mapping["layers.1.mlp"]
            assert "x" not in mapping and mapping.get("x") is None


def test_arrays_are_the_callers_own() -> None:
    model = pythia_cpu.load()
    before = model.logits([5, 6])
    model.tensors["embed_out.weight"][:] = 0
    np.testing.assert_array_equal(model.logits([5, 6]), before)
    assert model.tensors["embed_out.weight"].any()
    with pytest.raises(TypeError):
        model.tensors["embed_out.weight"] = before  # type: ignore[index]
