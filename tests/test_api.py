"""The Python surface: names, types, errors, threads, Ctrl-C."""

from __future__ import annotations

import copy
import inspect
import math
import multiprocessing
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


def test_names_and_defaults() -> None:
    """docs and scripts rely on these."""
    assert set(pythia_cpu.__all__) <= set(dir(pythia_cpu))
    assert pythia_cpu.__version__.count(".") == 2
    assert issubclass(pythia_cpu.FormatError, ValueError) and issubclass(pythia_cpu.CheckpointError, ValueError)
    load = inspect.signature(pythia_cpu.load).parameters
    assert {name: p.default for name, p in load.items()} == {
        "source": None,
        "revision": None,
        "weights": "auto",
        "threads": None,
        "cache_dir": None,
        "tokenizer": None,
        "progress": True,
    }
    assert all(p.kind is p.KEYWORD_ONLY for name, p in load.items() if name != "source")
    generate = dict(inspect.signature(pythia_cpu.Model.generate).parameters)
    del generate["self"], generate["prompt"]
    assert all(p.kind is p.KEYWORD_ONLY for p in generate.values())
    assert {name: p.default for name, p in generate.items()} == {
        "max_new_tokens": 20,
        "do_sample": False,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "no_repeat_ngram_size": 0,
        "logit_bias": None,
        "num_beams": 1,
        "length_penalty": 1.0,
        "early_stopping": False,
        "num_return_sequences": 1,
        "stop": None,
        "eos_token_id": None,
        "ignore_eos": False,
        "seed": None,
        "logprobs": None,
        "draft": None,
        "edit": None,
        "max_kv_bytes": None,
        "progress": True,
    }


def test_model_properties(model: pythia_cpu.Model, shipped_model: Path) -> None:
    assert model.config["hidden_size"] == model.config.hidden_size == 128
    assert model.config.num_hidden_layers == 6
    assert model.config.hidden_act == "gelu"
    assert model.config.rotary_pct == 0.25
    assert model.config.eos_token_id == 0
    with pytest.raises(KeyError, match="no 'n_layer'; it has .*num_hidden_layers"):
        model.config["n_layer"]
    with pytest.raises(AttributeError, match="no 'hidden_sise'"):
        _ = model.config.hidden_sise
    assert model.context_length == model.config.max_position_embeddings == 2048
    assert model.isa in pythia_cpu._core.supported_isas()
    tensors = model.provenance["tensors"]
    assert isinstance(tensors, dict) and len(tensors["embed_out.weight"]) == 64
    assert model.provenance["weights"] == "f16"
    assert str(shipped_model) in repr(model)
    assert model.threads >= 1
    model.threads = 1
    assert model.threads == 1
    model.threads = 2
    for bad in (0, -1, 1.5, "2", True, 1025):
        with pytest.raises(ValueError, match="threads"):
            model.threads = bad


def test_tokenizer(model: pythia_cpu.Model) -> None:
    tokenizer = model.tokenizer
    ids = tokenizer.encode("Hello,  wörld <|endoftext|>")
    assert all(type(id) is int for id in ids)
    assert tokenizer.decode(ids) == "Hello,  wörld "
    assert tokenizer.decode(np.array(ids), skip_special_tokens=False) == "Hello,  wörld <|endoftext|>"
    assert (tokenizer.vocab_size, tokenizer.eos_token_id) == (4096, 0)
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""
    for bad in (None, b"bytes", 3, ["a"]):
        with pytest.raises(ValueError, match="expected str"):
            tokenizer.encode(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="surrogate at position 1"):
        tokenizer.encode("a\ud800")
    assert tokenizer.decode(np.array(ids[0])) == tokenizer.decode(ids[:1]) == "H"
    for bad_ids in ([-1], [1.5], ["a"], [True], [2**32], None, "a", np.True_, np.array([ids])):
        with pytest.raises(ValueError, match="token ids"):
            tokenizer.decode(bad_ids)  # type: ignore[arg-type]


def test_logits(model: pythia_cpu.Model) -> None:
    ids = model.tokenizer.encode("Once upon a time there was")
    logits = model.logits(ids)
    assert isinstance(logits, np.ndarray)
    assert (logits.dtype, logits.shape) == (np.float32, (len(ids), 4096))
    for form in (
        tuple(ids),
        np.array(ids),
        np.array(ids, np.uint8 if max(ids) < 256 else np.int16),
        np.array(ids)[::1],
    ):
        np.testing.assert_array_equal(model.logits(form), logits)
    strided = np.repeat(ids, 2)[::2]
    np.testing.assert_array_equal(model.logits(strided), logits)
    for batch in ([ids, ids[:3]], (tuple(ids), np.array(ids[:3]))):
        several = model.logits(batch)
        assert isinstance(several, list)
        np.testing.assert_array_equal(several[0], logits)
        np.testing.assert_array_equal(several[1], logits[:3])
    assert len(model.logits(np.array([ids, ids]))) == 2
    long = np.random.default_rng(1).integers(0, 4096, 1300)
    np.testing.assert_array_equal(model.logits(long)[:600], model.logits(long[:600]))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "no tokens"),
        ([[1], []], r"tokens\[1\] has no tokens"),
        ("text", "encode it first"),
        (["text"], "encode it first"),
        ([1, 2.5], "2.5 of type float"),
        ([1.0, 2.0], "float"),
        (np.array([1.0]), "float64"),
        ([1, True], "True of type bool"),
        ([1, None], "None"),
        ([1, [2]], "one kind"),
        ([4096], "token id 4096, expected 0 to 4095"),
        ([-1], "token id -1"),
        (np.array([0, 5000]), "token id 5000"),
        ([2**70], str(2**70)),
        ([0] * 2049, "2049 tokens.*2048"),
        (np.zeros((1, 1, 1), int), "3 dimensions"),
        (None, "NoneType"),
        (5, "int"),
        (b"ab", "bytes"),
        ({1: 2}, "dict"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bad_tokens(model: pythia_cpu.Model, tokens: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.logits(tokens)
    if "encode it first" not in message:
        for call in (model.generate, lambda t: model.stream(t)):
            with pytest.raises(ValueError):
                call(tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"max_new_tokens": 2.0}, "max_new_tokens is 2.0 of type float"),
        ({"do_sample": 1}, "do_sample is 1"),
        ({"temperature": 0, "do_sample": True}, "temperature is 0, expected .* above 0; .* use do_sample=False"),
        ({"temperature": math.nan}, "temperature is nan, expected a finite number, 0 or more$"),
        ({"temperature": math.nan, "do_sample": True}, "temperature is nan, expected a finite number above 0$"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": -0.5, "do_sample": True}, "temperature is -0.5"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"min_p": 1.1}, "min_p is 1.1"),
        ({"typical_p": 0}, "typical_p is 0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"presence_penalty": math.inf}, "presence_penalty is inf"),
        ({"frequency_penalty": math.nan}, "frequency_penalty is nan"),
        ({"logit_bias": [(1, 2.0)]}, "logit_bias is of type list"),
        ({"logit_bias": {4096: 1.0}}, "logit_bias names token 4096"),
        ({"logit_bias": {"a": 1.0}}, "logit_bias"),
        ({"logit_bias": {1: math.nan}}, "logit_bias of token 1 is nan"),
        ({"num_beams": 4, "do_sample": True}, "do_sample is True and num_beams is 4"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_beams": 10**9}, "num_beams is 1000000000, expected 1 to 4096"),
        (
            {"num_return_sequences": 10**9, "do_sample": True},
            "num_return_sequences is 1000000000, expected 1 to 1048576",
        ),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2 with do_sample=False"),
        ({"stop": ""}, "stop string is empty"),
        ({"stop": ["a", 3]}, "stop is"),
        ({"stop": "\ud800"}, "surrogate"),
        ({"stop": 5}, "stop is 5"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
        ({"eos_token_id": 4096}, "eos_token_id is 4096"),
        ({"eos_token_id": "0"}, "eos_token_id is '0'"),
        ({"ignore_eos": None}, "ignore_eos is None"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, f"seed is {2**64}"),
        ({"seed": 1.0}, "seed is 1.0"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"logprobs": 4097}, "logprobs is 4097"),
        ({"logprobs": True}, "logprobs is True"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_generation_arguments(model: pythia_cpu.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        model.generate("Once", **options)
    if "num_return_sequences" not in options:
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            model.stream("Once", **options)  # at once, not with the first token


def test_misspelt_arguments(model: pythia_cpu.Model) -> None:
    for call in (model.generate, model.stream):
        with pytest.raises(TypeError, match="temprature"):
            call("Once", temprature=1.0)  # type: ignore[operator]
    with pytest.raises(ValueError, match="one prompt"):
        model.stream(["Once", "It"])
    with pytest.raises(ValueError, match="one text"):
        model.stream("Once", do_sample=True, num_return_sequences=2)


def test_which_prompt_of_a_list_is_wrong(model: pythia_cpu.Model) -> None:
    with pytest.raises(ValueError, match=r"prompt\[2\] has no tokens"):
        model.generate(["Once", "It", ""])
    with pytest.raises(ValueError, match=r"prompt\[1\] has 3000 tokens.*2048"):
        model.generate([[1], [1] * 3000])
    with pytest.raises(ValueError, match="no tokens"):
        model.generate("")


def test_load_errors(shipped_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        pythia_cpu.load(tmp_path / "missing.pcpu")
    assert "missing.pcpu" in str(missing.value)
    foreign = tmp_path / "foreign.pcpu"
    foreign.write_bytes(b"PK\x03\x04" * 1000)
    with pytest.raises(pythia_cpu.FormatError, match=r"foreign\.pcpu"):
        pythia_cpu.load(foreign)
    for options in ({"revision": "step3000"}, {"weights": "q4"}, {"threads": 0}, {"threads": "2"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            pythia_cpu.load(shipped_model, **options)  # type: ignore[arg-type]
    for source in (shipped_model, None, "pythia-14m"):
        with pytest.raises(ValueError, match="weights is 'int8', expected one of auto, f32, f16, bf16, q8, q4"):
            pythia_cpu.load(source, weights="int8")
    assert pythia_cpu.load(str(shipped_model), weights="f16").generate("Once").text


def test_pickled_models(
    shipped_model: Path, mini_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(shipped_model, tmp_path / "a.pcpu")
    monkeypatch.chdir(tmp_path)
    (model := pythia_cpu.load("a.pcpu", threads=1)).threads = 3
    monkeypatch.chdir("/")
    expected = model.logits([1, 2, 3])
    pickled = pickle.dumps(model)
    for again in (pickle.loads(pickled), copy.copy(model), copy.deepcopy(model)):
        assert (type(again), again.threads) == (pythia_cpu.Model, 3)
        np.testing.assert_array_equal(again.logits([1, 2, 3]), expected)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(model.logits, ([1, 2, 3],)), expected)
    (tmp_path / "a.pcpu").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.pcpu"):
        pickle.loads(pickled)
    pythia_cpu.convert(mini_checkpoint, tmp_path / "a.pcpu", weights="q8")
    with pytest.raises(ValueError, match=r"a\.pcpu: holds another model than the one that was pickled"):
        pickle.loads(pickled)


def test_two_threads_use_one_model(model: pythia_cpu.Model) -> None:
    prompts = ["Once upon a time", "It was", "The old man", "He said"]
    options: dict[str, Any] = {"max_new_tokens": 60, "do_sample": True, "seed": 4}
    expected = [model.generate(prompt, **options) for prompt in prompts]
    expected_logits = model.logits([1, 2, 3])
    failures: list[str] = []

    def work(i: int) -> None:
        for _ in range(5):
            if model.generate(prompts[i], **options) != expected[i]:
                failures.append(prompts[i])
            if "".join(t.text for t in model.stream(prompts[i], **options)) != expected[i].text:
                failures.append(f"stream {prompts[i]}")
            if not np.array_equal(model.logits([1, 2, 3]), expected_logits):
                failures.append("logits")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_other_python_threads_run_meanwhile(model: pythia_cpu.Model) -> None:
    """The interpreter's lock is free while the model runs."""
    done = threading.Event()
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.monotonic()
    while time.monotonic() - start < 1.0:
        model.logits(list(range(512)))
    done.set()
    thread.join()
    assert ticks > 50


def test_an_abandoned_stream_leaves_the_model_usable(model: pythia_cpu.Model) -> None:
    expected = model.generate("Once upon a time")
    for _ in range(20):
        stream: Iterator[pythia_cpu.Token] = iter(model.stream("Once upon a time", max_new_tokens=1000))
        next(stream)
        next(stream)
        del stream
    assert model.generate("Once upon a time") == expected


@pytest.mark.parametrize("call", ["model.generate(['Once'] * 500, **options)", "list(model.stream('Once', **options))"])
def test_ctrl_c_stops_within_a_token(call: str) -> None:
    """And the model goes on working."""
    script = f"""
        import time, pythia_cpu
        model = pythia_cpu.load(threads=1)
        before = model.generate("Once upon a time").text
        options = dict(max_new_tokens=2000, ignore_eos=True)
        print("ready", flush=True)
        try:
            while True:
                {call}
        except KeyboardInterrupt:
            print("interrupted", time.monotonic(), flush=True)
        print(model.generate("Once upon a time").text == before)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert errors == ""
    interrupted, same = output.splitlines()
    # The million tokens of the list take a minute, a step a few milliseconds: far from both on a busy machine.
    assert float(interrupted.split()[1]) - sent < 10
    assert same == "True"
    assert process.returncode == 0


def test_documentation() -> None:
    """Everything public says what it does."""
    for name in pythia_cpu.__all__:
        thing: Any = getattr(pythia_cpu, name)
        assert thing.__doc__, name
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                assert value.__doc__, f"{name}.{member}"


def test_typed() -> None:
    assert (Path(pythia_cpu.__file__).parent / "py.typed").exists()
    assert (Path(pythia_cpu.__file__).parent / "_core.pyi").exists()
