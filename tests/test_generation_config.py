"""Options of generate that a checkpoint comes with, in generation_config.json or config.json, mean the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import pythia_cpu
from pythia_cpu import hf

PROMPTS = torch.tensor([[817, 308], [430, 308]])
NAME = "generation_config.json"
LONG = {"max_new_tokens": 24}


@pytest.fixture
def folder(mini_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mini_checkpoint, tmp_path / "checkpoint"))


def write(folder: Path, stored: dict[str, Any] | None, config: dict[str, Any]) -> None:
    if stored is None:
        (folder / NAME).unlink(missing_ok=True)
    else:
        (folder / NAME).write_text(json.dumps(stored))
    path = folder / "config.json"
    settings = {**json.loads(path.read_text()), **config}
    path.write_text(json.dumps({name: value for name, value in settings.items() if value != "absent"}))


def both(folder: Path) -> tuple[hf.GPTNeoXForCausalLM, Any]:
    ours = hf.GPTNeoXForCausalLM.from_pretrained(folder, cache_dir=folder.parent / "cache")
    options: dict[str, Any] = {"attn_implementation": "eager", "dtype": torch.float32}
    return ours, transformers.GPTNeoXForCausalLM.from_pretrained(folder, **options)


@pytest.mark.parametrize(
    ("stored", "config"),
    [
        ({"eos_token_id": [264, 13], "pad_token_id": 3, "max_new_tokens": 17, "repetition_penalty": 1.2}, {}),
        # Without an end of text there, none ends a text, whatever config.json says.
        ({"bos_token_id": 0, **LONG}, {"eos_token_id": 13}),
        ({"eos_token_id": None, **LONG}, {"eos_token_id": 13}),
        ({"eos_token_id": 264, **LONG}, {"eos_token_id": 13}),
        # Names that transformers does not know, and values that mean nothing.
        ({"chat_format": "chatml", "model_type": "x", "trust_remote_code": True, "eos_token_id": 13, **LONG}, {}),
        ({"guidance_scale": 1.0, "begin_suppress_tokens": [], "eos_token_id": 13, **LONG}, {}),
        ({"low_memory": False, "use_model_defaults": True, "cache_config": {}, "eos_token_id": 13, **LONG}, {}),
        ({"output_attentions": True, "output_hidden_states": True, "eos_token_id": 13, **LONG}, {}),
        ({"eos_token_id": -1, "decoder_start_token_id": 0, **LONG}, {}),
        # Where there is no such file.
        (None, {"eos_token_id": 13, **LONG}),
        (None, {"eos_token_id": [13, 264], **LONG}),
        (None, {"eos_token_id": 13, "pad_token_id": 5, "repetition_penalty": 1.3, **LONG}),
        (None, {"no_repeat_ngram_size": 2, "min_length": 20, "suppress_tokens": [13, 264], "max_length": 30}),
        (None, {"eos_token_id": 13, "num_beams": 3, "length_penalty": 0.6, "early_stopping": True, **LONG}),
    ],
    ids=lambda value: "none" if value is None else ",".join(value),
)
def test_options_of_the_checkpoint(folder: Path, stored: dict[str, Any] | None, config: dict[str, Any]) -> None:
    write(folder, stored, config)
    ours, theirs = both(folder)
    expected = theirs.generate(PROMPTS).tolist()
    assert ours.generate(PROMPTS).tolist() == expected
    assert len(expected[0]) > 3 and ours.generate(PROMPTS, do_sample=False).tolist() == expected


def test_attributes(folder: Path) -> None:
    write(folder, {"eos_token_id": [264, 13], **LONG}, {})
    ours, theirs = both(folder)
    assert ours.generation_config.max_new_tokens == theirs.generation_config.max_new_tokens == 24
    assert ours.generation_config.eos_token_id == [264, 13]
    assert ours.generation_config.top_h is None


def test_options_that_are_not_supported(folder: Path) -> None:
    write(folder, {"sequence_bias": [[[13], -10.0]], **LONG}, {})
    ours, _ = both(folder)
    with pytest.raises(ValueError, match=r"has sequence_bias .* set model\.generation_config\.sequence_bias = None"):
        ours.generate(PROMPTS)
    ours.generation_config.sequence_bias = None
    assert ours.generate(PROMPTS).shape == (2, 26)


@pytest.mark.parametrize(("text", "problem"), [("[]", "is a list, expected an object"), ("{", "is not JSON")])
def test_files_that_are_none(folder: Path, text: str, problem: str) -> None:
    (folder / NAME).write_text(text)
    with pytest.raises(pythia_cpu.CheckpointError, match=f"{NAME}: {problem}"):
        hf.GPTNeoXForCausalLM.from_pretrained(folder, cache_dir=folder.parent / "cache")
