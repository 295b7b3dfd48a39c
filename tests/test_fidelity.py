"""What quantization cost, as the converter reports it, against the same numbers computed from the two files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import pythia_cpu
from checkpoints import MINI_PYTHIA, write_checkpoint
from pythia_cpu import _convert, _core, convert, open_checkpoint
from pythia_cpu._cli_convert import main
from pythia_cpu._fidelity import TensorError

TEXT = "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals. " * 40


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "night.txt"
    path.write_text(TEXT)
    return path


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def largest_scores(model: pythia_cpu.Model, windows: list[list[int]]) -> list[list[float]]:
    """For each layer and head, q . k / sqrt(head_dim) of largest magnitude over all pairs that are not masked."""
    layers = []
    for i in range(model.config.num_hidden_layers):
        found = []
        for window in windows:
            q, k = model.run(window, capture=f"blocks.{i}.attn.hook_rot_*").activations.values()
            scores = np.tril(np.einsum("qhd,khd->hqk", q, k)) / np.sqrt(q.shape[-1])
            scores = scores.reshape(len(scores), -1)
            found.append(np.take_along_axis(scores, np.abs(scores).argmax(1)[:, None], 1)[:, 0])
        largest = np.array(found)
        layers.append(np.take_along_axis(largest, np.abs(largest).argmax(0)[None], 0)[0].tolist())
    return [pytest.approx(heads, rel=1e-4) for heads in layers]


@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_the_numbers_are_those_of_the_two_models(tmp_path: Path, text_file: Path, weights: str) -> None:
    arguments = ["-q", "--weights", weights, "--report", str(tmp_path / "r.json"), "--report-text", str(text_file)]
    assert main([str(MINI_PYTHIA), "-o", str(tmp_path / "m.pcpu"), *arguments]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pcpu", "r.json"]
    fidelity = json.loads((tmp_path / "r.json").read_text())["fidelity"]
    assert (fidelity["lossless_weights"], fidelity["not_compared"]) == ("f16", None)
    assert [text["text"] for text in fidelity["texts"]] == ["bundled", "night.txt"]
    assert 1000 < fidelity["texts"][0]["num_tokens"] < 8000

    lossless, quantized = pythia_cpu.load(), pythia_cpu.load(tmp_path / "m.pcpu")
    tokens = lossless.tokenizer.encode(TEXT)
    windows = [tokens[i : i + 512] for i in range(0, len(tokens), 512)]
    assert len(windows) > 1
    before, after = (np.concatenate(model.logits(windows)) for model in (lossless, quantized))
    p, q = log_softmax(before), log_softmax(after)
    kl = (np.exp(p) * (p - q)).sum(-1)
    scored = [i for i in range(len(tokens) - 1) if (i + 1) % 512]
    following = [tokens[i + 1] for i in scored]
    perplexities = [np.exp(-x[scored, following].mean()) for x in (p, q)]
    expected = {
        "text": "night.txt",
        "num_tokens": len(tokens),
        "mean_kl": pytest.approx(kl.mean(), rel=1e-6),
        "max_kl": pytest.approx(kl.max(), rel=1e-6),
        "lossless_perplexity": pytest.approx(perplexities[0], rel=1e-7),
        "perplexity": pytest.approx(perplexities[1], rel=1e-7),
        "perplexity_change": pytest.approx(perplexities[1] / perplexities[0] - 1, abs=1e-7),
        "top1_agreement": (before.argmax(-1) == after.argmax(-1)).mean(),
        "max_logit_difference": float(np.abs(before - after).max()),
        "lossless_attention_scores": largest_scores(lossless, windows),
        "attention_scores": largest_scores(quantized, windows),
    }
    assert fidelity["texts"][1] == expected
    assert 0 < kl.mean() < {"q8": 5e-4, "q4": 0.02}[weights]

    file = _core.PcpuFile.open(str(tmp_path / "m.pcpu"))
    panels = {t["name"] for t in file.tensors if t["layout"] == "panels"}
    assert set(fidelity["relative_errors"]) == panels
    with open_checkpoint(MINI_PYTHIA) as checkpoint:
        for name in panels:
            original = checkpoint[name].astype(np.float64)
            error = np.linalg.norm(file.read(name) - original) / np.linalg.norm(original)
            assert fidelity["relative_errors"][name] == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 0.0])
def test_the_error_of_a_tensor_in_pieces(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    monkeypatch.setattr("pythia_cpu._fidelity._ELEMENTS", 100)
    pieces = np.random.default_rng(0).standard_normal((3, 4, 64)).astype(np.float32) * np.float32(scale)
    error, stored = TensorError(), []
    for piece in pieces:
        packed = _core.pack_matrix(piece.tobytes(), "f32", 4, 64, "q8")
        stored.append(_core.unpack_matrix(packed, "q8", 4, 64))
        error.measure(piece.tobytes(), "f32", packed, "q8", 4, 64)
    difference = np.linalg.norm(np.stack(stored).astype(float) - pieces)
    expected = difference / np.linalg.norm(pieces.astype(float)) if scale else 0.0
    assert error.relative_error == pytest.approx(expected, rel=1e-12)
    assert (error.relative_error > 0) == (scale > 0)


def test_large_models_have_tensors_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _convert.MAX_LOSSLESS_BYTES == 4 * 2**30
    folder = write_checkpoint(tmp_path / "c", hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    with open_checkpoint(folder) as checkpoint:
        size_bytes = sum(checkpoint.info(name).size_bytes for name in checkpoint)
    monkeypatch.setattr(_convert, "MAX_LOSSLESS_BYTES", size_bytes)
    report = convert(folder, tmp_path / "m.pcpu", weights="q8", fidelity=True, progress=False)
    assert report.fidelity is not None and report.fidelity.not_compared is None
    monkeypatch.setattr(_convert, "MAX_LOSSLESS_BYTES", size_bytes - 1)
    assert main([str(folder), "-o", str(tmp_path / "m.pcpu"), "--weights", "q8", "--report", f"{tmp_path}/r"]) == 0
    fidelity = json.loads((tmp_path / "r").read_text())["fidelity"]
    assert (fidelity["lossless_weights"], fidelity["texts"]) == (None, [])
    assert f"take {size_bytes} bytes, more than {size_bytes - 1}:" in fidelity["not_compared"]
    assert 0 < min(fidelity["relative_errors"].values()) < 0.01
    assert "predictions not compared" in capsys.readouterr().out


def test_a_tokenizer_of_other_ids(tmp_path: Path) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
    checkpoint = write_checkpoint(tmp_path / "c", **small)
    report = pythia_cpu.convert(checkpoint, tmp_path / "m.pcpu", weights="q8", fidelity=True, progress=False)
    assert report.fidelity is not None and report.fidelity.texts == []
    assert "the tokenizer makes ids up to" in str(report.fidelity.not_compared)
    assert "of bundled, and the model has 300: tensors only" in str(report.fidelity.not_compared)


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(MINI_PYTHIA), "-o", str(tmp_path / "m.pcpu"), "--weights", "q4", "--report", f"{tmp_path}/r"]) == 0
    table = capsys.readouterr().out
    for label in (
        "mean KL",
        "max KL",
        "perplexity",
        "top-1 agreement",
        "logit diff",
        "bundled",
        "largest relative",
        "layer 5",
    ):
        assert label in table


def test_nothing_is_measured_unasked_or_without_loss(tmp_path: Path) -> None:
    assert convert(MINI_PYTHIA, tmp_path / "m.pcpu", weights="q8", progress=False).fidelity is None
    assert convert(MINI_PYTHIA, tmp_path / "m.pcpu", weights="f16", progress=False, fidelity=True).fidelity is None


def test_a_text_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "latin.txt"
    text.write_bytes(b"caf\xe9")
    arguments = [str(MINI_PYTHIA), "-o", str(tmp_path / "m.pcpu"), "--weights", "q8"]
    assert main([*arguments, "--report-text", str(text)]) == 1
    assert "latin.txt is not UTF-8 (byte 3)" in capsys.readouterr().err
    (tmp_path / "nothing.txt").write_text("")
    assert main([*arguments, "--report-text", str(tmp_path / "nothing.txt")]) == 1
    assert "nothing.txt is empty, expected a text" in capsys.readouterr().err
    assert main([*arguments, "--report-text", str(tmp_path / "missing.txt")]) == 1
    assert "missing.txt" in capsys.readouterr().err
    (tmp_path / "bundled").write_text(TEXT)
    assert main([*arguments, "--report-text", str(tmp_path / "bundled")]) == 1
    assert "bundled has the name that the bundled text goes by" in capsys.readouterr().err
    assert not (tmp_path / "m.pcpu").exists()


def test_a_perplexity_above_all_floats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(MINI_PYTHIA, tmp_path / "c")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["embed_out.weight"] = tensors["embed_out.weight"].astype(np.float32) * 1000
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    report = tmp_path / "r.json"
    assert main([str(folder), "-o", str(tmp_path / "m.pcpu"), "--weights", "q8", "--report", str(report)]) == 0
    text = json.loads(report.read_text())["fidelity"]["texts"][0]
    assert text["lossless_perplexity"] is text["perplexity"] is text["perplexity_change"] is None
    assert text["mean_kl"] > 0
    assert re.search(r"perplexity +-\n", capsys.readouterr().out)
