"""What the core refuses of itself, whoever calls it; nothing has changed then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pythia_cpu import _core

CONTEXT, VOCAB = 2048, 4096


def ids(*tokens: int) -> Any:
    return np.array(tokens, np.int32)


@pytest.fixture(scope="module")
def core(shipped_model: Path, make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]) -> Any:
    """The shipped model, one of another shape, and caches: empty, with room for four, full but for one position."""
    model = _core.Model.open(str(shipped_model), 1)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    other = _core.Model.open(str(make_model_file(make_checkpoint(**shape))), 1)
    full = _core.KvCache(model)
    model.forward([(full, np.zeros(CONTEXT - 1, np.int32), 0)])
    return SimpleNamespace(
        model=model, other=other, cache=_core.KvCache(model), four=_core.KvCache(model, 4), full=full
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.model.forward([(c.cache, ids(), 0)]), "a sequence has no tokens"),
        (lambda c: c.model.forward([(c.cache, ids(1, 2), 3)]), r"logits of 3 tokens asked for, expected 0\.\.2"),
        (lambda c: c.model.forward([(c.cache, ids(1, 2), -1)]), "logits of -1 tokens"),
        (lambda c: c.model.forward([(c.cache, ids(1, -1), 0)]), r"token 1 is -1, expected an id in 0\.\.4095"),
        (lambda c: c.model.forward([(c.cache, ids(VOCAB), 0)]), "token 0 is 4096"),
        (lambda c: c.model.forward([(c.four, ids(1, 2, 3, 4, 5), 0)]), "5 tokens do not fit the cache's capacity of 4"),
        (
            lambda c: c.model.forward([(c.full, ids(1, 2), 0)]),
            r"2047 \+ 2 tokens do not fit the model's context",
        ),
        (lambda c: c.other.forward([(c.cache, ids(1), 0)]), "a cache was made for a model of another shape"),
        (
            lambda c: c.model.forward([(c.four, ids(1), 1), (c.cache, ids(1), 1), (c.four, ids(2), 1)]),
            "two sequences share one cache",
        ),
        (lambda c: c.model.score([(c.cache, ids(1), ids(VOCAB))]), "target 0 is 4096"),
        (lambda c: _core.KvCache(c.model, 0), r"capacity is 0 positions, expected 1\.\.2048"),
        (lambda c: _core.KvCache(c.model, CONTEXT + 1), "capacity is 2049"),
        (lambda c: c.full.truncate(CONTEXT), r"cannot truncate to 2048 positions, expected 0\.\.2047"),
        (lambda c: c.full.truncate(-1), "cannot truncate to -1"),
        (lambda c: _core.Model.open(c.model.file.path, -1), "threads is -1"),
        (lambda c: _core.Scorer(c.model, [([1], 1), ([], 1)]), "sequence 1 has no tokens"),
        (lambda c: _core.Scorer(c.model, [([1] * (CONTEXT + 2), 1)]), "has 2050 tokens, expected at most 2049"),
        (lambda c: _core.Scorer(c.model, [([1, 2], 0)]), "to be scored from token 0, expected 1 or more"),
        (lambda c: _core.Scorer(c.model, [([1, VOCAB], 1)]), r"holds token id 4096, expected 0\.\.4095"),
        (lambda c: _core.Scorer(c.model, [([1, -1], 1)]), "holds token id -1"),
        (lambda c: _core.Scorer(c.model, [], rows_per_pass=0), "rows_per_pass is 0, expected 1 or more"),
        (lambda c: _core.rolling_windows([1], 0, 0), "context_length is 0"),
        (lambda c: _core.strided_windows([1], 1, 1), "context_length is 1"),
        (lambda c: _core.strided_windows([1], 8, 0), "stride is 0"),
        (lambda c: _core.strided_windows([1], 8, 9), r"stride is 9, expected 1\.\.8"),
        (lambda c: _core.Generator(_core.GenerationEngine(c.model), max_active=0), "max_active is 0"),
        (lambda c: _core.Generator(_core.GenerationEngine(c.model), max_kv_bytes=-1), "max_kv_bytes is -1"),
    ],
)
def test_refused(core: Any, call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(core)
    assert (core.cache.length, core.four.length, core.full.length) == (0, 0, CONTEXT - 1)


def test_memory_for_scoring(core: Any) -> None:
    """Caches that have no room wait; one always runs."""
    requests = [([i] * 10, 1) for i in range(6)]
    position_bytes = 2 * 4 * core.model.file.config["num_hidden_layers"] * core.model.file.config["hidden_size"]
    for positions, at_once in ((0, 1), (2 * 9, 2), (3 * 9 - 1, 2), (6 * 9, 6)):
        scorer = _core.Scorer(core.model, requests, cache_bytes=positions * position_bytes)
        ended = []
        while not scorer.done:
            ended.append(len(scorer.step()))
        assert ended == [at_once] * (6 // at_once)


def test_a_prefix_cache_of_another_shape(core: Any) -> None:
    cache = _core.PrefixCache(core.other, 1 << 20)
    with pytest.raises(ValueError, match="the prefix cache was made for a model of another shape or weight format"):
        _core.Generator(_core.GenerationEngine(core.model), prefix_cache=cache)
    _core.Generator(_core.GenerationEngine(core.other), prefix_cache=cache)


def test_bytes_of_a_cache_for_each_position(
    core: Any, make_checkpoint: Callable[..., Path], make_model_file: Any
) -> None:
    """float32 in lanes of sixteen; int16 with two scales for q8 and q4."""
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    checkpoint = make_checkpoint(**shape)
    sizes = [_core.Model.open(str(make_model_file(checkpoint, w)), 1).kv_bytes_per_position for w in ("f32", "q8")]
    assert sizes == [3 * 2 * 4 * (8 + 16), 3 * 2 * (2 * (8 + 16) + 2 * 4)]
