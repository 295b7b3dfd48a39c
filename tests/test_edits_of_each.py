"""Edits of single texts of a list, and of texts that are scored."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pythia_cpu
from bits import assert_same_bits
from pythia_cpu import Model, _core

HOOK = "blocks.1.hook_resid_post"
TEXTS = ["Once upon a time", "It was", "The old man said that he would", "x"]
SAMPLED = {"do_sample": True, "temperature": 0.9, "seed": 5}
LOOK = {"hook_embed": lambda x: None}


@pytest.fixture(scope="module", params=["f32", "q8"])
def model(request: pytest.FixtureRequest, mini_checkpoint: Path, make_model_file: Callable[..., Path]) -> Model:
    return pythia_cpu.load(make_model_file(mini_checkpoint, request.param), threads=2)


@pytest.fixture(scope="module")
def edits(model: Model) -> list[Any]:
    """One for each text."""
    direction = model.run([5, 6, 7], capture=HOOK).activations[HOOK][-1]

    def all_but_the_first(name: str, x: np.ndarray) -> None:
        if name.endswith("mlp.hook_post"):
            x[1:] = 0

    steered = {HOOK: lambda x: x + 0.4 * direction, "blocks.0.hook_mlp_out": lambda x: x * 0.5}
    return [steered, None, {HOOK: lambda x: x - 0.4 * direction}, all_but_the_first]


def test_runs_with_edits_of_each(model: Model, edits: list[Any]) -> None:
    tokens = [model.tokenizer.encode(text) for text in TEXTS]
    together = model.run(tokens, edit=edits, capture=[HOOK, "blocks.0.mlp.hook_post"])
    for found, ids, edit in zip(together, tokens, edits, strict=True):
        alone = model.run(ids, edit=edit, capture=[HOOK, "blocks.0.mlp.hook_post"])
        assert_same_bits(found.logits, alone.logits)
        for name, array in alone.activations.items():
            assert_same_bits(found.activations[name], array, name)
    assert (together[0].logits[0] != model.logits(tokens[0])[0]).any()
    assert_same_bits(together[1].logits, model.logits(tokens[1]))


def test_residual_streams_of_each(model: Model) -> None:
    """A pass begins at a replaced one only if all have it replaced."""
    ids = [1, 2, 3]
    arrays = [model.run([i, 5, 9], capture=HOOK).activations[HOOK] for i in (3, 4)]
    for edits in ([{HOOK: arrays[0]}, {HOOK: arrays[1]}], [{HOOK: arrays[0]}, {HOOK: lambda x: x * 2}]):
        for found, edit in zip(model.run([ids, ids], edit=edits), edits, strict=True):
            expected = model.run(ids, edit={HOOK: edit[HOOK] if callable(edit[HOOK]) else lambda x, e=edit: e[HOOK]})
            assert_same_bits(found.logits, expected.logits)


@pytest.mark.parametrize("options", [{}, SAMPLED, {**SAMPLED, "num_return_sequences": 3}], ids=str)
def test_texts_with_edits_of_each(model: Model, edits: list[Any], options: dict[str, Any]) -> None:
    together = model.generate(TEXTS, edit=edits, max_new_tokens=12, logprobs=0, **options)
    alone = [
        model.generate(text, edit=edit, max_new_tokens=12, logprobs=0, **options)
        for text, edit in zip(TEXTS, edits, strict=True)
    ]
    assert together == alone
    assert together[0] != model.generate(TEXTS[0], max_new_tokens=12, **options)
    each = model.generate_each(iter(TEXTS), edit=[*edits, None], max_new_tokens=12, logprobs=0, **options)
    assert [text for _, text in sorted(each, key=lambda pair: pair[0])] == alone


def test_seeds_of_each(model: Model) -> None:
    seeds = [3, 2**64 - 1, 0, 3]
    options = {**SAMPLED, "max_new_tokens": 12, "num_return_sequences": 2}
    together = model.generate(TEXTS, **{**options, "seed": seeds})
    assert together == [model.generate(t, **{**options, "seed": s}) for t, s in zip(TEXTS, seeds, strict=True)]
    assert [texts[0].seed for texts in together] == seeds
    again = model.generate(TEXTS, **{**options, "seed": np.array(seeds, np.uint64)})
    assert again == together
    random = model.generate(TEXTS, **{**options, "seed": None})
    assert random == model.generate(TEXTS, **{**options, "seed": [texts[0].seed for texts in random]})


@pytest.mark.parametrize("edit", [LOOK, None], ids=["looking", "none"])
def test_scores_with_edits_that_only_look(model: Model, edit: Any) -> None:
    for arguments in (
        (TEXTS[2],),
        (TEXTS[:3],),
        (TEXTS[0], " there was"),
        (TEXTS[2], [" go", " sit", " never"]),
        ([5, 6], [7]),
        ([[5] * 300, [6] * 400, [8, 9]],),
    ):
        found, expected = model.score(*arguments, edit=edit), model.score(*arguments)
        for a, b in zip(*(s if isinstance(s, list) else [s] for s in (found, expected)), strict=True):
            assert a.tokens == b.tokens
            for name in ("logprobs", "is_greedy", "ranks", "entropies", "varentropies", "greedy_tokens"):
                assert_same_bits(getattr(a, name), getattr(b, name), name)
    text = model.tokenizer.encode(" ".join(TEXTS) * 12)
    for options in ({}, {"context_length": 32}, {"context_length": 32, "stride": 9}):
        assert model.perplexity([text, text[:7]], edit=edit, **options) == model.perplexity([text, text[:7]], **options)


def test_scores_under_an_edit(model: Model, edits: list[Any]) -> None:
    for text in TEXTS[:3]:
        ids = model.tokenizer.encode(text)
        score = model.score(ids, edit=edits[0])
        logits = model.run(ids[:-1], edit=edits[0]).logits
        expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
        np.testing.assert_allclose(score.logprobs, expected[np.arange(len(ids) - 1), ids[1:]], atol=2e-6)
        assert score.greedy_tokens.tolist() == logits.argmax(-1).tolist()
        if len(ids) > 2:
            assert (score.logprobs != model.score(ids).logprobs).any()
            assert model.perplexity(ids, stride=64, edit=edits[0]).nll == pytest.approx(-score.total)
    ban = {"logits": lambda x: np.where(np.arange(x.shape[-1]) < 100, -np.inf, x)}
    score = model.score([500, 50, 501, 99], edit=ban)
    assert score.logprobs[0] == score.logprobs[2] == -np.inf and np.isfinite(score.logprobs[1])
    assert np.isfinite(score.entropies).all()
    assert score.ranks[0] == model.config.vocab_size - 100 + 50 and score.ranks[2] == model.config.vocab_size - 100 + 99


def test_a_chunk_without_likely_tokens() -> None:
    """All of its logits are -infinity, as an edit may leave them."""
    logits = np.random.default_rng(0).standard_normal((3, 2000), np.float32)
    logits[:, :1000] = -np.inf
    for target in (0, 900, 1200, 1999):
        logprobs, argmax, ranks, entropies, _ = _core.score_rows(logits, np.full(3, target, np.int32))
        expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
        np.testing.assert_allclose(logprobs, expected[:, target], atol=1e-6)
        assert argmax.tolist() == logits.argmax(-1).tolist()
        allowed = expected[:, 1000:]
        np.testing.assert_allclose(entropies, -(np.exp(allowed) * allowed).sum(-1), rtol=1e-5)
        assert ranks.tolist() == [
            int((row > row[target]).sum() + (row[:target] == row[target]).sum()) for row in logits
        ]
    with pytest.raises(ValueError, match="no token of 2000"):
        _core.score_rows(logits, np.array([0, 1, 2000], np.int32))
    with pytest.raises(ValueError, match=r"found \[3, 2000\] and \[1\], expected"):
        _core.score_rows(logits, np.array([0], np.int32))


def test_likely_tokens_have_precise_logprobs() -> None:
    """The rest of the distribution is not lost beside a token that has nearly all of it."""
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((64, 50304)).astype(np.float32)
    targets = rng.integers(0, 50304, 64).astype(np.int32)
    logits[np.arange(64), targets] = rng.uniform(14, 30, 64)
    expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()[np.arange(64), targets]
    assert expected.max() > -1e-8 and expected.min() < -1e-3
    logprobs = _core.score_rows(logits, targets)[0]
    np.testing.assert_allclose(logprobs, expected, rtol=2e-6)


def test_streams_do_not_end_with_an_edit(model: Model) -> None:
    few = iter([1.0, 1.0, 1.0])
    edit = {HOOK: lambda x: x * next(few)}
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(model.stream("It was", max_new_tokens=20, ignore_eos=True, edit=edit))


def test_bad_lists(model: Model) -> None:
    def refused(message: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            function(*arguments, **options)

    refused("edit is a list of 1, expected one for each of 2 texts", model.run, [[5], [6]], edit=[LOOK])
    refused("edit is a list, which goes with a list of texts", model.run, [5], edit=[LOOK])
    refused("edit is a list, which goes with a list of texts", model.session().run, [5], edit=[LOOK])
    refused("edit is a list, which goes with a list of texts", model.generate, "It", edit=[LOOK])
    refused("edit is a list, which goes with a list of texts", model.stream, "It", edit=[LOOK])
    refused("edit is a list, which goes with a list of texts", model.score, TEXTS, edit=[LOOK] * 4)
    refused("edit is a list of 3, expected one for each of 4 texts", model.generate, TEXTS, edit=[LOOK] * 3)
    refused("edit[1] is of type int", model.run, [[5], [6]], edit=[LOOK, 3])
    refused("edit[1]['hook_embed'] is of type int", model.run, [[5], [6]], edit=[LOOK, {"hook_embed": 3}])
    refused("is a list of functions, expected one", model.run, [5], edit={"hook_embed": [np.sin, np.cos]})
    refused("results have them as their .logits", model.run, [5], capture="logits")
    refused("seed is a list of 2, expected one for each of 4 prompts", model.generate, TEXTS, seed=[1, 2])
    refused("seed is a list, which goes with a list of prompts", model.generate, "It", seed=[1])
    refused("seed is a list, which goes with a list of prompts", model.stream, "It", seed=[1])
    refused("seed[1] is -1", model.generate, TEXTS[:2], seed=[1, -1], do_sample=True)
    with pytest.raises(ValueError, match="edit is a list of 1, and there are more prompts"):
        list(model.generate_each(TEXTS, edit=[LOOK]))
    with pytest.raises(ValueError, match="seed is a list of 1, and there are more prompts"):
        list(model.generate_each(TEXTS, seed=[1], do_sample=True))


def test_an_edited_model_in_evaluations(model: Model, tmp_path: Path) -> None:
    """A task under an ablation; caches know nothing of it."""
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import CachingLM

    from pythia_cpu.eval import HarnessModel

    def answers(harness_model: Any, kind: str, arguments: list[Any]) -> list[Any]:
        requests = [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]
        found: list[Any] = getattr(harness_model, kind)(requests, disable_tqdm=True)
        return found

    edit = {"blocks.1.hook_mlp_out": lambda x: x * 0.25}
    edited = HarnessModel(model, edit=edit)
    pairs = [("It was a dark", " night"), ("It was a dark", " and"), ("", "Once")]
    found = answers(edited, "loglikelihood", pairs)
    for (context, continuation), (total, is_greedy) in zip(pairs, found, strict=True):
        score = model.score(context, continuation, edit=edit)
        assert (total, is_greedy) == (score.total, bool(score.is_greedy.all()))
    assert found != answers(HarnessModel(model), "loglikelihood", pairs)
    texts = answers(edited, "generate_until", [("It was a dark", {"until": ["."], "max_gen_toks": 8})])
    assert texts == [model.generate("It was a dark", max_new_tokens=8, stop=".", edit=edit).text]
    with pytest.raises(ValueError, match="result_cache keeps results by model"):
        HarnessModel(model, edit=edit, result_cache=tmp_path / "results.db")
    with pytest.raises(ValueError, match="use_cache keeps results by model"):
        CachingLM(edited, str(tmp_path / "cache.db"))
