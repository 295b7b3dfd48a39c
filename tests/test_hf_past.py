"""``past_key_values``: loops that decode token by token, as they are written for transformers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from pythia_cpu import hf

IDS = torch.tensor([[5, 6, 7, 8], [0, 0, 11, 12]])
MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


def decode(model: Any, steps: int, **options: Any) -> tuple[torch.Tensor, list[Any]]:
    """A greedy loop; also what each step gave."""
    ids, mask, past, chosen, outputs = IDS, MASK, None, [], []
    for _ in range(steps):
        with torch.no_grad():
            output = model(ids, attention_mask=mask, past_key_values=past, use_cache=True, **options)
        past, ids = output.past_key_values, output.logits[:, -1:].argmax(-1)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        chosen.append(ids)
        outputs.append(output)
    return torch.cat(chosen, dim=1), outputs


def test_decoding_loops(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any) -> None:
    (ours, outputs), (theirs, expected) = (
        decode(model, 6, output_attentions=True) for model in (hf_model, their_hf_model)
    )
    assert ours.tolist() == theirs.tolist()
    assert ours.tolist() == decode(hf_model, 6)[0].tolist()
    generated = hf_model.generate(IDS, attention_mask=MASK, max_new_tokens=6, eos_token_id=None)
    assert ours.tolist() == generated[:, 4:].tolist()
    for found, wanted in zip(outputs[1:], expected[1:], strict=True):
        np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-4)
        for pattern, of_theirs in zip(found.attentions, wanted.attentions, strict=True):
            np.testing.assert_allclose(pattern, of_theirs, atol=1e-5)
    assert outputs[-1].past_key_values.get_seq_length() == expected[-1].past_key_values.get_seq_length() == 9


def test_the_bits_are_those_of_whole_rows(hf_model: hf.GPTNeoXForCausalLM) -> None:
    rows = np.random.default_rng(2).integers(2, 4096, (2, 30))
    whole = hf_model(rows, labels=rows, output_hidden_states=True)
    first = hf_model(rows[:, :20])
    second = hf_model(rows[:, 20:], past_key_values=first[1], output_hidden_states=True)
    np.testing.assert_array_equal(second.logits, whole.logits[:, 20:])
    for found, expected in zip(second.hidden_states, whole.hidden_states, strict=True):
        np.testing.assert_array_equal(found, expected[:, 20:])
    assert second.past_key_values is first.past_key_values is second[1] and second[2] is second.hidden_states
    assert list(second) == ["logits", "hidden_states"] and len(second) == 2
    assert repr(second[1]) == "PastKeyValues(2 rows of 30)"
    assert second.cache is second["cache"] is second["past_key_values"] is second[1]
    assert whole[0] is whole.loss and whole[1] is whole.logits and whole[3] is whole.hidden_states

    past = second.past_key_values
    other = copy.deepcopy(past)
    past.crop(25)
    assert (past.get_seq_length(), other.get_seq_length()) == (25, 30)
    np.testing.assert_array_equal(hf_model(rows[:, 25:], past_key_values=past).logits, whole.logits[:, 25:])
    other.crop(-10)
    np.testing.assert_array_equal(hf_model(rows[:, 20:], cache=other).logits, whole.logits[:, 20:])
    other.crop(40)
    assert other.get_seq_length() == 30
    other.crop(0)
    assert (other.get_seq_length(), [len(session) for session in other.sessions]) == (0, [0, 0])


def test_what_cannot_go_on(hf_model: hf.GPTNeoXForCausalLM) -> None:
    past = hf_model(IDS, attention_mask=MASK).past_key_values
    one = torch.ones(2, 1, dtype=torch.int64)
    for arguments, message in (
        ({"input_ids": one[:1]}, "input_ids has 1 rows, but past_key_values has 2"),
        ({"input_ids": one, "attention_mask": one}, r"attention_mask has shape \[2, 1\], expected \[2, 5\]"),
        ({"input_ids": one, "attention_mask": torch.tensor([[1] * 4 + [0]] * 2)}, "and ones for the new ids"),
        ({"input_ids": torch.ones(2, 2045, dtype=torch.int64)}, "context holds 2048: use fewer"),
    ):
        with pytest.raises(ValueError, match=message):
            hf_model(past_key_values=past, **arguments)
    for mask in ([[1] * 5] * 2, [[0] + [1] * 4, [0, 0, 1, 1, 1]], [[1] * 5, [0, 0, 0, 1, 1]]):
        with pytest.raises(ValueError, match="attention_mask has ones where past_key_values hold padding, or zeros"):
            hf_model(one, past_key_values=past, attention_mask=mask)
    for positions in ([[9]], [[4], [3]], [[4], [9]]):
        with pytest.raises(ValueError, match="position_ids do not go on from the . tokens of past_key_values"):
            hf_model(one, past_key_values=past, position_ids=positions)
    for options in ({}, {"output_attentions": True}, {"output_hidden_states": True}):
        with pytest.raises(ValueError, match="token id 1000000"):
            hf_model([[1], [10**6]], past_key_values=past, **options)
    with pytest.raises(ValueError, match="both past_key_values and cache are given"):
        hf_model(one, past_key_values=past, cache=past)
    with pytest.raises(ValueError, match="past_key_values are another model's"):
        copy.deepcopy(hf_model)(one, past_key_values=past)
    assert past.get_seq_length() == 4 and [len(session) for session in past.sessions] == [4, 2]
    expected = hf_model([[11], [12]], past_key_values=copy.deepcopy(past)).logits
    for positions in ([[4]], [[4], [2]]):
        other = copy.deepcopy(past)
        found = hf_model([[11], [12]], past_key_values=other, position_ids=positions).logits
        np.testing.assert_array_equal(found, expected)
        other.crop(-10)
        assert other.get_seq_length() == 0 and [len(session) for session in other.sessions] == [0, 0]
    with pytest.raises(ValueError, match="past_key_values is of type tuple, expected what a forward pass"):
        hf_model(one, past_key_values=((),))
    with pytest.raises(ValueError, match="row 1 has padding on the right"):
        hf_model(IDS.flip(1), attention_mask=MASK.flip(1)).past_key_values  # noqa: B018
