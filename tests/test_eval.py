"""pythia_cpu.eval: the numbers and texts of lm-evaluation-harness's own HFLM on the same checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM

import pythia_cpu
import pythia_cpu.eval
from offline_tasks import CHOICE, ROLLING, WRITING, write_task
from pythia_cpu import _scoring_model
from pythia_cpu.eval import HarnessModel, ResultCache, _result_cache

pytestmark = pytest.mark.usefixtures("own_datasets_cache")

TOLERANCE = 1e-3  # of a request's log-likelihood, in nats
STORY = (
    "It was a dark and stormy night, and the old man who sat by the fire said to his daughter that he would not go. "
)
WINDOW = 64  # tokens; a short one, so that much is over-long


@pytest.fixture(scope="module")
def hflm(mini_checkpoint: Path) -> Callable[..., Any]:
    """hflm(**arguments) -> the harness's own model of the checkpoint.

    Without its cache of logits: that mixes up requests whose tokens are equal but for the last, and whose contexts end
    in different places (it gathers a short continuation's log-probabilities at a long one's beginning).
    """
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(2)
    made: dict[str, Any] = {}

    def make(**arguments: Any) -> Any:
        if (key := repr(arguments)) not in made:
            options = {"device": "cpu", "dtype": "float32", "batch_size": 1, "logits_cache": False, **arguments}
            made[key] = HFLM(pretrained=str(mini_checkpoint), **options)
        return made[key]

    return make


@pytest.fixture(scope="module")
def model(mini_checkpoint: Path, make_model_file: Callable[..., Path]) -> pythia_cpu.Model:
    return pythia_cpu.load(make_model_file(mini_checkpoint, "f32"), threads=2)


def instances(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


def run(model: Any, kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    results: list[Any] = getattr(model, kind)(instances(kind, arguments), disable_tqdm=True)
    return results


def assert_same_likelihoods(actual: list[Any], expected: list[Any]) -> None:
    assert len(actual) == len(expected)
    for (total, greedy), (expected_total, expected_greedy) in zip(actual, expected, strict=True):
        assert isinstance(total, float) and isinstance(greedy, bool)
        assert total == pytest.approx(expected_total, abs=TOLERANCE)
        assert greedy == expected_greedy


def likelihood_requests(model: pythia_cpu.Model) -> list[tuple[str, str]]:
    greedy = model.generate(STORY.rstrip(), max_new_tokens=12, ignore_eos=True).text
    return [
        ("It was a dark", " and stormy night"),
        ("It was a dark ", "and stormy night"),  # white space moves
        ("It was a dark \n\t ", "and"),
        ("", "Once upon a time"),
        ("", " "),
        ("", "<|endoftext|>Once upon"),  # begins with the prefix token
        ("<|endoftext|>Once upon", " a time"),
        ("Once upon a time", " there"),  # choices of one token
        ("Once upon a time", " was"),
        ("Once upon a time", " in"),
        ("Once upon a time", " there"),
        (STORY.rstrip(), greedy),
        (STORY * 4, " The end."),  # over-long where the window is short
        (STORY * 9 + "He said", " that he would not go."),
        ("A", STORY * 2),
        ("naïve “quotes” — 日本", "語\n\n"),
    ]


@pytest.mark.parametrize("max_length", [None, WINDOW])
def test_loglikelihood(model: pythia_cpu.Model, hflm: Callable[..., Any], max_length: int | None) -> None:
    requests = likelihood_requests(model)
    actual = run(HarnessModel(model, max_length=max_length), "loglikelihood", requests)
    assert_same_likelihoods(actual, run(hflm(max_length=max_length), "loglikelihood", requests))
    assert any(greedy for _, greedy in actual) and not all(greedy for _, greedy in actual)


def test_loglikelihood_of_hundreds_of_tokens(model: pythia_cpu.Model, hflm: Callable[..., Any]) -> None:
    requests = [(STORY, STORY * 40), ("", STORY * 30), (STORY * 90, STORY * 20)]
    assert_same_likelihoods(
        run(HarnessModel(model), "loglikelihood", requests), run(hflm(max_length=None), "loglikelihood", requests)
    )


def test_continuations_that_fill_the_window(model: pythia_cpu.Model, hflm: Callable[..., Any]) -> None:
    ours, theirs = HarnessModel(model, max_length=WINDOW), hflm(max_length=WINDOW)
    ids = model.tokenizer.encode(STORY * 4)
    for context, continuation in [(1, WINDOW), (WINDOW, 1), (3, WINDOW), (WINDOW, WINDOW), (1, WINDOW - 1)]:
        requests = [(None, ids[:context], ids[context : context + continuation])]
        assert_same_likelihoods(
            ours._loglikelihood_tokens(requests, disable_tqdm=True),
            theirs._loglikelihood_tokens(requests, disable_tqdm=True),
        )
    with pytest.raises(ValueError, match=f"{WINDOW + 1} tokens, the window holds {WINDOW}"):
        ours._loglikelihood_tokens([(None, [0], ids[: WINDOW + 1])])
    with pytest.raises(ValueError, match="no tokens"):
        run(ours, "loglikelihood", [("Once", "")])


@pytest.mark.parametrize(
    "arguments",
    [{"prefix_token_id": 7}, {"add_bos_token": True}, {"prefix_token_id": 7, "add_bos_token": True}],
    ids=str,
)
def test_prefix_tokens(model: pythia_cpu.Model, hflm: Callable[..., Any], arguments: dict[str, Any]) -> None:
    ours, theirs = HarnessModel(model, **arguments), hflm(max_length=None, **arguments)
    requests = likelihood_requests(model)[:11]
    assert_same_likelihoods(run(ours, "loglikelihood", requests), run(theirs, "loglikelihood", requests))
    texts = [(STORY,), ("<|endoftext|>Once",)]
    assert run(ours, "loglikelihood_rolling", texts) == pytest.approx(
        run(theirs, "loglikelihood_rolling", texts), abs=TOLERANCE
    )
    contexts = [("Once upon", {"max_gen_toks": 9}), ("<|endoftext|>It was", {"max_gen_toks": 9})]
    assert run(ours, "generate_until", contexts) == run(theirs, "generate_until", contexts)


@pytest.mark.parametrize("max_length", [None, WINDOW])
def test_rolling(model: pythia_cpu.Model, hflm: Callable[..., Any], max_length: int | None) -> None:
    texts = [("",), ("Once",), (STORY,), (STORY * 3,), ("<|endoftext|>" + STORY,), ("\n \n",)]
    if max_length is None:
        texts += [(STORY * 90,)]
    actual = run(HarnessModel(model, max_length=max_length), "loglikelihood_rolling", texts)
    expected = run(hflm(max_length=max_length), "loglikelihood_rolling", texts)
    for one, other, (text,) in zip(actual, expected, texts, strict=True):
        assert one == pytest.approx(other, abs=TOLERANCE * max(1, len(text) / 2000))  # float32 sums of thousands


GENERATION = [
    ("Once upon a time", {"until": ["\n\n"], "max_gen_toks": 40}),
    ("Once upon a time", {"until": ["\n\n"], "max_gen_toks": 40}),
    ("It was", {"until": [".", ","]}),
    ("The old man", {"until": "the", "max_gen_toks": 20, "do_sample": False, "temperature": 0.7}),
    ("The old man", {"max_gen_toks": 6, "until": ["great", "a great"]}),
    ("He said", {"until": ["said he", "said"], "max_new_tokens": 50}),
    ("He said", {"until": [], "temperature": 0, "max_tokens": 9}),
    ("“I do not", {"until": [" know", "o"], "max_gen_toks": 30}),
    (STORY * 9, {"until": ["\n"], "max_gen_toks": 16}),
    ("Once upon", {"until": ["zzz"], "max_length": 20}),
    ("The", {"until": ["\n"], "max_gen_toks": 24, "repetition_penalty": 1.3}),
    ("It was", {"until": ["zzz", ""], "max_gen_toks": 9}),
    ("It was", {"until": ""}),
]


@pytest.mark.parametrize("max_length", [None, 300])
def test_generate_until(model: pythia_cpu.Model, hflm: Callable[..., Any], max_length: int | None) -> None:
    actual = run(HarnessModel(model, max_length=max_length), "generate_until", GENERATION)
    assert actual == run(hflm(max_length=max_length), "generate_until", GENERATION)
    assert len(set(actual)) > 5


def test_sampled_texts(model: pythia_cpu.Model) -> None:
    arguments = ("Once upon a time", {"until": ["zzz"], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0})
    first = run(HarnessModel(model), "generate_until", [arguments] * 4)
    assert len(set(first)) == 4
    assert (
        run(HarnessModel(model), "generate_until", [("It was", {"max_gen_toks": 3}), *[arguments] * 2])[1:] == first[:2]
    )
    assert set(run(HarnessModel(model, seed=5), "generate_until", [arguments] * 4)).isdisjoint(first)
    # transformers keeps the 50 most likely tokens unless told otherwise.
    top_k = ("Once upon a time", {**arguments[1], "top_k": 50})
    assert run(HarnessModel(model), "generate_until", [top_k] * 4) == first
    greedy = ("Once upon a time", {**arguments[1], "top_k": 1})
    assert (
        run(HarnessModel(model), "generate_until", [greedy])[0]
        == model.generate("Once upon a time", max_new_tokens=12).text
    )


@pytest.mark.parametrize(
    ("dtype", "weights"), [("float", "f16"), ("float32", "f16"), ("auto", "f16"), ("half", "f16"), ("bfloat16", "bf16")]
)
def test_dtype(mini_checkpoint: Path, tmp_path: Path, dtype: str, weights: str) -> None:
    ours = HarnessModel(str(mini_checkpoint), dtype=dtype, cache_dir=tmp_path)  # the checkpoint holds float16
    assert ours.model.provenance["weights"] == weights


def test_arguments_of_hflm(model: pythia_cpu.Model) -> None:
    import torch

    without_effect = {"parallelize": False, "trust_remote_code": True, "logits_cache": True, "device": "cpu"}
    without_effect |= {"load_in_8bit": False, "peft": None, "backend": "causal", "truncation": False}
    HarnessModel(model, dtype=torch.float32, **without_effect)
    for arguments, message in [
        ({"peft": "adapter"}, "model_args: peft='adapter' is not supported"),
        ({"load_in_8bit": True}, "load_in_8bit is True, but pythia_cpu supports only False"),
        ({"tokenizer": "gpt2"}, "tokenizer is 'gpt2'"),
        ({"dtype": "float64"}, "dtype is 'float64', expected float32, float16, bfloat16 or auto"),
        ({"dtype": "float16", "weights": "q8"}, "dtype is 'float16' and weights is 'q8': give one"),
        ({"dtype": torch.float16}, "weights is 'f16', but the model holds 'f32' weights"),
        ({"revision": "step3"}, "revision is 'step3', but the model is loaded already"),
    ]:
        with pytest.raises(ValueError, match=message):
            HarnessModel(model, **arguments)


def test_bad_arguments(model: pythia_cpu.Model) -> None:
    with pytest.raises(ValueError, match="pretrained is missing: .*mini-pythia.pcpu"):
        HarnessModel(weights="q8")
    with pytest.raises(ValueError, match="max_length is 4096"):
        HarnessModel(model, max_length=4096)
    for options, message in [
        ({"max_gen_toks": 2048}, "2048 new tokens, the window holds 2048"),
        ({"guidance_scale": 2}, "hold guidance_scale"),
        ({"num_beams": 3}, "num_beams"),
        ({"until": None}, r"until is \[None, .*expected a str or a list of str"),
        ({"do_sample": True, "temperature": 0.0}, "temperature"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(HarnessModel(model), "generate_until", [("Once", options)])


class TestResultCache:
    REQUESTS = (("Once upon", " a time"), ("Once upon", " the"), ("", "It was"))

    @pytest.fixture
    def no_model(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """Makes every use of the model an error."""

        def refuse(_: Any, requests: Any, **__: Any) -> Iterator[Any]:
            assert not requests, "the model was used"
            return iter(())

        def apply() -> None:
            monkeypatch.setattr(_scoring_model, "run_requests", refuse)
            monkeypatch.setattr(pythia_cpu.Model, "generate", refuse)

        return apply

    def test_results_are_kept(self, model: pythia_cpu.Model, tmp_path: Path, no_model: Callable[[], None]) -> None:
        path = tmp_path / "folder" / "results.db"
        texts, prompts = [(STORY,), ("",)], GENERATION[:3]

        def all_results() -> list[Any]:
            ours = HarnessModel(model, result_cache=path)
            return [
                run(ours, kind, requests)
                for kind, requests in (
                    ("loglikelihood", self.REQUESTS),
                    ("loglikelihood_rolling", texts),
                    ("generate_until", prompts),
                )
            ]

        expected = all_results()
        no_model()
        assert all_results() == expected

    def test_other_weights_are_another_model(
        self, model: pythia_cpu.Model, tmp_path: Path, mini_checkpoint: Path, make_model_file: Callable[..., Path]
    ) -> None:
        path = tmp_path / "results.db"
        quantized = pythia_cpu.load(make_model_file(mini_checkpoint, "q4"))
        alone = run(HarnessModel(quantized), "loglikelihood", self.REQUESTS)
        kept = run(HarnessModel(model, result_cache=path), "loglikelihood", self.REQUESTS)
        assert run(HarnessModel(quantized, result_cache=path), "loglikelihood", self.REQUESTS) == alone != kept
        assert run(HarnessModel(model, result_cache=path, max_length=2), "loglikelihood", self.REQUESTS) != kept

    def test_an_interrupted_run_goes_on(
        self, model: pythia_cpu.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "results.db"
        requests = [(STORY, STORY * n) for n in range(1, 9)]
        expected = run(HarnessModel(model), "loglikelihood", requests)
        sizes = []
        run_all = _scoring_model.run_requests

        def interrupted(core: Any, windows: Any, **options: Any) -> Iterator[Any]:
            sizes.append(len(windows))
            for count, result in enumerate(run_all(core, windows, **options)):
                if count == 3 and len(sizes) == 1:
                    raise KeyboardInterrupt
                yield result

        monkeypatch.setattr(_scoring_model, "run_requests", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(HarnessModel(model, result_cache=path), "loglikelihood", requests)
        assert run(HarnessModel(model, result_cache=path), "loglikelihood", requests) == expected
        assert sizes == [8, 5]

    def test_several_processes_write_one_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_result_cache, "_LOCK_TIMEOUT_S", 0.0)
        first, second = (ResultCache(tmp_path / "results.db", "key") for _ in range(2))
        first.put("loglikelihood", 1, -1.5)  # and the first goes on to compute
        second.put("loglikelihood", 2, -2.5)
        second.commit()
        first.commit()
        assert [second.get("loglikelihood", number) for number in (1, 2)] == [-1.5, -2.5]
        second._database.execute("BEGIN EXCLUSIVE")
        first.put("loglikelihood", 3, -3.5)
        with pytest.raises(OSError, match=r"results\.db: the cache of results cannot be written \(database is locked"):
            first.commit()
        second._database.rollback()
        first.commit()
        assert second.get("loglikelihood", 3) == -3.5

    def test_the_own_cache_of_the_harness_serves_one_model(
        self,
        model: pythia_cpu.Model,
        tmp_path: Path,
        no_model: Callable[[], None],
        mini_checkpoint: Path,
        make_model_file: Callable[..., Path],
    ) -> None:
        path = str(tmp_path / "results.db")
        requests = instances("loglikelihood", self.REQUESTS)
        kept = CachingLM(HarnessModel(model), path).loglikelihood(requests)
        no_model()
        assert CachingLM(HarnessModel(model), path).loglikelihood(requests) == kept
        quantized = pythia_cpu.load(make_model_file(mini_checkpoint, "q4"))
        options = ({"max_length": 32}, {"max_gen_toks": 9}, {"prefix_token_id": 7}, {"add_bos_token": True})
        for other in (HarnessModel(quantized), *(HarnessModel(model, **one) for one in options)):
            with pytest.raises(ValueError, match=r"use_cache: .*results\.db has results of another model"):
                CachingLM(other, path)


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory: pytest.TempPathFactory, model: pythia_cpu.Model) -> Path:
    """Three tasks over local JSON lines, whose right answers are partly the model's own."""
    folder = tmp_path_factory.mktemp("tasks")
    questions = ["Once upon a time", "It was a dark", "He said that", "The old man", "She looked at", "“I do not"]
    rows = []
    for i, question in enumerate(questions):
        own = model.generate(question, max_new_tokens=12, stop=["\n", "."]).text
        rows.append({"question": question, "choices": [" the sea", own or " a", " green ideas"], "answer": i % 2})
    data = {
        "offline_choice": (CHOICE, rows),
        "offline_rolling": (ROLLING, [{"text": STORY * n} for n in (1, 3)]),
        "offline_writing": (WRITING, rows),
    }
    for name, (body, documents) in data.items():
        write_task(folder, name, body, documents)
    return folder


TASKS = ["offline_choice", "offline_rolling", "offline_writing"]


def metrics(results: Any) -> dict[str, float]:
    return {
        f"{task}/{name}": value
        for task, values in results["results"].items()
        for name, value in values.items()
        if isinstance(value, float) and "stderr" not in name
    }


def test_simple_evaluate(hflm: Callable[..., Any], task_folder: Path, mini_checkpoint: Path, tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    options: dict[str, Any] = {"tasks": TASKS, "bootstrap_iters": 0, "log_samples": True}
    manager = TaskManager(include_path=str(task_folder))
    expected = lm_eval.simple_evaluate(model=hflm(max_length=None), task_manager=manager, **options)
    arguments = f"pretrained={mini_checkpoint},weights=f32,threads=2,cache_dir={tmp_path}"
    actual = lm_eval.simple_evaluate(model="pythia-cpu", model_args=arguments, task_manager=manager, **options)
    figures = metrics(actual)
    assert len(figures) == 6
    assert figures == pytest.approx(metrics(expected), rel=1e-5)
    assert 0 < figures["offline_choice/acc,none"] < 1 and 0 < figures["offline_writing/exact_match,none"] < 1
    assert actual["config"]["model_weights"] == "f32"
