"""What the harness's model makes of its arguments, and what it tells the harness."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
os.environ["HF_DATASETS_OFFLINE"] = "1"

from lm_eval.api.instance import Instance

import pythia_cpu
from pythia_cpu.eval import HarnessModel, ResultCache, _harness_model
from pythia_cpu.eval._generation import GenerationRequest

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


def run(model: HarnessModel, kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    requests = [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]  # type: ignore[arg-type]
    results: list[Any] = getattr(model, kind)(requests, disable_tqdm=True)
    return results


def test_load_gets_its_arguments(model: pythia_cpu.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[Any, ...]] = []
    monkeypatch.setattr(pythia_cpu, "load", lambda *args, **options: loaded.append((args, options)) or model)
    HarnessModel("pythia-14m", revision=3000, weights="q8", threads=3, cache_dir="kept")
    HarnessModel("pythia-14m", dtype="bfloat16")
    nothing = {"revision": None, "threads": None, "cache_dir": None}
    assert loaded == [
        (("pythia-14m",), {"revision": 3000, "weights": "q8", "threads": 3, "cache_dir": "kept"}),
        (("pythia-14m",), {**nothing, "weights": "bf16"}),
    ]
    with pytest.raises(ValueError, match="pretrained is missing"):
        HarnessModel("")  # as of model_args="pretrained="


@pytest.mark.parametrize(
    ("bos", "eos", "arguments", "prefix", "end", "first"),
    [
        (3, 4, {}, 3, 4, []),
        (None, 4, {}, 4, 4, []),
        (3, None, {}, 3, 3, []),
        (3, 4, {"prefix_token_id": 0}, 0, 4, []),
        (None, None, {"prefix_token_id": 49}, 49, 49, []),
        (3, 4, {"add_bos_token": True}, 3, 4, [3]),
        (3, 4, {"add_bos_token": True, "prefix_token_id": 0}, 0, 4, [3]),
        (None, None, {}, None, None, "neither bos_token_id nor eos_token_id: pass prefix_token_id"),
        (None, 4, {"add_bos_token": True}, None, None, "add_bos_token is True, but the checkpoint has no bos_token_id"),
        (3, 4, {"prefix_token_id": 50}, None, None, "prefix_token_id is 50, expected 0 to 49"),
    ],
)
def test_special_tokens(
    make_checkpoint: Callable[..., Path],
    make_model_file: Callable[..., Path],
    bos: int | None,
    eos: int | None,
    arguments: dict[str, Any],
    prefix: int,
    end: int,
    first: Any,
) -> None:
    updates = {"bos_token_id": bos, "eos_token_id": eos}
    model = pythia_cpu.load(make_model_file(make_checkpoint(config_updates=updates, **SMALL)))
    if isinstance(first, str):
        with pytest.raises(ValueError, match=first):
            HarnessModel(model, **arguments)
        return
    ours = HarnessModel(model, **arguments)
    assert (ours.prefix_token_id, ours.eot_token_id) == (prefix, end)
    ids = model.tokenizer.encode("1, 2")
    assert ours.tok_encode("1, 2") == first + ids
    assert ours.tok_encode("1, 2", add_special_tokens=False) == ids
    assert ours.tok_encode("1, 2", left_truncate_len=2) == ids[-2:]
    begun = model.tokenizer.decode([prefix], skip_special_tokens=False) + "1"
    assert ours.tok_encode(begun) == model.tokenizer.encode(begun)
    assert ours.tok_encode(begun, add_special_tokens=True) == first + model.tokenizer.encode(begun)
    empty, full = ours._loglikelihood_tokens([(None, [], [5, 6]), (None, [prefix], [5, 6])], disable_tqdm=True)
    assert empty == full


def test_contexts_that_are_cut_are_told(model: pythia_cpu.Model, caplog: pytest.LogCaptureFixture) -> None:
    ours = HarnessModel(model, max_length=8)
    with caplog.at_level(logging.WARNING):
        ours._loglikelihood_tokens([(None, [5] * 4, [6] * 5), (None, [5], [6])], disable_tqdm=True)
        assert not caplog.messages
        ours._loglikelihood_tokens([(None, [5] * 5, [6] * 5), (None, [5], [6])], disable_tqdm=True)
    assert caplog.messages == ["1 of 2 contexts are cut from the left to fit the window"]


def test_the_shortest_window(model: pythia_cpu.Model) -> None:
    ours = HarnessModel(model, max_length=1, max_gen_toks=0)
    logprobs = model.score([5, 6, 7]).logprobs
    assert ours._loglikelihood_tokens([(None, [4, 5], [6])], disable_tqdm=True)[0][0] == logprobs[0]
    assert run(ours, "generate_until", [("Once", {})]) == [""]
    with pytest.raises(ValueError, match="asks for 1 new tokens, the window holds 1"):
        run(ours, "generate_until", [("Once", {"max_gen_toks": 1})])


def test_no_room_for_a_new_token(model: pythia_cpu.Model) -> None:
    ours, ids = HarnessModel(model), model.tokenizer.encode("It was")
    assert run(ours, "generate_until", [("It was", {"max_length": len(ids) + 1})]) != [""]
    with pytest.raises(ValueError, match="max_length is 2, but a context has 2 tokens: set max_gen_toks"):
        run(ours, "generate_until", [("It was", {"max_length": len(ids)})])
    with pytest.raises(ValueError, match="max_length is 'x'"):
        run(ours, "generate_until", [("It was", {"max_length": "x"})])


def test_add_bos_token(model: pythia_cpu.Model) -> None:
    bos = model.config.bos_token_id
    for value, first in ((1, [bos]), (True, [bos]), (0, []), (False, [])):
        assert HarnessModel(model, add_bos_token=value).tok_encode("It") == first + model.tokenizer.encode("It")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="add_bos_token is 'no' of type str, expected True or False"):
        HarnessModel(model, add_bos_token="no")  # type: ignore[arg-type]


def test_the_harness_gets_each_result(model: pythia_cpu.Model) -> None:
    """For its own cache, which keeps what an interrupted evaluation had come to."""
    told: list[tuple[Any, ...]] = []

    class Hook:
        dbdict = None

        def add_partial(self, *result: Any) -> None:
            told.append(result)

    ours = HarnessModel(model)
    ours.set_cache_hook(Hook())
    for kind, requests in (
        ("loglikelihood", [("Once upon", " a time"), ("", "It")]),
        ("loglikelihood_rolling", [("Once upon a time",), ("",)]),
        ("generate_until", [("Once", {"max_gen_toks": 3}), ("It was", {"max_gen_toks": 2, "until": ["."]})]),
    ):
        results = run(ours, kind, requests)  # type: ignore[arg-type]
        expected = [(kind, *pair) for pair in zip(requests, results, strict=True)]
        assert sorted(told, key=repr) == sorted(expected, key=repr)
        told.clear()
    ours._loglikelihood_tokens([(None, [5], [6])], disable_tqdm=True)  # a request without texts
    assert told == []


def test_texts_are_those_of_the_model(model: pythia_cpu.Model) -> None:
    drawn = {"do_sample": True, "temperature": 0.8}
    for ours, seed in ((HarnessModel(model), 1234), (HarnessModel(model, seed=5), 5)):
        expected = [model.generate("It was", max_new_tokens=6, top_k=50, seed=seed + i, **drawn).text for i in (0, 1)]
        assert run(ours, "generate_until", [("It was", {"max_gen_toks": 6, **drawn})] * 2) == expected
    ours = HarnessModel(model, prefix_token_id=7)
    assert run(ours, "generate_until", [("", {"max_gen_toks": 6})]) == [model.generate([7], max_new_tokens=6).text]
    with pytest.raises(ValueError, match="temperature is 0"):
        run(ours, "generate_until", [("Once", {"do_sample": True})])
    options = {"do_sample": True, "top_k": 3, "top_p": 0.5}
    backwards = dict(reversed(options.items()))  # as another process may have them
    assert GenerationRequest([5], options, []).key == GenerationRequest([5], backwards, []).key


def test_facts_for_the_harness(model: pythia_cpu.Model) -> None:
    ours = HarnessModel(model)
    assert ours.tokenizer_name == str(model.provenance["source"]).replace("/", "__")
    assert ours.get_model_info()["model_weights"] == "f16"
    with pytest.raises(ValueError, match="apply_chat_template is set, but pythia-cpu has no chat templates"):
        ours.apply_chat_template([{"role": "user", "content": "Once"}])


def test_results_are_saved_as_time_goes_by(
    model: pythia_cpu.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation may be killed, not only interrupted."""
    monkeypatch.setattr(_harness_model, "model_key", lambda _: "key")
    windows = [[([5] * n + [6], n)] for n in range(1, 9)]
    for period_s, kept in ((0.0, 7), (1e9, 0)):
        monkeypatch.setattr(_harness_model, "_SAVE_PERIOD_S", period_s)
        path = tmp_path / f"{kept}.db"
        ours, reader, found = HarnessModel(model, result_cache=path), ResultCache(path, "key"), []

        def on_result(*_: Any, reader: ResultCache = reader, found: list[int] = found) -> None:
            found.append(sum(reader.get("loglikelihood", one) is not None for one in windows))

        ours._score("loglikelihood", windows, False, on_result)
        assert found[-1] == kept
        assert all(reader.get("loglikelihood", one) for one in windows)
    monkeypatch.setattr(_harness_model, "_SAVE_PERIOD_S", 0.0)
    HarnessModel(model)._score("loglikelihood", windows, False, lambda *_: None)  # and nowhere without a file
    reader.put("loglikelihood", "last", 1)
    reader.close()
    assert ResultCache(path, "key").get("loglikelihood", "last") == 1


def test_interrupted_texts_are_kept(
    model: pythia_cpu.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = [(f"Once upon {n}", {"max_gen_toks": 2}) for n in range(5)]
    expected = run(HarnessModel(model), "generate_until", requests)
    assert capsys.readouterr() == ("", "")  # no bar where none is asked for
    sizes: list[int] = []
    generate = pythia_cpu.Model.generate

    def interrupted(self: pythia_cpu.Model, prompts: Any, **options: Any) -> Any:
        sizes.append(len(prompts))
        if len(sizes) == 3:
            raise KeyboardInterrupt
        return generate(self, prompts, **options)

    monkeypatch.setattr(pythia_cpu.Model, "generate", interrupted)
    monkeypatch.setattr(_harness_model, "_TEXTS_PER_SAVE", 2)
    with pytest.raises(KeyboardInterrupt):
        run(HarnessModel(model, result_cache=tmp_path / "r.db"), "generate_until", requests)
    assert run(HarnessModel(model, result_cache=tmp_path / "r.db"), "generate_until", requests) == expected
    assert sizes == [2, 2, 1, 1]


def test_a_file_that_is_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    path.write_text("not a database, " * 100)
    with pytest.raises(ValueError, match=r"results.db cannot be used as a cache"):
        ResultCache(path, "key")
    with pytest.raises(ValueError, match="the cache of results is True of type bool, expected a path"):
        ResultCache(True, "key")  # type: ignore[arg-type]  # as of use_cache: true


def test_a_file_of_another_program(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE results (a, b)")
    with sqlite3.connect(tmp_path / "text.db") as database:
        database.execute("CREATE TABLE results (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        cache = ResultCache(tmp_path / "text.db", "key")
        database.execute("INSERT INTO results VALUES (?, 'no JSON')", (cache._key("loglikelihood", 1),))
    for one in (ResultCache(tmp_path / "other.db", "key"), cache):
        with pytest.raises(ValueError, match=r"\.db cannot be used as a cache of results"):
            one.get("loglikelihood", 1)
