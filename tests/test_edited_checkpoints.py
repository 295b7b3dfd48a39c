"""Checkpoints with other values in their weights: models are those of checkpoints that were saved with these values."""

from __future__ import annotations

import copy
import errno
import pickle
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import pythia_cpu
from checkpoints import write_checkpoint
from pythia_cpu import Checkpoint, convert, load, open_checkpoint
from pythia_cpu._cli_convert import main

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = [5, 17, 300, 4000, 2]
DENSE = "gpt_neox.layers.{}.attention.dense.weight"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def two(make_checkpoint: Callable[..., Path]) -> Iterator[tuple[Checkpoint, Checkpoint]]:
    """Two open checkpoints of one shape."""
    with open_checkpoint(make_checkpoint(seed=1, **SMALL)) as a, open_checkpoint(make_checkpoint(seed=2, **SMALL)) as b:
        yield a, b


def halfway(a: Checkpoint, b: Checkpoint) -> Checkpoint:
    return a.edited(lambda name, values: 0.5 * values + 0.5 * b[name].astype(np.float32), note="halfway to b")


def test_the_bits_are_those_of_a_checkpoint_with_these_values(
    two: tuple[Checkpoint, Checkpoint], tmp_path: Path, temporary: Path
) -> None:
    a, b = two
    expected = {name: 0.5 * a[name].astype(np.float32) + 0.5 * b[name].astype(np.float32) for name in a}
    write_checkpoint(tmp_path / "saved", tensors=expected, **SMALL)
    for weights in ("f32", "q8"):
        edited, saved = load(halfway(a, b), weights=weights), load(tmp_path / "saved", weights=weights)
        np.testing.assert_array_equal(edited.logits(IDS), saved.logits(IDS))
        assert edited.provenance["tensors"] == saved.provenance["tensors"]
        assert edited.verify() and edited.key == saved.key
    assert list(temporary.iterdir()) == []
    edited, saved = tmp_path / "edited.pcpu", tmp_path / "saved.pcpu"
    report = convert(halfway(a, b), edited, weights="q8", fidelity=True, progress=False)
    other = convert(tmp_path / "saved", saved, weights="q8", fidelity=True, progress=False)
    assert report.fidelity == other.fidelity and report.edited == "halfway to b" and other.edited is None
    assert a["gpt_neox.embed_in.weight"].size  # the original is still open


def test_some_weights(two: tuple[Checkpoint, Checkpoint]) -> None:
    a, _ = two
    head = np.full(a["embed_out.weight"].shape, 0.25, np.float64)

    def without_first_column(values: np.ndarray) -> None:
        assert values.dtype == np.float32
        values[:, 0] = 0

    edited = a.edited({DENSE.format(0): without_first_column, "lm_head.weight": head, "layers.0.attention.bias": [1]})
    for name in a:
        if name == "embed_out.weight":
            assert edited[name].dtype == np.float32 and (edited[name] == 0.25).all()
        elif name == DENSE.format(0):
            assert (edited[name][:, 0] == 0).all() and a[name][:, 0].any()
            np.testing.assert_array_equal(edited[name][:, 1:], a[name][:, 1:])
        else:
            assert edited[name].dtype == a[name].dtype and edited.info(name) == a.info(name)
            np.testing.assert_array_equal(edited[name], a[name])
    assert edited.source.edited == f"{DENSE.format(0)}, embed_out.weight"
    edited[DENSE.format(0)][:] = 7  # an array of the caller's own
    assert not edited[DENSE.format(0)][:, 0].any()
    zeroed = edited.edited({"*.attention.dense.weight": np.zeros((32, 32))})
    assert not zeroed[DENSE.format(0)].any() and not zeroed[DENSE.format(1)].any() and zeroed["embed_out.weight"].all()
    assert zeroed.source.edited == f"{edited.source.edited}; {DENSE.format(0)}, {DENSE.format(1)}"
    assert repr(zeroed).startswith("<Checkpoint ") and zeroed.source.edited in repr(zeroed)


def test_values_that_half_precision_holds_stay_small(tmp_path: Path) -> None:
    for dtype, short in (("float16", "f16"), ("bfloat16", "bf16")):
        with open_checkpoint(write_checkpoint(tmp_path / dtype, dtype=dtype, **SMALL)) as checkpoint:
            doubled = load(checkpoint.edited(lambda name, values: values * 2))
            noisy = load(checkpoint.edited({DENSE.format(0): lambda values: values + np.float32(1e-7)}))
            np.testing.assert_array_equal(doubled.tensors["embed_out.weight"], checkpoint["embed_out.weight"] * 2)
        assert (doubled.provenance["weights"], noisy.provenance["weights"]) == (short, "f32")


def test_torch_trained_on(two: tuple[Checkpoint, Checkpoint]) -> None:
    torch = pytest.importorskip("torch")
    a, b = two
    state = {name: torch.tensor(b[name]) for name in b} | {
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9)
    }
    edited = a.edited(state)
    np.testing.assert_array_equal(load(edited).logits(IDS), load(b).logits(IDS))
    with pytest.raises(ValueError, match=r"edit\['embed_out.weight'\] is no array that numpy can read .*detach"):
        a.edited({"embed_out.weight": torch.nn.Parameter(state["embed_out.weight"])})


def test_an_open_checkpoint_is_that_of_its_folder(make_checkpoint: Callable[..., Path], temporary: Path) -> None:
    folder = make_checkpoint(**SMALL)
    with open_checkpoint(folder) as checkpoint:
        model = load(checkpoint, weights="q4", threads=1)
        assert model.threads == 1 and model.key == load(folder, weights="q4").key
    assert model.provenance["edited"] is None and not Path(model.path).exists() and not list(temporary.iterdir())
    np.testing.assert_array_equal(model.logits(IDS), load(folder, weights="q4").logits(IDS))
    for copied in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match=r"whose file is gone .* convert\(\) the checkpoint to a file"):
            copied(model)


def test_what_was_done_is_told(
    two: tuple[Checkpoint, Checkpoint],
    tmp_path: Path,
    binary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTHIA_CPU_CACHE", str(tmp_path / "cache"))
    a, b = two
    path = tmp_path / "halfway.pcpu"
    convert(halfway(a, b), path, progress=False)
    assert load(path).provenance["edited"] == "halfway to b"
    shown = subprocess.run([binary, "info", path], check=True, capture_output=True, text=True).stdout
    assert "\nedited              halfway to b\n" in shown
    assert main(["--duplicates", str(path), str(path)]) == 0
    other = tmp_path / "again.pcpu"
    other.write_bytes(path.read_bytes())
    assert main(["--duplicates", str(path), str(other)]) == 0
    assert f"{a.source.name} (edited: halfway to b)" in capsys.readouterr().out


def test_copies(two: tuple[Checkpoint, Checkpoint]) -> None:
    a, b = two
    edited = halfway(a, b)
    with edited:  # closes nothing
        pass
    others = (
        copy.copy(edited),
        copy.deepcopy(edited),
        pickle.loads(pickle.dumps(a.edited({"embed_out.weight": np.copy}))),
    )
    a.close()
    for other in others[:2]:
        assert other.source.edited == "halfway to b" and other["embed_out.weight"].any()
    assert others[2].source.edited == "embed_out.weight" and others[2]["embed_out.weight"].any()
    with pytest.raises(ValueError, match="is closed"):
        edited["embed_out.weight"]


def test_a_function_is_called_once_for_pieces_that_threads_read(two: tuple[Checkpoint, Checkpoint]) -> None:
    a, _ = two
    calls = []
    edited = a.edited(lambda name, values: calls.append(name) or values * 2)
    name = "gpt_neox.embed_in.weight"
    size, step = a.info(name).num_elements, 1000
    with ThreadPoolExecutor(8) as threads:
        pieces = list(
            threads.map(lambda begin: edited.read(name, begin, min(size, begin + step)), range(0, size, step))
        )
    assert b"".join(pieces) == (a[name].astype(np.float32) * 2).tobytes() and calls == [name]


def test_a_tokenizer_from_elsewhere(make_checkpoint: Callable[..., Path], mini_checkpoint: Path) -> None:
    with open_checkpoint(make_checkpoint(tokenizer=False, **SMALL)) as checkpoint:
        for source in (checkpoint, checkpoint.edited({"embed_out.weight": np.copy})):
            model = load(source, tokenizer=mini_checkpoint)
            assert model.tokenizer.encode("Once upon a time") == load().tokenizer.encode("Once upon a time")
            with pytest.raises(pythia_cpu.CheckpointError, match=r"tokenizer.json: is missing"):
                load(source)


def test_edits_are_those_of_the_moment(two: tuple[Checkpoint, Checkpoint], mini_checkpoint: Path) -> None:
    a, _ = two
    name = DENSE.format(0)
    array = np.full((32, 32), 0.25, np.float32)
    given = {name: array, "embed_out.weight": np.copy}
    edited = a.edited(given)
    array[:] = 7
    given.clear()
    models = load(edited), load(edited, tokenizer=mini_checkpoint), load(copy.copy(edited))
    for model in (*models, load(pickle.loads(pickle.dumps(edited)))):
        assert (model.tensors[name] == 0.25).all() and model.provenance["edited"] == f"{name}, embed_out.weight"
    assert (edited[name] == 0.25).all()
    assert (
        a.edited({}).source.edited is None and edited.edited({"layers.0.attention.bias": [1]}).source == edited.source
    )
    everything = a.edited(dict.fromkeys(a, np.copy))
    assert everything.source.edited == "all weights"


def test_state_dicts_of_tied_models(make_checkpoint: Callable[..., Path]) -> None:
    with open_checkpoint(make_checkpoint(tied=True, seed=3, **SMALL)) as tied:
        assert "embed_out.weight" not in tied
        embedding = tied["gpt_neox.embed_in.weight"] * 2
        state = {"gpt_neox.embed_in.weight": embedding, "lm_head.weight": embedding.copy()}
        edited = tied.edited(state)
        np.testing.assert_array_equal(load(edited).tensors["embed_out.weight"], embedding)
        assert edited.source.edited == "gpt_neox.embed_in.weight"
        for wrong in (
            {"lm_head.weight": embedding},
            {**state, "lm_head.weight": embedding + 1},
            {"lm_head.weight": np.copy},
        ):
            with pytest.raises(
                ValueError, match="has no head of its own, as with tied embeddings: leave 'lm_head.weight'"
            ):
                tied.edited(wrong)


def test_a_tied_head_that_is_stored(tmp_path: Path, make_checkpoint: Callable[..., Path]) -> None:
    with open_checkpoint(make_checkpoint(tied=True, seed=3, **SMALL)) as tied:
        tensors = {**tied, "embed_out.weight": tied["gpt_neox.embed_in.weight"]}
    with open_checkpoint(write_checkpoint(tmp_path / "both", tensors=tensors, tied=True, **SMALL)) as both:
        load(both.edited({"gpt_neox.embed_in.weight": np.copy}))  # the same values
        load(both.edited({"embed_out.*": lambda values: values * 2, "*.embed_in.weight": lambda values: values * 2}))
        with pytest.raises(pythia_cpu.CheckpointError, match="edit both alike, or set tie_word_embeddings to false"):
            load(both.edited({"gpt_neox.embed_in.weight": lambda values: values * 2}))
    tensors["embed_out.weight"] = tensors["embed_out.weight"].astype(np.int64)
    folder = write_checkpoint(tmp_path / "ints", tensors=tensors, tied=True, **SMALL)
    with pytest.raises(pythia_cpu.CheckpointError, match="says they are tied; set tie_word_embeddings to false"):
        load(folder)


def test_bfloat16_of_torch(two: tuple[Checkpoint, Checkpoint]) -> None:
    torch = pytest.importorskip("torch")
    a, _ = two
    name = DENSE.format(1)
    values = torch.tensor(a[name]).to(torch.bfloat16)
    for edit in ({name: values}, {name: lambda _: values}):
        np.testing.assert_array_equal(a.edited(edit)[name], values.float().numpy())


def test_patterns_of_names_that_the_file_has_not(two: tuple[Checkpoint, Checkpoint]) -> None:
    a, _ = two
    for pattern in ("layers.*.attention.dense.weight", "gpt_neox.layers.?.attention.dense.weight"):
        assert a.edited({pattern: np.copy}).source.edited == f"{DENSE.format(0)}, {DENSE.format(1)}"


def test_functions_may_read_what_they_edit_from_other_threads(two: tuple[Checkpoint, Checkpoint]) -> None:
    a, _ = two
    name, other = DENSE.format(0), DENSE.format(1)
    with ThreadPoolExecutor(1) as thread:
        edited = a.edited(
            {name: lambda values: thread.submit(lambda: edited[other]).result(), other: lambda values: values * 2}
        )
        np.testing.assert_array_equal(edited[name], a[other].astype(np.float32) * 2)


def test_few_weights_are_kept(two: tuple[Checkpoint, Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = two
    edited = a.edited(lambda name, values: values).edited(lambda name, values: values)
    monkeypatch.setattr(type(edited), "_MOST_KEPT_BYTES", 8192)
    for name in a:
        edited.read(name, 0, 1)
        kept = edited._kept  # type: ignore[attr-defined]
        assert name in kept and sum(array.nbytes for other, array in kept.items() if other != name) <= 8192
    assert not edited._original._kept  # type: ignore[attr-defined]
    load(edited)
    assert not edited._kept  # type: ignore[attr-defined]


def test_no_room_for_the_temporary_file(two: tuple[Checkpoint, Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr("pythia_cpu._load.convert_checkpoint", full)
    with pytest.raises(
        OSError, match=r"No space left on device; set TMPDIR to a folder with more room, or convert\(\)"
    ):
        load(two[0])


def test_other_ways_in(two: tuple[Checkpoint, Checkpoint]) -> None:
    edited = halfway(*two)
    model = pythia_cpu.hf.GPTNeoXForCausalLM.from_pretrained(edited, weights="q8")
    np.testing.assert_array_equal(model.model.logits(IDS), load(edited, weights="q8").logits(IDS))


def test_long_names(tmp_path: Path) -> None:
    with open_checkpoint(write_checkpoint(tmp_path / ("n" * 240), **SMALL)) as checkpoint:
        assert load(checkpoint).provenance["source"] == "n" * 240


def test_errors(two: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    a, _ = two
    for edit, problem in (
        ({"embed_in": np.copy}, r"edit: .* has no tensor 'embed_in'; near it: .*gpt_neox.embed_in.weight"),
        ({"*.nothing": np.copy}, r"has no tensor '\*.nothing'"),
        ({7: np.copy}, r"edit has 7 of type int, expected names of weights"),
        ({"embed_out.weight": "zero"}, r"edit\['embed_out.weight'\] is of type str, expected a function or an array"),
        ([np.copy], r"edit is of type list, expected functions by name"),
        (
            {"embed_out.weight": [[1.0]]},
            r"edit\['embed_out.weight'\] is an array of shape \[1, 1\], expected \[4096, 32\]",
        ),
    ):
        with pytest.raises(ValueError, match=problem):
            a.edited(edit)  # type: ignore[arg-type]
    for note, problem in (("", "note is '', expected a text that"), (5, "note is 5,"), ("\ud800", "a lone surrogate")):
        with pytest.raises(ValueError, match=problem):
            a.edited({}, note=note)  # type: ignore[arg-type]
    for function, problem in (
        (lambda values: values[:1], r"the edit of embed_out.weight returned shape \[1, 32\], expected \[4096, 32\]"),
        (lambda values: values * np.nan, "the edit of embed_out.weight gave values that are not finite"),
        (lambda values: "text", "what the edit of embed_out.weight returned is an array of <U4, expected real numbers"),
    ):
        with pytest.raises(ValueError, match=problem):
            load(a.edited({"embed_out.weight": function}))
    for options, problem in (
        ({"revision": 3000}, r"revision is 3000, but <Checkpoint .*> is open and has one revision: leave it out"),
        ({"cache_dir": tmp_path}, "an open checkpoint is not kept: leave it out"),
        ({"weights": "q5"}, "weights is 'q5'"),
    ):
        with pytest.raises(ValueError, match=problem):
            load(a, **options)
    with pytest.raises(ValueError, match="is a file of the checkpoint, which would be lost"):
        convert(a, a.folder / "model.safetensors")
    with pytest.raises(KeyError, match=r"has no tensor 'x'"):
        a.edited({})["x"]
