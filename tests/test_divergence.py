"""KL divergences of logits and of models, against float64."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pythia_cpu
from checkpoints import MINI_PYTHIA
from pythia_cpu import _core, kl_divergence

ISAS = _core.supported_isas()


def exact(p_logits: np.ndarray, q_logits: np.ndarray) -> np.ndarray:
    """Sum of P log(P / Q) + Q - P, which loses nothing where P and Q are nearly equal."""
    p, q = (x.astype(np.float64) for x in (p_logits, q_logits))
    p, q = (x - x.max(-1, keepdims=True) for x in (p, q))
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    d = log_p - log_q
    return (np.exp(log_p) * (d + np.expm1(-d))).sum(-1)


def logits(rows: int, vocab_size: int, spread: float) -> np.ndarray:
    return (np.random.default_rng(vocab_size).standard_normal((rows, vocab_size)) * spread).astype(np.float32)


@pytest.mark.parametrize("vocab_size", [1, 15, 17, 767, 768, 5003, 50304])
@pytest.mark.parametrize("change", [1e-4, 1e-2, 0.3, 3.0, 30.0])
def test_logits_against_float64(vocab_size: int, change: float) -> None:
    p = logits(5, vocab_size, 4.0)
    q = p + np.random.default_rng(1).standard_normal(p.shape).astype(np.float32) * np.float32(change)
    q += np.float32(7 if change > 0.1 else 0)  # changes nothing but the logits' own rounding
    found, expected = kl_divergence(p, q), exact(p, q)
    assert found.dtype == np.float32 and (found >= 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4 if change < 1e-3 else 4e-6, atol=1e-13)
    np.testing.assert_array_equal(kl_divergence(p, p), np.zeros(5, np.float32))


@pytest.mark.parametrize("isa", ISAS)
def test_the_kernel_has_the_same_bits(isa: str) -> None:
    portable, kernels = _core.Kernels("portable"), _core.Kernels(isa)
    for n in [*range(1, 40), 767, 768]:
        p, q = logits(2, n, 3.0)
        q[n // 2 :] = p[n // 2 :] + np.float32(1e-3)
        p[n // 3] = q[n // 4] = -np.inf
        for totals in ((5.0, 1e-7, 4.5, -1e-7, 0.5), (90.0, 1e-6, -80.0, 0.0, 170.0)):
            found, expected = (table.divergence(p, q, totals) for table in (kernels, portable))
            assert np.float32(found).tobytes() == np.float32(expected).tobytes()


def test_log_sum_exps() -> None:
    for vocab_size in (1, 16, 768, 769, 50304):
        x = logits(4, vocab_size, 20.0) + np.float32(300)
        shifted = x.astype(np.float64) - 300
        np.testing.assert_allclose(_core.log_sum_exps(x), 300 + np.log(np.exp(shifted).sum(-1)), rtol=1e-9)
    rows = np.zeros((5, 1000), np.float32)
    rows[1, 900], rows[2, 3], rows[3], rows[4, 1:] = np.nan, np.inf, -np.inf, -np.inf
    found = _core.log_sum_exps(rows, threads=2)
    np.testing.assert_array_equal(found[1:], [np.nan, np.nan, -np.inf, 0.0])
    with pytest.raises(ValueError, match="log_sum_exps"):
        _core.log_sum_exps(rows[0])


def test_logits_that_are_no_numbers() -> None:
    p = logits(1, 2000, 2.0)[0]
    for place, bad in ((0, np.nan), (1999, np.nan), (1000, np.inf)):
        q = p.copy()
        q[place] = bad
        assert np.isnan(kl_divergence(p, q)) and np.isnan(kl_divergence(q, p))
    never = p.copy()
    never[1500] = -np.inf
    assert kl_divergence(p, never) == np.inf
    assert kl_divergence(never, p) == pytest.approx(-np.log1p(-np.exp(p[1500] - np.log(np.exp(p).sum()))), rel=1e-4)
    assert kl_divergence(never, never) == 0
    assert np.isnan(kl_divergence(np.full(3, -np.inf), np.zeros(3)))


def test_arrays() -> None:
    p, q = logits(12, 40, 1.0), logits(12, 41, 1.0)[:, :40]
    flat = kl_divergence(p, q)
    assert kl_divergence(p.reshape(3, 4, 40), q.reshape(3, 4, 40).astype(np.float64)).tolist() == (
        flat.reshape(3, 4).tolist()
    )
    assert kl_divergence(p[0].tolist(), q[0].tolist()).shape == ()
    assert kl_divergence(p[:0], q[:0]).shape == (0,)
    for arguments, message in (
        ((p, q[:3]), r"other has shape \[3, 40\] and logits \[12, 40\], expected the same"),
        ((p, ["text"]), "other is an array of <U4, expected real numbers"),
        ((np.float32(1), p), r"logits has shape \[\], expected \[..., vocab_size\]"),
        ((p[:, :0], q[:, :0]), r"logits has shape \[12, 0\], expected"),
    ):
        with pytest.raises(ValueError, match=message):
            kl_divergence(*arguments)


@pytest.fixture(scope="module")
def models() -> tuple[pythia_cpu.Model, pythia_cpu.Model]:
    return pythia_cpu.load(MINI_PYTHIA, weights="f32"), pythia_cpu.load(MINI_PYTHIA, weights="q4")


def test_models(models: tuple[pythia_cpu.Model, pythia_cpu.Model]) -> None:
    model, other = models
    text = "Once upon a time there was a little girl who lived in a village. " * 60
    ids = model.tokenizer.encode(text)
    assert len(ids) > 700
    found = model.divergence(other, text)
    assert found.tokens == ids
    ours, theirs = model.logits(ids), other.logits(ids)
    np.testing.assert_array_equal(found.kl, kl_divergence(ours, theirs))
    np.testing.assert_allclose(found.kl, exact(ours, theirs), rtol=1e-5)
    np.testing.assert_array_equal(found.same_top, ours.argmax(-1) == theirs.argmax(-1))
    assert found.mean_kl == pytest.approx(found.kl.astype(np.float64).mean(), rel=1e-12)
    assert 0 < found.top_agreement == found.same_top.mean() < 1
    assert model.divergence(model, ids).kl.max() == 0
    assert model.divergence(other, np.zeros((0, 5), int)) == []

    together = model.divergence(other, [text, ids[:1], ids[:40], "a", np.array(ids[:600])])
    for one, of in zip(together, [text, ids[:1], ids[:40], "a", ids[:600]], strict=True):
        alone = model.divergence(other, of)
        assert one.tokens == alone.tokens
        assert (one.kl.tobytes(), one.same_top.tobytes()) == (alone.kl.tobytes(), alone.same_top.tobytes())
    model.threads = 1 + model.threads % 2
    np.testing.assert_array_equal(model.divergence(other, text).kl, found.kl)


def test_windows(models: tuple[pythia_cpu.Model, pythia_cpu.Model]) -> None:
    model, other = models
    ids = np.random.default_rng(0).integers(0, 4096, 2 * model.context_length + 5).tolist()
    for length in (None, 300):
        found = model.divergence(other, [ids, ids[:10]], context_length=length)
        step = length or model.context_length
        parts = [model.divergence(other, ids[i : i + step]).kl for i in range(0, len(ids), step)]
        np.testing.assert_array_equal(found[0].kl, np.concatenate(parts))
        assert found[0].tokens == ids and len(found[1].kl) == 10


def test_a_context_shorter_than_the_models(
    models: tuple[pythia_cpu.Model, pythia_cpu.Model],
    make_checkpoint: Callable[..., Path],
    make_model_file: Callable[..., Path],
) -> None:
    """Either model's: windows are of what both hold."""
    model, _ = models
    shape = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "max_position_embeddings": 12}
    short = pythia_cpu.load(make_model_file(make_checkpoint(**shape)))
    ids = np.random.default_rng(0).integers(0, 4096, 30).tolist()
    for one, other in ((model, short), (short, model)):
        found = one.divergence(other, ids)
        expected = [kl_divergence(one.logits(ids[i : i + 12]), other.logits(ids[i : i + 12])) for i in (0, 12, 24)]
        np.testing.assert_array_equal(found.kl, np.concatenate(expected))
        assert found == one.divergence(other, ids, context_length=12)
        with pytest.raises(ValueError, match="context_length is 13, expected 1 to 12"):
            one.divergence(other, ids, context_length=13)


def test_other_tokenizers(models: tuple[pythia_cpu.Model, pythia_cpu.Model], tmp_path: Path) -> None:
    """Of one vocabulary: only texts that both read alike, and token ids, can be compared."""
    model, _ = models
    folder = shutil.copytree(MINI_PYTHIA, tmp_path / "c")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop(0)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    other = pythia_cpu.load(folder, cache_dir=tmp_path, progress=False)
    text = "Once upon a time there was"
    ids = model.tokenizer.encode(text)
    assert other.tokenizer.encode(text) != ids and other.tokenizer.encode("x") == model.tokenizer.encode("x")
    for given, name in ((text, "text"), (["x", text], r"text\[1\]")):
        with pytest.raises(ValueError, match=f"{name} has other token ids with the other model's tokenizer"):
            model.divergence(other, given)
    assert len(model.divergence(other, ids).kl) == len(ids) and len(model.divergence(other, "x").kl) == 1


def test_what_cannot_be_compared(
    models: tuple[pythia_cpu.Model, pythia_cpu.Model],
    make_checkpoint: Callable[..., Path],
    make_model_file: Callable[..., Path],
) -> None:
    model, other = models
    small = make_checkpoint(hidden_size=32, num_attention_heads=2, num_hidden_layers=1, vocab_size=50)
    cases = (
        (
            (pythia_cpu.load(make_model_file(small)), [1]),
            {},
            "other has a vocabulary of 50 tokens and this model one of",
        ),
        (("a model", [1]), {}, "other is of type str, expected a Model"),
        ((other, []), {}, "text has no tokens"),
        ((other, [[1], []]), {}, r"text\[1\] has no tokens"),
        ((other, [10**6]), {}, "token id 1000000"),
        ((other, [1]), {"context_length": 0}, "context_length is 0, expected 1 to"),
    )
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            model.divergence(*arguments, **options)
