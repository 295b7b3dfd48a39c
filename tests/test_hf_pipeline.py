"""Pipelines under transformers' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pythia_cpu import hf

TEXTS = ["Once upon a time", "It was"]


@pytest.fixture
def theirs(their_hf_model: Any, mini_checkpoint: Path) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(mini_checkpoint)
    return transformers.pipeline("text-generation", model=their_hf_model, tokenizer=tokenizer)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_full_text": False},
        {"return_tensors": True},
        {"num_beams": 3, "num_return_sequences": 2},
        {"prefix": "The old man. "},
        {"stop_sequence": ","},
    ],
    ids=str,
)
@pytest.mark.parametrize("texts", [TEXTS[0], TEXTS], ids=str)
def test_pipelines_equal_transformers(
    hf_model: hf.GPTNeoXForCausalLM, theirs: Any, texts: Any, options: dict[str, Any]
) -> None:
    ours = hf.pipeline("text-generation", model=hf_model, max_new_tokens=12)
    found = ours(texts, do_sample=False, **options)
    expected = theirs(texts, do_sample=False, max_new_tokens=12, **options)
    assert found == expected


def test_options_of_configs(hf_model: hf.GPTNeoXForCausalLM, theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a generation_config, the call's or the model's, come before the pipeline's own."""
    config = {"max_new_tokens": 6, "do_sample": False}
    pipe = hf.pipeline(model=hf_model)
    found = pipe(TEXTS, generation_config=hf.GenerationConfig(**config), batch_size=2, truncation=True)
    assert found == theirs(TEXTS, generation_config=transformers.GenerationConfig(**config))
    monkeypatch.setattr(hf_model, "generation_config", hf.GenerationConfig(**config))
    assert pipe(TEXTS) == found
    assert len({len(text[0]["generated_text"]) for text in (pipe(TEXTS[0], max_new_tokens=1), found[0])}) == 2


def test_pipelines_of_names(mini_checkpoint: Path, tmp_path: Path) -> None:
    pipe = hf.pipeline(model=str(mini_checkpoint), model_kwargs={"weights": "q8", "cache_dir": tmp_path}, device=-1)
    assert pipe.task == "text-generation" and pipe.model.model.provenance["weights"] == "q8"
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(pipe(TEXTS[0], max_length=30, num_return_sequences=2))
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[0][1]  # drawn by default
    assert len(pipe(TEXTS[0], return_tensors=True)[0]["generated_token_ids"]) <= 5 + 256
    assert repr(pipe).startswith("TextGenerationPipeline(GPTNeoXForCausalLM(")


def test_what_pipelines_refuse(hf_model: hf.GPTNeoXForCausalLM) -> None:
    assert hf.pipeline(model=hf_model)([]) == []
    for arguments, message in (
        ({"task": "fill-mask"}, "task is 'fill-mask'"),
        ({}, "model is None"),
        ({"model": hf_model, "device": 0}, "device is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            hf.pipeline(**arguments)
    with pytest.raises(ValueError, match="an empty text"):
        hf.pipeline(model=hf_model)(["x", ""])
    chat = [{"role": "user", "content": "x"}]
    for inputs in (chat, [chat], [["x"]]):
        with pytest.raises(ValueError, match="what is no text.*apply_chat_template"):
            hf.pipeline(model=hf_model)(inputs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nonsense"):
        hf.pipeline(model=hf_model, nonsense=1)("x")
