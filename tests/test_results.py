"""Results in a notebook: short, equal where their numbers are, copied without sharing what they close."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import shutil
import subprocess
import sys
import sysconfig
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import pythia_cpu
from pythia_cpu._generation_arguments import GenerationArguments, TextOptions
from pythia_cpu._progress import ProgressBar

ROWS = [list(range(10, 40))]


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


def results(model: pythia_cpu.Model) -> dict[str, object]:
    return {
        "score": model.score("Once upon a time"),
        "divergence": model.divergence(model, "Once upon a time"),
        "memorization": model.memorization(ROWS, prefix_length=4, continuation_length=6),
        "run": model.run([5, 6], capture="*.hook_resid_post"),
        "generation": model.generate("Once", max_new_tokens=3, logprobs=2),
    }


def test_equal_where_their_numbers_are(model: pythia_cpu.Model) -> None:
    first, second = results(model), results(model)
    for name, one in first.items():
        assert one == second[name] and one == copy.deepcopy(one) and one == pickle.loads(pickle.dumps(one)), name
        assert hash(one) == hash(second[name])
        assert one != "another type"
    assert first["score"] != model.score("Once upon a day")
    assert first["run"] != model.run([5, 6], capture="*.hook_resid_pre")
    changed = copy.deepcopy(first["score"])
    changed.logprobs[1] = np.nan
    assert changed != first["score"] and changed == copy.deepcopy(changed)


def test_shown_in_a_line(model: pythia_cpu.Model) -> None:
    score = model.score("Once upon a time")
    n, total = len(score.tokens) - 1, score.total
    assert repr(score) == (
        f"Score(tokens={score.tokens}, logprobs=float32[{n}], is_greedy=bool[{n}], ranks=int32[{n}], "
        f"entropies=float32[{n}], varentropies=float32[{n}], greedy_tokens=int32[{n}], total={total:.6g})"
    )
    divergence = model.divergence(model, [1] * 500)
    assert repr(divergence) == (
        "Divergence(tokens=[1, 1, 1, 1, 1, 1, 1, 1, ... 500 in all], kl=float32[500], same_top=bool[500], mean_kl=0, "
        "top_agreement=1)"
    )
    long = model.generate("Once upon a time", max_new_tokens=400, logprobs=5)
    assert len(repr(long)) < 2000 and f"{len(long.tokens)} in all" in repr(long)
    stream = model.stream("Once", max_new_tokens=2)
    assert repr(stream) == "<TokenStream: not ended>"
    list(stream)
    assert repr(stream) == "<TokenStream: length>"


def test_arguments_are_shown_by_name(model: pythia_cpu.Model) -> None:
    names = {one.name for one in fields(GenerationArguments)}
    assert set(TextOptions.__annotations__) == names - {"num_return_sequences"}
    generate = inspect.signature(model.generate).parameters
    each, stream = (inspect.signature(method).parameters for method in (model.generate_each, model.stream))
    own = ["draft", "edit", "max_kv_bytes", "progress"]
    assert list(generate) == ["prompt", *(one.name for one in fields(GenerationArguments)), *own]
    assert set(each) == names | {"prompts", "draft", "edit", "max_kv_bytes"}
    assert set(stream) == names - {"num_beams", "num_return_sequences", "length_penalty", "early_stopping"} | {
        "prompt",
        "draft",
        "edit",
    }
    for name in names & set(stream):
        assert stream[name].default == each[name].default == generate[name].default


def test_copies_of_a_checkpoint_have_files_of_their_own(mini_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = pythia_cpu.open_checkpoint(mini_checkpoint)
    expected = checkpoint["embed_out.weight"].copy()
    sent = pickle.dumps(checkpoint)
    for make in (copy.deepcopy, lambda _: pickle.loads(sent)):
        other = make(checkpoint)
        np.testing.assert_array_equal(other["embed_out.weight"], expected)
        del other
        gc.collect()
        with (tmp_path / "mine.txt").open("w") as mine:  # gets the lowest free descriptor
            np.testing.assert_array_equal(checkpoint["embed_out.weight"], expected)
            mine.write("results")
    assert (tmp_path / "mine.txt").read_text() == "results"


def test_slips(model: pythia_cpu.Model, mini_checkpoint: Path) -> None:
    with pytest.raises(TypeError, match=r"made by model\.session\(\)"):
        pythia_cpu.Session(model)  # type: ignore[arg-type]
    with pytest.raises(pythia_cpu.CheckpointError, match=r"pass revision, such as revision='step1800'"):
        pythia_cpu.open_checkpoint(mini_checkpoint.parent)
    weights = mini_checkpoint / "model.safetensors"
    with pytest.raises(
        pythia_cpu.CheckpointError, match=r"one file of a checkpoint, expected its folder: pass .*step1800"
    ):
        pythia_cpu.load(weights)
    with pytest.raises(pythia_cpu.CheckpointError, match=r"no such: is not a folder.*; ~ is a shell's: did you mean /"):
        pythia_cpu.load("~/no such")
    with pytest.raises(ValueError, match=r"a member of paths is .* of type Model, expected a path"):
        pythia_cpu.find_duplicates([model])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"prompt\[1\] is of type NoneType, expected a str or a list of token ids"):
        model.generate(["Once", None])  # type: ignore[list-item]
    with pytest.raises(pythia_cpu.CheckpointError, match="is converted already, expected the checkpoint that it was"):
        pythia_cpu.convert(model.path, "out.pcpu")
    with pytest.raises(
        TypeError,
        match=r"^Model\.generate\(\) got an .* 'max_tokens'; perhaps max_new_tokens is meant; it has max_.*, progress$",
    ):
        model.generate("Once", max_tokens=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="a prefix cache cannot be pickled"), model.prefix_cache(1 << 20) as cache:
        pickle.dumps(cache)


def test_options_of_draws_without_draws(model: pythia_cpu.Model) -> None:
    for call in (model.generate, model.stream, lambda *a, **k: model.generate_each([*a], **k)):
        with pytest.warns(
            UserWarning, match="^temperature and top_k without do_sample=True: nothing is drawn$"
        ) as seen:
            call("Once", max_new_tokens=1, temperature=0.8, top_k=40, seed=1)
        assert [one.filename for one in seen] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate("Once", max_new_tokens=1, temperature=0, seed=3)
        model.generate("Once", max_new_tokens=1, temperature=0.8, do_sample=True)


def test_without_standard_streams(mini_checkpoint: Path, tmp_path: Path) -> None:
    """As daemons have none."""
    code = "import pythia_cpu as p, sys; assert sys.stderr is None; p.load().score(['a b', 'c d'])"
    assert subprocess.run(["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code], check=False).returncode == 0
    convert = shutil.which("pythia-convert", path=sysconfig.get_path("scripts"))
    output = tmp_path / "m.pcpu"
    command = ["sh", "-c", 'exec "$0" -q "$1" -o "$2" >&- 2>&-', convert, mini_checkpoint, output]
    assert subprocess.run(command, check=False).returncode == 0
    assert pythia_cpu.load(output).verify()


def test_submodules_are_found(model: pythia_cpu.Model) -> None:
    assert {"hf", "eval", "load"} <= set(dir(pythia_cpu))
    assert pythia_cpu.hf.__name__ == "pythia_cpu.hf"
    with pytest.raises(AttributeError, match="module 'pythia_cpu' has no attribute 'no_such'"):
        _ = pythia_cpu.no_such


def test_a_bar_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    class OutStream(io.StringIO):
        """Of ipykernel: no terminal."""

    for module, shown in (("ipykernel.iostream", True), ("elsewhere", False)):
        OutStream.__module__ = module
        monkeypatch.setattr(sys, "stderr", OutStream())
        monkeypatch.setattr("pythia_cpu._progress._DELAY_S", 0.0)
        with ProgressBar(3, what="reading", unit=" texts", enabled=True) as bar:
            bar.update(3)
        assert ("reading" in sys.stderr.getvalue()) == shown  # type: ignore[attr-defined]
