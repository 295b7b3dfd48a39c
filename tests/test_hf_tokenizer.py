"""Tokenizers under their transformers names: the same arrays as transformers gives."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import pythia_cpu
from pythia_cpu import hf

TEXTS = ["Once upon a time", "It was", "The old man looked at the door, and", "x"]


@pytest.fixture
def tokenizer(mini_checkpoint: Path) -> hf.GPTNeoXTokenizer:
    return hf.AutoTokenizer.from_pretrained(mini_checkpoint)


@pytest.fixture
def their_tokenizer(mini_checkpoint: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(mini_checkpoint)


def assert_equal(ours: Any, theirs: Any) -> None:
    """The same encodings, in the same types."""
    assert set(ours) == set(theirs)
    for name in theirs:
        assert type(ours[name]) is type(theirs[name])
        if isinstance(theirs[name], list):
            assert ours[name] == theirs[name]
        else:
            assert ours[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(ours[name], theirs[name])
        assert ours[name] is getattr(ours, name)


@pytest.mark.parametrize("text", [*TEXTS, TEXTS, "", "a  b\n\n<|endoftext|> ü 中"], ids=repr)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": True},
        {"padding": "longest", "padding_side": "left"},
        {"padding": "max_length", "max_length": 12},
        {"truncation": True, "max_length": 3},
        {"truncation": True, "max_length": 0, "padding": "max_length"},
        {"truncation": True, "padding": "max_length", "max_length": 6, "return_tensors": "np"},
        {"padding": True, "return_tensors": "pt"},
        {"return_attention_mask": False},
        {"padding": True, "truncation": True},
        {"padding": "max_length"},
        {"max_length": 2},
        {"max_length": 3, "truncation": False, "padding": True, "pad_to_multiple_of": 8},
        {"padding": True, "return_offsets_mapping": True, "padding_side": "left", "return_tensors": "pt"},
        {"truncation": "longest_first", "max_length": 3, "return_offsets_mapping": True, "add_special_tokens": False},
    ],
    ids=str,
)
def test_tokenizer_equals_transformers(
    tokenizer: hf.GPTNeoXTokenizer, their_tokenizer: Any, text: Any, options: dict[str, Any]
) -> None:
    if text == "" and options.get("return_tensors"):
        return  # transformers makes a float array of no ids
    assert_equal(tokenizer(text, **options), their_tokenizer(text, **options))


def test_tokenizer_properties(tokenizer: hf.GPTNeoXTokenizer, their_tokenizer: Any) -> None:
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "eos_token_id", "bos_token_id", "unk_token_id",
                 "pad_token_id", "padding_side", "truncation_side", "vocab_size", "model_max_length", "is_fast",
                 "special_tokens_map", "all_special_tokens", "all_special_ids"):  # fmt: skip
        assert getattr(tokenizer, name) == getattr(their_tokenizer, name), name
    assert len(tokenizer) == len(their_tokenizer)
    assert tokenizer.get_vocab() == their_tokenizer.get_vocab()
    text = "Hello,  wörld <|endoftext|>"
    ids = their_tokenizer.encode(text)
    assert tokenizer.encode(text) == ids
    assert tokenizer.tokenize(text) == their_tokenizer.tokenize(text) == tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) == ids
    for one in (ids[0], np.int64(ids[0]), torch.tensor(ids[0]), np.array(ids[0])):
        assert tokenizer.convert_ids_to_tokens(one) == their_tokenizer.convert_ids_to_tokens(ids[0])
    assert tokenizer.convert_ids_to_tokens(torch.tensor(ids)) == their_tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=True) == their_tokenizer.convert_ids_to_tokens(
        ids, skip_special_tokens=True
    )
    forms = [
        ids,
        np.array(ids),
        torch.tensor(ids),
        [ids, ids[:2]],
        np.array([ids, ids]),
        [],
        [torch.tensor(5), np.int64(6)],
    ]
    for form in [*forms, ids[0], np.int64(ids[0]), np.array(ids[0]), torch.tensor(ids[0]), [np.array(ids), ids[:1]]]:
        for skip in (False, True):
            assert tokenizer.decode(form, skip_special_tokens=skip) == their_tokenizer.decode(
                form, skip_special_tokens=skip
            )
    for form in forms:  # of no ids one empty text in transformers before 5.24
        assert tokenizer.batch_decode(form) == (their_tokenizer.batch_decode(form) if len(form) else [])
    assert tokenizer.batch_decode(ids[0]) == [their_tokenizer.decode(ids[0])]


def test_special_tokens_that_scripts_add(tokenizer: hf.GPTNeoXTokenizer, their_tokenizer: Any) -> None:
    for one in (tokenizer, their_tokenizer):
        assert one.add_special_tokens({"pad_token": one.eos_token}) == 0
    assert tokenizer.pad_token_id == their_tokenizer.pad_token_id == tokenizer.eos_token_id
    assert_equal(tokenizer(TEXTS, padding=True), their_tokenizer(TEXTS, padding=True))
    tokens = ["It", "no such token"]
    assert tokenizer.convert_tokens_to_ids(tokens) == their_tokenizer.convert_tokens_to_ids(tokens)
    assert tokenizer.encode_plus(TEXTS[0]) == tokenizer(TEXTS[0])  # a name of transformers 4


@pytest.mark.parametrize("clean_up", [True, False])
def test_no_text_is_cleaned_up(tokenizer: hf.GPTNeoXTokenizer, their_tokenizer: Any, clean_up: bool) -> None:
    text = "He said , do n't ! I 'm here ."
    ids = tokenizer.encode(text)
    for one in (tokenizer, their_tokenizer):
        assert one.decode(ids, clean_up_tokenization_spaces=clean_up) == text


def test_tokenizers_without_a_longest_text(tokenizer: hf.GPTNeoXTokenizer, their_tokenizer: Any) -> None:
    for limit in (int(1e30), int(1e20) + 1):
        tokenizer.model_max_length = their_tokenizer.model_max_length = limit
        for options in ({"padding": "max_length"}, {"truncation": True}, {"truncation": True, "padding": "max_length"}):
            assert_equal(tokenizer(TEXTS, **options), their_tokenizer(TEXTS, **options))


def test_settings_may_change(tokenizer: hf.GPTNeoXTokenizer, their_tokenizer: Any) -> None:
    for one in (tokenizer, their_tokenizer):
        one.pad_token_id = one.eos_token_id
        one.model_max_length = 3
        one.truncation_side = one.padding_side = "left"
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (their_tokenizer.pad_token, 0)
    for options in ({"truncation": True}, {"padding": "max_length"}, {"truncation": True, "padding": True}):
        assert_equal(tokenizer(TEXTS, **options), their_tokenizer(TEXTS, **options))
    tokenizer.pad_token_id = np.int64(5)
    assert tokenizer.pad_token == their_tokenizer.convert_ids_to_tokens(5)
    tokenizer.eos_token_id = None
    assert tokenizer.eos_token is None and tokenizer.eos_token_id is None and tokenizer.bos_token_id == 0
    with pytest.raises(ValueError, match="pad_token_id is 99999, expected an id of this tokenizer, 0 to 4095"):
        tokenizer.pad_token_id = 99999
    tokenizer.pad_token = None
    assert tokenizer("It").input_ids == tokenizer(["It"], padding=True).input_ids[0]
    with pytest.raises(ValueError, match="has no pad_token"):
        tokenizer(TEXTS, padding=True)


def test_settings_of_the_checkpoint(mini_checkpoint: Path, shipped_model: Path, tmp_path: Path) -> None:
    assert hf.AutoTokenizer.from_pretrained(shipped_model).model_max_length == 2048  # the model's context
    stored = json.loads((mini_checkpoint / "tokenizer.json").read_text())
    stored["post_processor"] = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    shutil.copy(mini_checkpoint / "config.json", tmp_path)
    names = "model_max_length", "padding_side", "truncation_side", "pad_token", "pad_token_id"
    for settings in (
        {},
        {"model_max_length": 5, "padding_side": "left", "truncation_side": "left", "pad_token": "$"},
        {"pad_token": {"content": "$", "__type": "AddedToken"}, "model_max_length": int(1e30)},
    ):
        config = {"tokenizer_class": "GPTNeoXTokenizer", **settings}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        for given in ({}, {"model_max_length": 7, "padding_side": "right"}):
            ours = hf.GPTNeoXTokenizerFast.from_pretrained(tmp_path, **given)
            theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, **given)
            assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
            for options in ({"truncation": True, "padding": True}, {"return_offsets_mapping": True}):
                assert_equal(ours(TEXTS, **options), theirs(TEXTS, **options))
    (tmp_path / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(pythia_cpu.CheckpointError, match="is not a tokenizer's settings as JSON .it is nested"):
        hf.AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(
        pythia_cpu.CheckpointError, match=r"tokenizer_config\.json: is a list, expected a tokenizer's settings"
    ):
        hf.AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("config", "special_map"),
    [
        ({"eos_token": "$", "bos_token": {"content": "&", "__type": "AddedToken"}, "pad_token": None}, None),
        ({"eos_token": None, "unk_token": None}, None),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, None),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "$", "sep_token": "%"}, None),
        ({"eos_token": "$", "additional_special_tokens": ["&", {"content": "%", "__type": "AddedToken"}]}, None),
        ({"extra_special_tokens": ["#", "$"], "mask_token": "@"}, None),
        ({"eos_token": "$"}, {"eos_token": {"content": "&"}, "pad_token": "%", "additional_special_tokens": ["#"]}),
        ({"eos_token": "$", "added_tokens_decoder": {}}, {"eos_token": "&"}),
    ],
    ids=str,
)
def test_special_tokens_of_the_checkpoint(
    mini_checkpoint: Path, tmp_path: Path, config: dict[str, Any], special_map: dict[str, Any] | None
) -> None:
    shutil.copy(mini_checkpoint / "config.json", tmp_path)
    stored = json.loads((mini_checkpoint / "tokenizer.json").read_text())
    ids = {token: stored["model"]["vocab"][token] for token in "$&%#@"}
    stored["added_tokens"] += [
        {"id": id, "content": token, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for token, id in ids.items()
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    settings = {"tokenizer_class": "GPTNeoXTokenizer", **config}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    if special_map is not None:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(special_map))
    ours, theirs = hf.AutoTokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    kinds = "bos", "eos", "unk", "sep", "pad", "cls", "mask"
    for name in [f"{kind}_token{end}" for kind in kinds for end in ("", "_id")]:
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("special_tokens_map", "all_special_tokens", "all_special_ids", "extra_special_tokens"):
        assert getattr(ours, name) == getattr(theirs, name), name
    row = [*ids.values(), 0, 1, 817]
    assert ours.convert_ids_to_tokens(row, skip_special_tokens=True) == theirs.convert_ids_to_tokens(
        row, skip_special_tokens=True
    )


def test_special_tokens_that_are_not_there(mini_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(mini_checkpoint / "config.json", tmp_path)
    shutil.copy(mini_checkpoint / "tokenizer.json", tmp_path)
    for name, value in (("pad_token", "[PAD]"), ("eos_token", 5), ("extra_special_tokens", ["<|im_end|>"])):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({name: value}))
        with pytest.raises(ValueError, match=f"^{name} has .*, which the vocabulary does not have.* save_pretrained"):
            hf.AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"additional_special_tokens": 3}')
    with pytest.raises(pythia_cpu.CheckpointError, match="extra_special_tokens is 3, expected a list of tokens"):
        hf.AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": null, "extra_special_tokens": null}')
    assert hf.AutoTokenizer.from_pretrained(tmp_path).eos_token == "<|endoftext|>"
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert hf.AutoTokenizer.from_pretrained(tmp_path).chat_template == "{{ messages }}"
    with pytest.raises(ValueError, match=r"^pad_token has '\[PAD\]'"):
        hf.AutoTokenizer.from_pretrained(tmp_path, pad_token="[PAD]")
    assert hf.AutoTokenizer.from_pretrained(tmp_path, pad_token="$", eos_token="&").eos_token == "&"


@pytest.mark.parametrize(
    "encoded",
    [
        {"input_ids": [[5, 6, 7], [8]]},
        {"input_ids": [5, 6, 7]},
        {"input_ids": [[5, 6], [8]], "attention_mask": [[0, 1], [1]], "labels": [[1, 2], [3]]},
        [{"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1]}, {"input_ids": [8], "attention_mask": [1]}],
        {"input_ids": np.array([[5, 6, 7]])},
        {"input_ids": [torch.tensor([5, 6, 7]), torch.tensor([8])]},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "max_length", "max_length": 5, "padding_side": "left"},
        {"pad_to_multiple_of": 4},
        {"padding": "max_length"},
    ],
    ids=str,
)
def test_pad(tokenizer: hf.GPTNeoXTokenizer, their_tokenizer: Any, encoded: Any, options: dict[str, Any]) -> None:
    assert_equal(tokenizer.pad(encoded, **options), their_tokenizer.pad(copy.deepcopy(encoded), **options))


def test_pad_to_tensors(tokenizer: hf.GPTNeoXTokenizer) -> None:
    rows = [tokenizer(text) for text in TEXTS]
    assert_equal(tokenizer.pad(rows, return_tensors="pt"), tokenizer(TEXTS, padding=True, return_tensors="pt"))
    encoding = tokenizer.pad(rows, return_attention_mask=False)
    assert set(encoding) == {"input_ids"}
    assert encoding.to("cpu") is encoding and getattr(encoding, "attention_mask", None) is None
