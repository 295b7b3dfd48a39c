"""Forward passes under their transformers names: the same arrays as transformers gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pythia_cpu import hf
from reference import TOLERANCE, Reference

TEXTS = ["Once upon a time", "It was", "The old man looked at the door, and", "x"]


def assert_close(ours: Any, theirs: torch.Tensor) -> None:
    theirs_array = theirs.detach().numpy()
    assert np.abs(np.asarray(ours) - theirs_array).max() <= TOLERANCE * np.abs(theirs_array).max()


def test_forward(hf_model: hf.GPTNeoXForCausalLM, hf_tokenizer: hf.GPTNeoXTokenizer, their_hf_model: Any) -> None:
    inputs = hf_tokenizer("Once upon a time there was", return_tensors="pt")
    ours, theirs = hf_model(**inputs), their_hf_model(**inputs, labels=inputs.input_ids)
    assert isinstance(ours.logits, torch.Tensor)
    assert ours.logits.shape == theirs.logits.shape
    assert_close(ours.logits, theirs.logits)
    assert ours.loss is None and ours[0] is ours.logits is ours["logits"]
    assert "logits" in ours and "loss" not in ours and ours.get("loss") is None and list(ours) == ["logits"]
    arrays = {name: value.numpy() for name, value in inputs.items()}
    result = hf_model(**arrays, labels=arrays["input_ids"])
    assert isinstance(result.logits, np.ndarray) and result.logits.dtype == np.float32
    np.testing.assert_array_equal(result.logits, ours.logits.numpy())
    np.testing.assert_allclose(result.loss, theirs.loss.item(), rtol=1e-5)
    labels = arrays["input_ids"].copy()
    labels[0, 2:4] = -100
    expected = their_hf_model(**inputs, labels=torch.from_numpy(labels)).loss.item()
    np.testing.assert_allclose(hf_model(**arrays, labels=labels).loss, expected, rtol=1e-5)


@pytest.mark.filterwarnings("error")
def test_loss_of_padded_rows(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any) -> None:
    """On the right as in transformers; on the left as of the rows alone, where transformers' backends differ."""
    ids = np.array([[5, 6, 7, 8, 9], [11, 12, 13, 1, 1]])
    labels, mask = np.where(ids == 1, -100, ids), (ids != 1).astype(np.float32)
    kept = {"attention_mask": torch.from_numpy(mask), "labels": torch.from_numpy(labels)}
    expected = their_hf_model(torch.from_numpy(ids), **kept).loss.item()
    np.testing.assert_allclose(hf_model(ids, attention_mask=mask, labels=labels).loss, expected, rtol=1e-5)
    rows = np.array([ids[0], np.roll(ids[1], 2)])
    found = hf_model(rows, attention_mask=rows != 1, labels=np.where(rows == 1, -100, rows)).loss
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    positions = np.cumsum(rows != 1, axis=1) - 1
    with_positions = hf_model(rows, attention_mask=rows != 1, position_ids=positions).logits
    np.testing.assert_array_equal(with_positions, hf_model(rows, attention_mask=rows != 1).logits)


def test_outputs_that_the_config_asks_for(mini_checkpoint: Path, tmp_path: Path) -> None:
    model = hf.GPTNeoXForCausalLM.from_pretrained(mini_checkpoint, cache_dir=tmp_path)
    model.config.output_hidden_states = True
    output = model([[5, 6]])
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1 and output.attentions is None
    assert model([[5, 6]], output_hidden_states=False).hidden_states is None
    assert output[2] is output[-1] is output.hidden_states  # keys and values are between


def test_loss_of_rows(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any) -> None:
    """Of all labels together, the first and the last id and rows without labels too."""
    ids = np.random.default_rng(0).integers(0, 4096, (3, 7))
    labels = ids.copy()
    labels[0, :] = -100
    labels[1, 1:4] = [0, 4095, -100]
    expected = their_hf_model(torch.from_numpy(ids), labels=torch.from_numpy(labels)).loss.item()
    np.testing.assert_allclose(hf_model(ids, labels=labels).loss, expected, rtol=1e-5)
    assert np.isnan(hf_model(ids, labels=np.full_like(ids, -100)).loss)
    for bad in (-1, 4096):
        labels[2, 3] = bad
        with pytest.raises(ValueError, match="labels holds ids outside 0 to 4095 that are not -100"):
            hf_model(ids, labels=labels)


def test_loss_of_many_labels(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any) -> None:
    """Logits of so many are not looked at all together; among them are some without a label."""
    ids = np.random.default_rng(0).integers(0, 4096, (2, 400))
    labels = ids.copy()
    labels[0, 60:90] = labels[1, 257:] = -100
    expected = their_hf_model(torch.from_numpy(ids), labels=torch.from_numpy(labels)).loss.item()
    np.testing.assert_allclose(hf_model(ids, labels=labels).loss, expected, rtol=1e-5)
    total = hf_model.model.score(ids[0]).total
    np.testing.assert_allclose(hf_model(ids[:1], labels=ids[:1]).loss, -total / 399, rtol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_forward_of_padded_rows(
    hf_model: hf.GPTNeoXForCausalLM, hf_tokenizer: hf.GPTNeoXTokenizer, their_hf_model: Any, side: str
) -> None:
    inputs = hf_tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
    logits = hf_model(**inputs).logits
    theirs = their_hf_model(**inputs).logits
    for i, text in enumerate(TEXTS):
        real = inputs.attention_mask[i].bool()
        np.testing.assert_array_equal(logits[i][real], hf_model.model.logits(hf_tokenizer.encode(text)))
        assert_close(logits[i][real], theirs[i][real])
        assert (logits[i][~real] == 0).all()


def test_rows_run_together(hf_model: hf.GPTNeoXForCausalLM) -> None:
    rng = np.random.default_rng(0)
    lengths = [3, 300, 200, 9, 600, 1, 500, 12]
    mask = np.arange(600) < np.array(lengths)[:, None]
    rows = rng.integers(2, 4096, mask.shape)
    logits = hf_model(rows, mask).logits
    for row, length, found in zip(rows, lengths, logits, strict=True):
        np.testing.assert_array_equal(found[:length], hf_model.model.logits(row[:length]))
        assert (found[length:] == 0).all()


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_hidden_states_and_attentions(
    make_checkpoint: Callable[..., Path],
    make_model_file: Callable[[Path], Path],
    reference: Callable[[Path], Reference],
    parallel: bool,
    side: str,
) -> None:
    checkpoint = make_checkpoint(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, parallel=parallel)
    model = hf.GPTNeoXForCausalLM.from_pretrained(make_model_file(checkpoint))
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]])
    mask = mask if side == "left" else mask.flip(1)
    ids = torch.from_numpy(np.random.default_rng(1).integers(2, 4096, mask.shape))
    options = {"output_hidden_states": True, "output_attentions": True, "attention_mask": mask}
    ours, theirs = model(ids, **options), reference(checkpoint).model(ids, **options)
    assert torch.equal(ours.logits, model(ids, mask).logits)
    for name in ("hidden_states", "attentions"):
        assert len(ours[name]) == len(theirs[name])
        for found, expected in zip(ours[name], theirs[name], strict=True):
            assert found.shape == expected.shape and found.dtype == expected.dtype
            for row in range(len(ids)):
                keys = queries = mask[row].bool()
                a, b = found[row], expected[row]
                if name == "attentions":
                    a, b = a[:, queries][:, :, keys], b[:, queries][:, :, keys]
                    assert (found[row][:, ~queries] == 0).all() and (found[row][:, :, ~keys] == 0).all()
                else:
                    a, b = a[queries], b[queries]
                    assert (found[row][~queries] == 0).all()
                assert_close(a, b)
    for name in ("hidden_states", "attentions"):
        alone = model(ids, mask, **{f"output_{name}": True})
        assert list(alone.keys()) == ["logits", name] and torch.equal(alone.logits, ours.logits)
        assert all(torch.equal(a, b) for a, b in zip(alone[name], ours[name], strict=True))
    states = model(ids.numpy(), output_hidden_states=True).hidden_states
    assert all(isinstance(state, np.ndarray) for state in states)


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_itself(
    make_checkpoint: Callable[..., Path], reference: Callable[[Path], Reference], tmp_path: Path, tied: bool
) -> None:
    checkpoint = make_checkpoint(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, tied=tied, attention_bias=tied
    )
    model = hf.GPTNeoXForCausalLM.from_pretrained(checkpoint, cache_dir=tmp_path, weights="q8")
    theirs = reference(checkpoint).model
    assert model.num_parameters() == theirs.num_parameters()
    assert model.num_parameters(exclude_embeddings=True) == theirs.num_parameters(exclude_embeddings=True)
    assert model.eval().cpu().float().to("cpu").to(torch.device("cpu")).to(torch.float32) is model
    assert model.to(device=model.device, dtype=model.dtype) is model
    assert (model.device, model.dtype) == (theirs.device, theirs.dtype)
    with pytest.raises(AttributeError, match=r"has no 'layers': it is no torch module.* is a pythia_cpu\.Model"):
        model.layers  # noqa: B018
    assert model.train(False) is model.requires_grad_(False) is model and not model.training
    assert sum(p.numel() for p in model.parameters()) == theirs.num_parameters()
    expected = {name.replace("lm_head", "embed_out"): value for name, value in theirs.named_parameters()}
    named = model.state_dict()
    assert set(named) == set(expected)
    for name, value in named.items():
        assert value.dtype == torch.float32 and value.shape == expected[name].shape
        value.requires_grad = False
        np.testing.assert_allclose(value, expected[name].detach(), atol=0.01)  # q8
    assert torch.ones(2, device=model.device).to(model.device).device == theirs.device
    assert model.config.vocab_size == theirs.config.vocab_size
    for name in ("bos_token_id", "eos_token_id"):
        assert getattr(model.generation_config, name) == getattr(theirs.generation_config, name)
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": 7, "top_k": 9}')
    stored = hf.GenerationConfig.from_pretrained(checkpoint, top_k=5)
    assert stored == hf.GenerationConfig.from_dict({"eos_token_id": 7}, top_k=5)


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_the_last_columns(
    hf_model: hf.GPTNeoXForCausalLM, hf_tokenizer: hf.GPTNeoXTokenizer, their_hf_model: Any, count: int, side: str
) -> None:
    inputs = hf_tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
    ours = hf_model(**inputs, logits_to_keep=count)
    all_logits = hf_model(**inputs).logits
    assert ours.logits.shape == their_hf_model(**inputs, logits_to_keep=count).logits.shape
    assert torch.equal(ours.logits, all_logits[:, -count:])
    inspected = hf_model(**inputs, logits_to_keep=count, output_hidden_states=True)
    assert torch.equal(inspected.logits, ours.logits)
    if side == "left":
        past = ours.past_key_values
        more = torch.tensor([[5, 6, 7, 8]] * len(TEXTS))
        found = hf_model(more, past_key_values=past, logits_to_keep=count).logits
        whole = hf_model(
            torch.cat([inputs.input_ids, more], 1),
            attention_mask=torch.cat([inputs.attention_mask, torch.ones_like(more)], 1),
        ).logits
        assert torch.equal(found, whole[:, -4:][:, -count:])
    with pytest.raises(ValueError, match="logits_to_keep is 1 with labels, which need all logits"):
        hf_model(inputs.input_ids, labels=inputs.input_ids, logits_to_keep=1)
