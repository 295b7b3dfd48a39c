"""The promise of docs/numerics.md: a sequence's logits have the same bits however they are computed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pythia_cpu
from bits import assert_same_bits
from pythia_cpu import _core

NUM_TOKENS = 300  # more than a chunk of attention (256 keys)
WEIGHTS = list(_core.WEIGHT_FORMATS)
ISAS = _core.supported_isas()

# Two models that share no code path where there are two: parallel and sequential, even sizes and tails everywhere.
MODELS = {
    "parallel": {"hidden_size": 160, "num_attention_heads": 2, "num_hidden_layers": 2, "vocab_size": 4099},
    "sequential": {
        "hidden_size": 72,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
        "rotary_pct": 0.75,
        "parallel": False,
        "tied": True,
        "intermediate_size": 100,
        "hidden_act": "gelu_new",
    },
}


class Case:
    """A model, a sequence, and the logits of its plainest run: one thread, portable kernels, one call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = self.open(threads=2)
        rng = np.random.default_rng(0)
        self.tokens = rng.integers(0, self.model.file.config["vocab_size"], NUM_TOKENS).astype(np.int32)
        self.expected = run(self.open(threads=1, isa="portable"), self.tokens)

    def open(self, *, threads: int, isa: str = "") -> _core.Model:
        return _core.Model.open(str(self.path), threads, isa)


def run(model: _core.Model, tokens: np.ndarray, splits: Sequence[int] = ()) -> np.ndarray:
    """Logits of all tokens, given to the model in calls that end at `splits`."""
    cache = _core.KvCache(model)
    ends = [*sorted(set(splits) - {0, len(tokens)}), len(tokens)]
    parts = [tokens[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    return np.concatenate([model.forward([(cache, part, len(part))]) for part in parts])


@pytest.fixture(scope="module", params=[(name, weights) for name in MODELS for weights in WEIGHTS], ids="-".join)
def case(
    request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> Case:
    name, weights = request.param
    dtype = {"f32": "float32", "bf16": "bfloat16"}.get(weights, "float16")
    return Case(make_model_file(make_checkpoint(**MODELS[name], dtype=dtype), weights))


# Of the portable kernels, which are slow, one thread is what the others are compared with.
@pytest.mark.parametrize(
    ("isa", "threads"), [*((isa, threads) for isa in ISAS[:-1] for threads in (1, 2, 3, 4)), ("portable", 3)]
)
def test_threads_and_instruction_sets(case: Case, isa: str, threads: int) -> None:
    model = case.open(threads=threads, isa=isa)
    assert (model.threads, model.isa) == (threads, isa)
    assert_same_bits(run(model, case.tokens), case.expected)


def test_threads_set_between_calls(case: Case) -> None:
    model = case.open(threads=1)
    cache = _core.KvCache(model)
    for begin in range(0, 100, 20):
        model.threads = begin // 20 + 1
        part = case.tokens[begin : begin + 20]
        assert_same_bits(model.forward([(cache, part, 20)]), case.expected[begin : begin + 20])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(splits=st.lists(st.integers(1, NUM_TOKENS - 1), max_size=8))
def test_any_split_into_calls(case: Case, splits: list[int]) -> None:
    assert_same_bits(run(case.model, case.tokens, splits), case.expected)


@pytest.mark.parametrize("isa", ISAS)
def test_one_token_at_a_time(case: Case, isa: str) -> None:
    model = case.open(threads=2, isa=isa)
    assert_same_bits(run(model, case.tokens[:20], range(20)), case.expected[:20])
    # Across the border of an attention chunk.
    cache = _core.KvCache(model)
    model.forward([(cache, case.tokens[:250], 0)])
    for i in range(250, 262):
        assert_same_bits(model.forward([(cache, case.tokens[i : i + 1], 1)]), case.expected[i : i + 1])


# Many rows take a task's outputs in several parts (task_buffers.h), the last of them with less than a panel.
@pytest.mark.parametrize("weights", ["f32", "q8"])
def test_tasks_in_parts(
    weights: str, make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> None:
    shape = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 2000}
    case = Case(make_model_file(make_checkpoint(**shape, vocab_size=700), weights))
    for threads in (1, 3):
        model = case.open(threads=threads)
        for splits in ((264,), (40, 80, 120, 160, 200, 240)):
            assert_same_bits(run(model, case.tokens, splits), case.expected)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_company_in_a_call(case: Case, data: st.DataObject) -> None:
    """Sequences of any lengths and order, each with something in its cache, each asking for some of its logits."""
    cuts = st.tuples(st.integers(0, NUM_TOKENS - 40), st.integers(1, 40), st.integers(0, 40))
    sequences = data.draw(st.lists(cuts, min_size=2, max_size=6))
    model, slices, expected = case.model, [], []
    for cached, new, num_logits in sequences:
        cache = _core.KvCache(model)
        if cached:
            model.forward([(cache, case.tokens[:cached], 0)])
        num_logits = min(num_logits, new)
        slices.append((cache, case.tokens[cached : cached + new], num_logits))
        expected.append(case.expected[cached + new - num_logits : cached + new])
    assert_same_bits(model.forward(slices), np.concatenate(expected))


def test_different_sequences_in_a_call(case: Case) -> None:
    model = case.model
    rng = np.random.default_rng(1)
    sequences = [rng.permutation(case.tokens)[:length] for length in (1, 7, 64, NUM_TOKENS, 2)]
    alone = np.concatenate([run(model, tokens) for tokens in sequences])
    together = model.forward([(_core.KvCache(model), tokens, len(tokens)) for tokens in sequences])
    assert_same_bits(together, alone)


def test_truncated_and_copied_caches(case: Case) -> None:
    """What was in a cache before does not matter."""
    model, tokens = case.model, case.tokens
    cache = _core.KvCache(model)
    model.forward([(cache, tokens[::-1].copy(), 1)])
    cache.truncate(0)
    model.forward([(cache, tokens[:290], 1)])
    cache.truncate(260)
    copy = model.fork(cache)
    for each in (cache, copy):
        assert each.length == 260
        assert_same_bits(model.forward([(each, tokens[260:300], 40)]), case.expected[260:300])


def test_calls_from_several_python_threads(case: Case) -> None:
    with ThreadPoolExecutor(4) as pool:
        for logits in pool.map(lambda splits: run(case.model, case.tokens, splits), [(), (5,), (100, 101), (290,)]):
            assert_same_bits(logits, case.expected)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_values_in_other_formats(
    name: str, make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> None:
    tokens = np.arange(1, 300, dtype=np.int32)
    for dtype, weights in [("float16", "f16"), ("bfloat16", "bf16")]:
        checkpoint = make_checkpoint(**MODELS[name], dtype=dtype)
        narrow, wide = make_model_file(checkpoint, weights), make_model_file(checkpoint, "f32")
        assert narrow.stat().st_size < wide.stat().st_size
        narrow_model, wide_model = (_core.Model.open(str(path), 2) for path in (narrow, wide))
        assert_same_bits(run(narrow_model, tokens), run(wide_model, tokens))


def test_python_module_gives_these_logits(case: Case) -> None:
    model = pythia_cpu.load(case.path)
    assert_same_bits(model.logits(case.tokens), case.expected)
    for logits, length in zip(model.logits([case.tokens[:9], case.tokens[:280]]), (9, 280), strict=True):
        assert_same_bits(logits, case.expected[:length])


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_set_forced_by_the_environment(isa: str) -> None:
    """In a process of its own: the shipped model's isa, a hash of its logits and a text sampled from it."""
    script = (
        "import hashlib, pythia_cpu; model = pythia_cpu.load();"
        "print(model.isa, hashlib.sha256(model.logits(list(range(300))).tobytes()).hexdigest());"
        "print(model.generate('It was', max_new_tokens=40, do_sample=True, seed=5).tokens)"
    )

    def output(name: str) -> list[str]:
        environment = {**os.environ, "PYTHIA_CPU_ISA": name}
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    forced, portable = output(isa), output("portable")
    assert forced[0] == isa
    assert forced[1:] == portable[1:]


def test_unknown_instruction_set_is_an_error(shipped_model: Path) -> None:
    with pytest.raises(ValueError, match=r'"sse9".*unknown.*this machine runs:.*portable'):
        _core.Model.open(str(shipped_model), 1, "sse9")
