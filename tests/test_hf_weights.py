"""Weights as scripts for torch see them."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from pythia_cpu import hf

NAME = "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"


def overwrite_data(weight: torch.Tensor) -> None:
    weight.data = torch.zeros(2)


def set_item(weight: torch.Tensor) -> None:
    weight[0, 0] = 1


def add_to(weight: torch.Tensor) -> None:
    weight += 1


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.add_(1),
        lambda w: w.data.copy_(torch.zeros_like(w)),
        lambda w: w.detach().zero_(),
        lambda w: w.view(-1)[:3].fill_(0),
        lambda w: w.T.mul_(2),
        lambda w: torch.nn.init.normal_(w),
        lambda w: torch.add(w, 1, out=w),
        overwrite_data,
        set_item,
        add_to,
    ],
)
def test_attempts_to_change_a_weight(hf_model: hf.GPTNeoXForCausalLM, change: Callable[[torch.Tensor], object]) -> None:
    weight = hf_model.state_dict()[NAME]
    before = weight.clone()
    with torch.no_grad(), pytest.raises(ValueError, match=r"a script changes a weight.* change a copy \(weight.clone"):
        change(weight)
    assert torch.equal(weight, before)


def test_what_may_be_done_with_them(hf_model: hf.GPTNeoXForCausalLM) -> None:
    weight = dict(hf_model.named_parameters())[NAME]
    plain = torch.from_numpy(hf_model.model.tensors[NAME].copy())
    assert isinstance(weight, torch.nn.Parameter) and weight.device == torch.device("cpu")
    assert type(weight * 2) is type(weight.clone()) is type(weight.norm()) is torch.Tensor
    assert torch.equal(weight, plain) and torch.equal(weight @ weight.T, plain @ plain.T)
    np.testing.assert_array_equal(np.asarray(weight), plain.numpy())
    copied = weight.clone()
    copied.mul_(2)
    assert torch.equal(copied, plain * 2)
    mixed = plain.clone()
    mixed.copy_(weight).add_(weight)
    assert torch.equal(mixed, plain * 2)
    layer = torch.nn.Linear(plain.shape[1], plain.shape[0], bias=False)
    layer.load_state_dict({"weight": weight})
    assert torch.equal(layer.weight, plain)
    assert torch.nn.functional.linear(plain[:1], weight).shape == (1, len(plain))
    file = io.BytesIO()
    torch.save({"weight": weight}, file)
    file.seek(0)
    assert torch.equal(torch.load(file)["weight"], plain)
    assert torch.equal(copy.deepcopy(weight), plain)
    weight.requires_grad = False
    weight.requires_grad_(False)


def test_arrays_where_torch_is_not_imported() -> None:
    script = """
import sys
from pythia_cpu import hf, load
weight = next(hf.GPTNeoXForCausalLM(load()).parameters())
assert "torch" not in sys.modules
try:
    weight[0] = 0
except ValueError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "read-only" in found.stdout


def test_names_that_a_torch_module_has(hf_model: hf.GPTNeoXForCausalLM) -> None:
    for name, advice in (
        ("gpt_neox", r"tensors, by name: tensors\['gpt_neox.embed_in.weight'\]"),
        ("embed_out", r"unembed\(residuals\)"),
        ("register_forward_hook", r"tensors, and in place of hooks run\(tokens"),
        ("save_pretrained", "tensors to save"),
    ):
        with pytest.raises(AttributeError, match=f"has no '{name}'.*which has {advice}"):
            getattr(hf_model, name)
    assert hf_model.half() is hf_model.bfloat16() is hf_model.to(torch.float16) is hf_model
    assert hf_model.config.is_encoder_decoder is False and isinstance(hf_model.name_or_path, str)
