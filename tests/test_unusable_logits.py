"""A model whose activations are not finite: an error in every weight format; as a draft it proposes nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from checkpoints import neox_config, random_tensors, write_checkpoint
from pythia_cpu import _core
from pythia_cpu._cli_convert import main

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SAMPLING = [
    {},
    {"do_sample": True, "seed": 1},
    {"do_sample": True, "seed": 2, "typical_p": 0.9},
    {"repetition_penalty": 1.1},
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pythia_cpu.Model]:
    """broken(weights) -> a model whose embedding of the tokens from 100 on is NaN."""
    folder = tmp_path_factory.mktemp("broken")
    tensors = random_tensors(neox_config(**SMALL))
    tensors["gpt_neox.embed_in.weight"][100:] = np.nan
    checkpoint = write_checkpoint(folder / "checkpoint", tensors=tensors, **SMALL)

    def load(weights: str) -> pythia_cpu.Model:
        path = folder / f"{weights}.pcpu"
        if not path.exists():
            pythia_cpu.convert(checkpoint, path, weights=weights, progress=False)
        return pythia_cpu.load(path)

    return load


@pytest.mark.parametrize("weights", ["f32", "q8", "q4"])
@pytest.mark.parametrize("isa", _core.supported_isas())
def test_logits_are_nan(broken: Callable[[str], pythia_cpu.Model], weights: str, isa: str) -> None:
    core = _core.Model.open(broken(weights)._file.path, 1, isa)
    logits = core.forward([(_core.KvCache(core, 4), np.array([5, 6, 200, 7], np.int32), 4)])
    assert np.isfinite(logits[:2]).all()
    assert np.isnan(logits[2:]).all()


@pytest.mark.parametrize("weights", ["f32", "q8", "q4"])
@pytest.mark.parametrize("options", SAMPLING, ids=str)
def test_a_stream_that_failed_ends(
    broken: Callable[[str], pythia_cpu.Model], weights: str, options: dict[str, Any]
) -> None:
    """The second call would read the prompt again, behind itself."""
    stream = broken(weights).stream([5, 200], max_new_tokens=3, **options)
    with pytest.raises(ValueError, match="no usable logits"):
        next(stream)
    for _ in range(2):
        with pytest.raises(ValueError, match="an earlier step failed, and this generator cannot go on: make a new one"):
            next(stream)


@pytest.mark.parametrize("weights", ["f32", "q8"])
@pytest.mark.parametrize("options", SAMPLING, ids=str)
def test_a_broken_draft_changes_nothing(
    broken: Callable[[str], pythia_cpu.Model], shipped_model: Path, weights: str, options: dict[str, Any]
) -> None:
    model = pythia_cpu.load(shipped_model)
    prompts = ["Once upon a time", [5, 6], [0, 200]]
    options = {"max_new_tokens": 12, "ignore_eos": True, **options}
    assert model.generate(prompts, draft=broken(weights), **options) == model.generate(prompts, **options)


def test_beams_of_nan_end(broken: Callable[[str], pythia_cpu.Model]) -> None:
    """A beam whose token breaks the model is not gone on with; where all are such, that is an error."""
    model = broken("f32")
    allowed = {7, 8, 200}
    only = {id: -np.inf for id in range(model.tokenizer.vocab_size) if id not in allowed}
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 3, "ignore_eos": True, "logit_bias": only}
    for text in model.generate([5, 6], max_new_tokens=4, **options):
        assert 200 not in text.tokens[:-1] and set(text.tokens) <= allowed and len(text.tokens) == 4
    options["logit_bias"] = {**only, 7: -np.inf, 8: -np.inf}
    with pytest.raises(ValueError, match="no token has a score above -infinity"):
        model.generate([5, 6], max_new_tokens=4, **options)


def test_scores_are_nan_and_null_in_json(
    broken: Callable[[str], pythia_cpu.Model], binary: Path, tmp_path: Path
) -> None:
    model = broken("q8")
    score = model.score([5, 6, 200, 7, 8])
    assert np.isnan(score.logprobs).tolist() == np.isnan(score.entropies).tolist() == [False, False, True, True]
    assert score.ranks.min() == -1 and not score.is_greedy[2:].any()
    model.score_to_file([[5, 6, 200, 7, 8]], tmp_path / "scores.jsonl", stride=16)
    record = json.loads((tmp_path / "scores.jsonl").read_text(), parse_constant=pytest.fail)
    assert record["log_likelihood"] is None and record["logprobs"][2:] == record["entropies"][2:] == [None, None]
    text = model.tokenizer.decode([5, 6, 200, 7, 8])
    lines = subprocess.run(
        [binary, "score", "-m", model._file.path, "--jsonl", "-p", "-"],
        input=json.dumps({"text": text}),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    record = json.loads(lines, parse_constant=pytest.fail)
    assert (record["log_likelihood"], record["logprobs"][-1], record["ranks"][-1], record["is_greedy"][-1]) == (
        None,
        None,
        -1,
        False,
    )


@pytest.mark.parametrize("suppress_eos", [False, True])
def test_memorization_is_an_error(broken: Callable[[str], pythia_cpu.Model], suppress_eos: bool) -> None:
    with pytest.raises(ValueError, match="no usable logits"):
        broken("q8").memorization([[5, 6, 200, 7]], prefix_length=3, continuation_length=1, suppress_eos=suppress_eos)


def test_the_report_is_json(broken: Callable[[str], pythia_cpu.Model], tmp_path: Path) -> None:
    checkpoint = Path(broken("q8")._file.path).parent / "checkpoint"
    report = tmp_path / "report.json"
    assert main([str(checkpoint), "-o", str(tmp_path / "m.pcpu"), "--weights", "q8", "--report", str(report)]) == 0
    text = json.loads(report.read_text(), parse_constant=pytest.fail)["fidelity"]["texts"][0]
    assert text["mean_kl"] is text["max_kl"] is text["perplexity"] is text["max_logit_difference"] is None
    assert text["top1_agreement"] < 0.5
