"""Generation under its transformers names: the same ids as transformers gives."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pythia_cpu import hf
from reference import TOLERANCE

TEXTS = ["Once upon a time", "It was", "The old man looked at the door, and", "x"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 40},
        {"max_length": 30},
        {"max_new_tokens": 30, "repetition_penalty": 1.2},
        {"max_new_tokens": 30, "no_repeat_ngram_size": 2},
        {"max_new_tokens": 30, "eos_token_id": 13, "min_new_tokens": 9, "no_repeat_ngram_size": 3},
        {"max_new_tokens": 20, "num_beams": 3, "no_repeat_ngram_size": 2},
        {"max_new_tokens": 30, "eos_token_id": 13},
        {"max_new_tokens": 20, "num_beams": 3, "num_return_sequences": 2, "eos_token_id": 13, "early_stopping": True},
        {"max_new_tokens": 30, "eos_token_id": [13, 264], "pad_token_id": 1},
        {"max_new_tokens": 30, "eos_token_id": np.int64(13)},
        {"max_new_tokens": 30, "eos_token_id": torch.tensor([13, 264]), "pad_token_id": np.int64(1)},
        {"max_new_tokens": 30, "eos_token_id": None, "pad_token_id": 0},
        {"max_new_tokens": 9, "temperature": 0.0, "top_p": None, "top_k": None, "use_cache": True},
        {"max_new_tokens": 30, "eos_token_id": 13, "min_new_tokens": 30},
        {"max_new_tokens": 30, "eos_token_id": [13, 264], "min_new_tokens": 11, "repetition_penalty": 1.1},
        {"max_length": 18, "eos_token_id": 13, "min_length": 18, "num_beams": 2},
        {"max_new_tokens": 30, "eos_token_id": 13, "min_length": 1},
        {"max_new_tokens": 30, "eos_token_id": 13, "min_length": 12},
        {"max_new_tokens": 9, "eos_token_id": 13, "min_length": 0, "min_new_tokens": 0},
    ],
    ids=str,
)
def test_generate_left_padded(
    hf_model: hf.GPTNeoXForCausalLM, hf_tokenizer: hf.GPTNeoXTokenizer, their_hf_model: Any, options: dict[str, Any]
) -> None:
    inputs = hf_tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="pt")
    ours, theirs = hf_model.generate(**inputs, **options), their_hf_model.generate(**inputs, **options)
    assert ours.dtype == theirs.dtype
    assert ours.tolist() == theirs.tolist()
    arrays = hf_model.generate(**hf_tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="np"), **options)
    assert isinstance(arrays, np.ndarray)
    assert arrays.tolist() == theirs.tolist()
    width = inputs.input_ids.shape[1]
    for i, text in enumerate(TEXTS):
        if not {"max_length", "min_length"} & options.keys():  # which count the padding
            alone = hf_model.generate(**hf_tokenizer(text, return_tensors="np"), **options)[0]
            new = alone[len(hf_tokenizer.encode(text)) :]
            row = ours[i * options.get("num_return_sequences", 1)]
            assert row[width : width + len(new)].tolist() == new.tolist()


@pytest.mark.parametrize(
    "options", [{}, {"length_penalty": 0.5, "repetition_penalty": 1.3}, {"eos_token_id": 13}], ids=str
)
def test_scores_of_beams(
    hf_model: hf.GPTNeoXForCausalLM, hf_tokenizer: hf.GPTNeoXTokenizer, their_hf_model: Any, options: dict[str, Any]
) -> None:
    inputs = hf_tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="pt")
    options = {
        "num_beams": 3,
        "num_return_sequences": 2,
        "max_new_tokens": 9,
        "return_dict_in_generate": True,
        **options,
    }
    ours = hf_model.generate(**inputs, **options)
    theirs = their_hf_model.generate(**inputs, **options, output_scores=True)
    assert ours.sequences.tolist() == theirs.sequences.tolist()
    assert ours.sequences_scores.dtype == torch.float32 and ours.scores is None
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, rtol=0, atol=2e-5)
    assert hf_model.generate(**inputs, return_dict_in_generate=True, max_new_tokens=2).sequences_scores is None


def test_generate_samples(hf_model: hf.GPTNeoXForCausalLM, hf_tokenizer: hf.GPTNeoXTokenizer) -> None:
    inputs = hf_tokenizer(TEXTS[:2], padding=True, padding_side="left", return_tensors="np")
    rows = hf_model.generate(
        **inputs, do_sample=True, temperature=0.8, num_return_sequences=3, seed=4, max_new_tokens=9
    )
    width = inputs.input_ids.shape[1]
    texts = hf_model.model.generate(
        TEXTS[:2], do_sample=True, temperature=0.8, top_k=50, num_return_sequences=3, seed=[4, 5], max_new_tokens=9
    )
    for i in range(6):
        assert rows[i, :width].tolist() == inputs.input_ids[i // 3].tolist()
        assert rows[i, width : width + 9].tolist()[: len(texts[i // 3][i % 3].tokens)] == texts[i // 3][i % 3].tokens
    stopped = hf_model.generate(
        hf_tokenizer.encode(TEXTS[0], return_tensors="np"), stop_strings="other", tokenizer=hf_tokenizer
    )
    assert hf_tokenizer.decode(stopped[0]).endswith("other")


@pytest.mark.parametrize(
    "stop",
    [
        ["s a"],
        [" a", "d a"],
        ["was a little"],
        ["s the", "as a th", " lit"],
        ["q", "man looked at the door, and the d"],
    ],
    ids=str,
)
def test_stop_strings_that_begin_in_the_prompt(
    hf_model: hf.GPTNeoXForCausalLM, mini_checkpoint: Path, their_hf_model: Any, stop: list[str]
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(mini_checkpoint, padding_side="left")
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    options = {"max_new_tokens": 9, "eos_token_id": 13, "stop_strings": stop, "tokenizer": tokenizer}
    assert hf_model.generate(**inputs, **options).tolist() == their_hf_model.generate(**inputs, **options).tolist()


def test_full_context(hf_model: hf.GPTNeoXForCausalLM) -> None:
    ids = np.random.default_rng(0).integers(2, 4096, (1, 2040))
    assert hf_model.generate(ids, eos_token_id=1).shape[1] <= 2048
    assert hf_model.generate(ids[:, :10], max_length=11).shape == (1, 11)
    assert hf_model.generate(np.resize(ids, 2048)).shape == (1, 2049)  # one row may come without its batch


@pytest.mark.parametrize("number", range(4))
def test_options_in_a_config(
    hf_model: hf.GPTNeoXForCausalLM,
    hf_tokenizer: hf.GPTNeoXTokenizer,
    their_hf_model: Any,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    inputs = hf_tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="pt")
    options: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": 13, "temperature": 0.5}
    expected = their_hf_model.generate(**inputs, generation_config=transformers.GenerationConfig(**options)).tolist()
    config = [hf.GenerationConfig(**options), transformers.GenerationConfig(**options), options, None][number]
    monkeypatch.setattr(
        hf_model, "generation_config", hf_model.generation_config if config else hf.GenerationConfig(**options)
    )
    assert hf_model.generate(**inputs, generation_config=config).tolist() == expected
    mask = inputs.attention_mask
    assert hf_model.generate(inputs.input_ids, config, attention_mask=mask).tolist() == expected
    fewer = hf_model.generate(inputs=inputs.input_ids, attention_mask=mask, generation_config=config, max_new_tokens=5)
    assert fewer.tolist() == [row[: fewer.shape[1]] for row in expected] and fewer.shape[1] == mask.shape[1] + 5


def test_a_config_of_transformers_4(hf_model: hf.GPTNeoXForCausalLM) -> None:
    """It has a value for each option, such as a max_length of 20, which there stands for 20 new tokens."""
    others = {"is_assistant": False, "num_assistant_tokens": 20, "assistant_lookbehind": 10, "generation_kwargs": {}}
    config = hf.GenerationConfig(max_length=20, **others, token_healing=False, transformers_version="4.57.1")
    expected = hf_model.generate([[817, 308]], eos_token_id=None)
    assert hf_model.generate([[817, 308]], config, eos_token_id=None).tolist() == expected.tolist()
    for length, other in (
        (19, hf.GenerationConfig(**{**vars(config), "min_length": 0, "max_length": 19})),
        (20, hf.GenerationConfig(max_length=20)),
        (20, hf.GenerationConfig(max_length=20, transformers_version="5.0.0")),
    ):
        found = hf_model.generate([[817, 308]], other, eos_token_id=None)
        assert found.tolist() == expected[:, :length].tolist()
    assert (
        hf_model.generate([[817, 308]], config, max_length=19, eos_token_id=None).tolist() == expected[:, :19].tolist()
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"do_sample": True, "seed": 1}, {"min_new_tokens": 4}, {"stop_strings": "s a l"}, {"stop_strings": "as a"}],
    ids=str,
)
def test_streamer(hf_model: hf.GPTNeoXForCausalLM, hf_tokenizer: hf.GPTNeoXTokenizer, options: dict[str, Any]) -> None:
    inputs = hf_tokenizer("It was", return_tensors="pt")
    options = {"max_new_tokens": 8, "eos_token_id": 13, **options}
    expected = hf_model.generate(**inputs, **options)
    streamer = transformers.TextIteratorStreamer(hf_tokenizer)
    assert hf_model.generate(**inputs, **options, streamer=streamer).tolist() == expected.tolist()
    assert "".join(streamer) == hf_tokenizer.decode(expected[0])
    for refused in ({"num_beams": 2}, {"input_ids": inputs.input_ids.repeat(2, 1), "attention_mask": None}):
        with pytest.raises(ValueError, match="num_beams|streamer is given with 2 prompts"):
            hf_model.generate(**{**inputs, **options, **refused}, streamer=streamer)


def test_defaults_of_the_model(hf_model: hf.GPTNeoXForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_model, "generation_config", hf.GenerationConfig(**vars(hf_model.generation_config)))
    hf_model.generation_config.max_new_tokens = 3
    hf_model.generation_config.pad_token_id = 7
    assert hf_model.generate([[817, 308]]).shape == (1, 5)
    assert "max_new_tokens=3" in repr(hf_model.generation_config)


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores(
    hf_model: hf.GPTNeoXForCausalLM, hf_tokenizer: hf.GPTNeoXTokenizer, their_hf_model: Any, side: str
) -> None:
    inputs = hf_tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
    end = 13 if side == "left" else None
    options = {"max_new_tokens": 12, "eos_token_id": end, "return_dict_in_generate": True, "output_scores": True}
    ours = hf_model.generate(**inputs, **options, output_logits=True)
    assert ours["sequences"] is ours.sequences is ours[0] and ours.scores is ours[1] and len(ours.logits) == 12
    assert list(ours) == ["sequences", "scores", "logits"] and "hidden_states" not in ours
    assert hf_model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True).scores is None
    if side == "left":
        theirs = their_hf_model.generate(**inputs, **options)
        assert ours.sequences.tolist() == theirs.sequences.tolist()
        for step, expected in zip(ours.scores, theirs.scores, strict=True):
            assert step.dtype == expected.dtype and step.shape == expected.shape
            assert (step - expected).abs().max() <= TOLERANCE * expected.abs().max()
    else:  # where transformers takes the padding for a part of the text
        assert torch.stack(ours.logits, 1).argmax(2).tolist() == ours.sequences[:, -12:].tolist()
    drawn = hf_model.generate(
        inputs.input_ids.numpy()[:1], do_sample=True, num_return_sequences=2, seed=1, max_new_tokens=520,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    for i, row in enumerate(drawn.sequences):
        found = np.stack([step[i] for step in drawn.logits])
        np.testing.assert_array_equal(found, hf_model.model.logits(row[:-1])[-len(found) :])


def test_stopping_criteria(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any) -> None:
    ids = torch.tensor([[0, 5, 6, 7], [11, 12, 13, 14]])
    mask = (ids != 0).long()
    options = {"max_new_tokens": 12, "eos_token_id": 1, "pad_token_id": 0, "attention_mask": mask}
    plain = hf_model.generate(ids, **options)
    wanted = int(plain[0, 9])

    class Ends(transformers.StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return input_ids[:, -1] == wanted

    criteria = transformers.StoppingCriteriaList([Ends(), lambda ids, _: torch.tensor([ids.shape[1] > 14])])
    ours = hf_model.generate(ids, stopping_criteria=criteria, **options)
    theirs = their_hf_model.generate(ids, stopping_criteria=criteria[:1], **options)
    assert ours.tolist() == theirs[:, : ours.shape[1]].tolist()
    assert ours[0, -1] == wanted or ours.shape[1] == 15
    drawn = hf_model.generate(
        ids, do_sample=True, seed=2**64 - 1, num_return_sequences=2, stopping_criteria=[Ends()], **options
    )
    assert len(drawn) == 4 and len({tuple(row.tolist()) for row in drawn}) == 4
    for unsupported in ({"num_beams": 2}, {"num_beams": 2, "min_new_tokens": 3}):
        with pytest.raises(ValueError, match="stopping_criteria, .* are not supported by pythia_cpu with num_beams"):
            hf_model.generate(ids, stopping_criteria=[Ends()], **options, **unsupported)


def test_min_new_tokens_and_the_context(hf_model: hf.GPTNeoXForCausalLM) -> None:
    ids = np.random.default_rng(0).integers(2, 4096, (1, 2040))
    whole = hf_model.generate(ids, max_new_tokens=20, eos_token_id=1)
    assert whole.shape == (1, 2049)
    for length in (7, 8, 9, 12):
        found = hf_model.generate(ids, max_new_tokens=20, min_new_tokens=length, eos_token_id=1)
        assert found.tolist() == whole.tolist()


def test_options_that_change_nothing_here(hf_model: hf.GPTNeoXForCausalLM) -> None:
    """A least length where no token ends a text, and scores that are not given."""
    for options, others in (
        ({"do_sample": True, "seed": 3}, {"min_new_tokens": 5}),
        ({"num_beams": 2}, {"min_length": 5}),
        ({"num_beams": 2}, {"output_scores": True, "output_logits": True}),
        ({}, {"logits_processor": [], "stopping_criteria": [], "synced_gpus": False}),
    ):
        options |= {"max_new_tokens": 8, "eos_token_id": None}
        expected = hf_model.generate([[817, 308]], **options)
        assert hf_model.generate([[817, 308]], **options, **others).tolist() == expected.tolist()


def test_padding_without_a_mask(hf_model: hf.GPTNeoXForCausalLM, their_hf_model: Any) -> None:
    """All that is not padding is text, unless padding is what ends a text."""
    ids = torch.tensor([[1, 1, 817, 308], [430, 817, 308, 260]])
    for options in ({"pad_token_id": 1}, {"pad_token_id": 1, "eos_token_id": [1, 13]}, {"pad_token_id": 5}, {}):
        ours, theirs = (model.generate(ids, max_new_tokens=12, **options) for model in (hf_model, their_hf_model))
        assert ours.tolist() == theirs.tolist()
    with pytest.raises(ValueError, match="zeros between ones"):
        hf_model.generate(torch.tensor([[817, 1, 308]]), pad_token_id=1)


def test_logits_of_a_row_at_the_context_s_end(hf_model: hf.GPTNeoXForCausalLM) -> None:
    context = hf_model.config.max_position_embeddings
    ids = np.random.default_rng(0).integers(2, 4000, (2, context - 2))
    mask = np.ones_like(ids)
    mask[0, :-5] = 0
    options = {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0, "return_dict_in_generate": True}
    out = hf_model.generate(ids, attention_mask=mask, output_logits=True, **options)
    assert len(out.logits) == 6 and out.sequences.shape == (2, context + 4)
    for step, logits in enumerate(out.logits):
        assert logits[0].argmax() == out.sequences[0, context - 2 + step]
        assert logits[1].any() == (step < 3)
        if step < 3:
            assert logits[1].argmax() == out.sequences[1, context - 2 + step]


def test_torch_seeds_make_texts_repeatable(hf_model: hf.GPTNeoXForCausalLM) -> None:
    ids = torch.tensor([[5, 6, 7]])
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append([hf_model.generate(ids, do_sample=True, max_new_tokens=20).tolist() for _ in range(2)])
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]
    given = [hf_model.generate(ids, do_sample=True, max_new_tokens=20, seed=3).tolist() for _ in range(2)]
    assert given[0] == given[1]


def test_equal_rows_draw_apart(hf_model: hf.GPTNeoXForCausalLM) -> None:
    """The way to many samples of one prompt in transformers; by streams too."""
    ids = torch.tensor([[5, 6, 7]] * 6)
    for options in ({}, {"seed": 2**64 - 2}):
        rows = []
        for more in ({}, {"logits_processor": [lambda ids, scores: scores]}):
            torch.manual_seed(5)
            rows.append(hf_model.generate(ids, do_sample=True, max_new_tokens=12, **options, **more).tolist())
        assert rows[0] == rows[1] and len(set(map(tuple, rows[0]))) == 6
    texts = hf.pipeline("text-generation", model=hf_model)(["It was"] * 6, do_sample=True, max_new_tokens=12)
    assert len({text[0]["generated_text"] for text in texts}) == 6


def test_options_that_are_not_set(hf_model: hf.GPTNeoXForCausalLM) -> None:
    """Scripts ask for them before they set them."""
    assert hf_model.config.pad_token_id is None and hf_model.generation_config.pad_token_id is None
    config = hf.GenerationConfig(top_k=3)
    assert (config.max_new_tokens, config.do_sample, config.top_k) == (None, None, 3)
    assert config == hf.GenerationConfig(top_k=3) != hf.GenerationConfig(top_k=4)
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(AttributeError, match="GenerationConfig has no 'max_tokens'"):
        config.max_tokens  # noqa: B018
    output = hf_model(np.array([[5, 6]]), use_cache=False)
    assert output.past_key_values is None
    with pytest.raises(AttributeError, match="CausalLMOutput has no 'last_hidden_state': it has loss, logits"):
        output.last_hidden_state  # noqa: B018
