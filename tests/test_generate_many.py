"""Many prompts: shared beginnings, kept keys and values, memory limits, results as they come. No bit changes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from checkpoints import MINI_PYTHIA, neox_config, random_tensors
from frames import Table
from pythia_cpu import _core

STORY = "Once upon a time there was an old man who lived in a house by the sea, and every morning he went"
ENDINGS = [" out", " to the window", " down to the boats, and looked", "", " out to the"]
SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.9, "top_k": 50, "seed": 5}


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


@pytest.fixture(scope="module")
def prompts(model: pythia_cpu.Model) -> list[list[int]]:
    story = model.tokenizer.encode(STORY)
    assert len(story) > 20
    return [story + model.tokenizer.encode(ending) for ending in ENDINGS]


@pytest.mark.parametrize("options", [{}, {**SAMPLING, "logprobs": 1}, {**SAMPLING, "num_return_sequences": 3}], ids=str)
def test_shared_beginnings_change_nothing(
    model: pythia_cpu.Model, prompts: list[list[int]], options: dict[str, Any]
) -> None:
    alone = [model.generate(prompt, max_new_tokens=12, **options) for prompt in prompts]
    for order in ([0, 1, 2, 3, 4], [4, 4, 3, 0, 2, 1, 1] * 20):
        batch = model.generate([prompts[i] for i in order], max_new_tokens=12, **options)
        assert batch == [alone[i] for i in order]
    long = [prompt * 30 for prompt in prompts]  # read in several steps
    assert model.generate(long, max_new_tokens=4) == [model.generate(prompt, max_new_tokens=4) for prompt in long]


def test_shared_beginnings_are_computed_once(model: pythia_cpu.Model) -> None:
    """Steps are counted: 40 prompts of 1,001 tokens that differ in the last one take those of one such prompt."""
    beginning = np.random.default_rng(0).integers(1, 4096, 1000).tolist()

    def steps(prompts: list[list[int]]) -> int:
        generator = _core.Generator(_core.GenerationEngine(model._core))
        for prompt in prompts:
            generator.add(prompt, _core.SamplingOptions(), max_new_tokens=1, stop=[], eos_token_ids=[], seed=0)
        return len(list(itertools.takewhile(lambda _: not generator.done, (generator.step() for _ in range(200)))))

    assert steps([[*beginning, i] for i in range(40)]) <= steps([beginning]) + 1
    assert steps([[i, *beginning] for i in range(40)]) > 40


def test_prefix_cache(model: pythia_cpu.Model, prompts: list[list[int]]) -> None:
    plain = [model.generate(prompt, max_new_tokens=40, **SAMPLING) for prompt in prompts]
    with model.prefix_cache(1 << 24) as cache:
        assert (cache.size_bytes, cache.tokens_found, cache.max_bytes) == (0, 0, 1 << 24)
        assert model.generate(prompts[0], max_new_tokens=40, **SAMPLING) == plain[0]
        assert cache.tokens_found == 0
        known = len(prompts[0]) + 39  # the last token is never read
        position_bytes = 2 * 4 * model.config.num_hidden_layers * model.config.hidden_size
        assert cache.size_bytes == known // 16 * 16 * position_bytes
        assert model.generate(prompts[0], max_new_tokens=40, **SAMPLING) == plain[0]
        assert cache.tokens_found == (len(prompts[0]) - 1) // 16 * 16
        assert cache.size_bytes == known // 16 * 16 * position_bytes
        for _ in range(2):
            assert model.generate(prompts, max_new_tokens=40, **SAMPLING) == plain
        found = cache.tokens_found
        assert [token.text for token in model.stream(prompts[0], max_new_tokens=40, **SAMPLING)]
        assert cache.tokens_found > found
        # A text that goes on: all of its whole blocks are known.
        longer = prompts[0] + plain[0].tokens
        before = cache.tokens_found
        model.generate(longer, max_new_tokens=1)
        assert cache.tokens_found - before == (len(longer) - 1) // 16 * 16
        assert str(cache.size_bytes) in repr(cache)
    size, found = cache.size_bytes, cache.tokens_found
    assert model.generate(prompts[0], max_new_tokens=40, **SAMPLING) == plain[0]
    model.generate([7] * 50, max_new_tokens=40)
    assert (cache.size_bytes, cache.tokens_found) == (size, found)  # closed: nothing comes in or out
    with pytest.raises(ValueError, match="max_bytes is 0"):
        model.prefix_cache(0)


def test_the_newest_prefix_cache_is_used(model: pythia_cpu.Model, prompts: list[list[int]]) -> None:
    """Whatever is done with older ones."""
    older, newer = model.prefix_cache(1 << 24), model.prefix_cache(1 << 24)
    for _ in range(2):
        older.close()
        model.generate(prompts[0], max_new_tokens=40)
    assert (older.size_bytes, older.tokens_found) == (0, 0)
    assert newer.tokens_found == (len(prompts[0]) - 1) // 16 * 16 > 0
    newer.close()
    model.generate(prompts[0], max_new_tokens=40)
    assert newer.tokens_found == (len(prompts[0]) - 1) // 16 * 16


def test_prefix_cache_keeps_to_its_bound(model: pythia_cpu.Model) -> None:
    block_bytes = 16 * 2 * 4 * model.config.num_hidden_layers * model.config.hidden_size
    rng = np.random.default_rng(1)
    texts = [rng.integers(1, 4096, 100).tolist() for _ in range(6)]
    expected = [model.generate(text, max_new_tokens=2) for text in texts]
    for blocks in (0, 1, 3, 6, 13, 100):
        with model.prefix_cache(blocks * block_bytes + 1) as cache:
            for i in [0, 1, 2, 3, 4, 5, 5, 0, 0, 3]:
                assert model.generate(texts[i], max_new_tokens=2) == expected[i]
                assert cache.size_bytes <= cache.max_bytes
            assert cache.size_bytes == min(blocks, 6 * 6) * block_bytes
    # What was used last stays: two texts of six blocks fit, the third drives out the first.
    with model.prefix_cache(12 * block_bytes) as cache:
        for i in (0, 1, 0, 2, 0):
            model.generate(texts[i], max_new_tokens=2)
        assert cache.tokens_found == 2 * 96
        model.generate(texts[1], max_new_tokens=2)
        assert cache.tokens_found == 2 * 96


def test_memory_limit(model: pythia_cpu.Model, prompts: list[list[int]]) -> None:
    expected = model.generate(prompts * 3, max_new_tokens=10)
    for limit in (1, 1_000_000):  # one at a time; a few
        assert model.generate(prompts * 3, max_new_tokens=10, max_kv_bytes=limit) == expected
    for bad in (0, -1, 1.5, "1G"):
        with pytest.raises(ValueError, match="max_kv_bytes is"):
            model.generate(prompts, max_kv_bytes=bad)  # type: ignore[call-overload]


@pytest.mark.parametrize("weights", ["q8", "f32"])
def test_memory_of_finished_sequences_serves_again(tmp_path: Path, weights: str) -> None:
    """What lay in a slab of 4 MiB changes nothing for those who take pieces of it later."""
    pythia_cpu.convert(MINI_PYTHIA, tmp_path / "m.pcpu", weights=weights, progress=False)
    model = pythia_cpu.load(tmp_path / "m.pcpu")
    rng = np.random.default_rng(0)
    prompts = rng.integers(1, 4096, (96, 70)).tolist()
    alone = [model.generate(prompt, max_new_tokens=3) for prompt in prompts]
    assert model.generate(prompts, max_new_tokens=3, max_kv_bytes=8 << 20) == alone


@pytest.mark.parametrize(
    ("limits", "at_once"),
    [
        ({}, 6),
        ({"max_active": 2}, 2),
        ({"max_kv_bytes": 8}, 2),
        ({"max_kv_bytes": 7}, 1),
        ({"max_kv_bytes": 23}, 5),
        ({"max_kv_bytes": 16, "draft": "itself"}, 2),
        ({"max_kv_bytes": 15, "draft": "itself"}, 1),
    ],
    ids=str,
)
def test_as_many_run_at_once_as_the_limits_allow(model: pythia_cpu.Model, limits: dict[str, Any], at_once: int) -> None:
    """Each of six requests takes four positions for two tokens; max_kv_bytes stands for as many positions here."""
    position_bytes = 2 * 4 * model.config.num_hidden_layers * model.config.hidden_size
    limits = {**limits, "max_kv_bytes": limits.get("max_kv_bytes", 0) * position_bytes}
    limits["draft"] = model._core if "draft" in limits else None
    generator = _core.Generator(_core.GenerationEngine(model._core), **limits)
    for i in range(6):
        generator.add([i, i, i], _core.SamplingOptions(), max_new_tokens=2, stop=[], eos_token_ids=[], seed=0)
    running = []
    while not generator.done:
        running.append([one[0] for one in generator.step()])
    assert running == [list(range(i, min(i + at_once, 6))) for i in range(0, 6, at_once) for _ in range(2)]


@pytest.mark.parametrize("options", [{}, {**SAMPLING, "num_return_sequences": 2}, {"num_beams": 2}], ids=str)
def test_generate_each(model: pythia_cpu.Model, options: dict[str, Any]) -> None:
    prompts: list[Any] = ["Once upon a time", [5, 6, 7], "It was", np.array([9, 8])] * 3
    expected = model.generate(prompts, max_new_tokens=8, **options)
    found = list(model.generate_each(iter(prompts), max_new_tokens=8, **options))
    assert sorted(index for index, _ in found) == list(range(len(prompts)))
    assert [dict(found)[i] for i in range(len(prompts))] == expected


def test_results_come_as_they_are_done(model: pythia_cpu.Model) -> None:
    """Endless prompts are taken as there is room; results come long before the last one."""
    taken = 0

    def endless() -> Iterator[list[int]]:
        nonlocal taken
        for i in itertools.count():
            taken += 1
            yield [1 + i % 4000]

    first = list(itertools.islice(model.generate_each(endless(), max_new_tokens=2), 1000))
    assert len({index for index, _ in first}) == 1000
    assert taken < 2000
    for index, generation in first[::100]:
        assert generation == model.generate([1 + index % 4000], max_new_tokens=2)
    assert list(model.generate_each([])) == []


def test_generate_each_errors(model: pythia_cpu.Model) -> None:
    with pytest.raises(ValueError, match="prompts is of type str"):
        model.generate_each("Once")
    for bad in (None, {"Once": 1}):
        with pytest.raises(ValueError, match=f"prompts is of type {type(bad).__name__}, expected an iterable"):
            model.generate_each(bad)  # type: ignore[arg-type]
    for options in ({"temperature": -1}, {"seed": -1}, {"logprobs": 5000}, {"num_beams": 2, "length_penalty": 11}):
        name = list(options)[-1]
        with pytest.raises(ValueError, match=f"{name} is {options[name]}"):
            model.generate_each([], **options)  # at once
    with pytest.raises(ValueError, match="prompts is of type Table"):
        model.generate_each(Table())  # type: ignore[arg-type]
    results = model.generate_each(["Once", ""], max_new_tokens=1)
    with pytest.raises(ValueError, match=r"prompts\[1\] has no tokens"):
        list(results)
    with pytest.raises(TypeError, match="temprature"):
        model.generate_each(["Once"], temprature=1.0)


def test_no_bar_without_a_terminal(model: pythia_cpu.Model, capsys: pytest.CaptureFixture[str]) -> None:
    model.generate([[5]] * 100, max_new_tokens=2)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ValueError, match="progress is 1"):
        model.generate([[5]], progress=1)  # type: ignore[call-overload]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_largest_logit_is_found_without_logits(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path], threads: int
) -> None:
    """In all parts of the vocabulary, and the lowest id where rows of the head are equal, near and far."""
    checkpoint = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 2000}
    tensors = random_tensors(neox_config(**checkpoint), seed=3)
    head = tensors["embed_out.weight"]
    head[[5, 6, 7]] *= 4
    head[[700, 1500, 1999]] = head[[800, 20, 767]] = head[[5, 6, 7]]
    model = pythia_cpu.load(make_model_file(make_checkpoint(tensors=tensors, **checkpoint)), threads=threads)
    rng = np.random.default_rng(0)
    for length in (1, 3, 5, 200):
        ids = rng.integers(0, 2000, length).astype(np.int32)
        chosen = model._core.choose([(_core.KvCache(model._core), ids, length)])
        np.testing.assert_array_equal(chosen, model.logits(ids).argmax(axis=1))
    assert {5, 6, 7} <= set(chosen.tolist()) and len(set(chosen.tolist())) > 10
    with pytest.raises(ValueError, match="choices after 3 tokens"):
        model._core.choose([(_core.KvCache(model._core), ids[:2], 3)])


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7, "repetition_penalty": 1.4, "logprobs": 2},
        {"top_p": 0.9, "presence_penalty": 0.5},
        {"top_p": 0.9, "no_repeat_ngram_size": 2},
        {"temperature": 1.1, "top_k": 50, "top_p": 0.95},
        {"min_p": 0.1},
    ],
    ids=str,
)
def test_large_vocabularies_are_shared_among_threads(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path], options: dict[str, Any]
) -> None:
    """One sequence's scores are looked at by all threads, several sequences' by one each: the same tokens."""
    path = make_model_file(
        make_checkpoint(vocab_size=20003, hidden_size=32, num_attention_heads=2, num_hidden_layers=1)
    )
    prompts = np.random.default_rng(1).integers(0, 20003, (5, 6)).tolist()
    options = {**options, "do_sample": True, "max_new_tokens": 12, "seed": 3, "eos_token_id": []}
    expected = pythia_cpu.load(path, threads=1).generate(prompts, **options)
    for threads in (2, 3):
        model = pythia_cpu.load(path, threads=threads)
        assert model.generate(prompts, **options) == expected
        assert [model.generate(prompt, **options) for prompt in prompts] == expected
