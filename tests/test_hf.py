"""The transformers names: the model card's snippet, and the same arrays as transformers gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import pythia_cpu
from hub_server import running_hub
from pythia_cpu import hf
from reference import TOLERANCE

TEXTS = ["Once upon a time", "It was", "The old man looked at the door, and", "x"]

# The model card of EleutherAI/pythia-70m-deduped, but for the import line.
SNIPPET = """
from pythia_cpu.hf import GPTNeoXForCausalLM, AutoTokenizer

model = GPTNeoXForCausalLM.from_pretrained(
  "EleutherAI/pythia-70m-deduped",
  revision="step3000",
  cache_dir="./pythia-70m-deduped/step3000",
)

tokenizer = AutoTokenizer.from_pretrained(
  "EleutherAI/pythia-70m-deduped",
  revision="step3000",
  cache_dir="./pythia-70m-deduped/step3000",
)

inputs = tokenizer("Hello, I am", return_tensors="pt")
tokens = model.generate(**inputs)
tokenizer.decode(tokens[0])
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(mini_checkpoint: Path, cache: Path) -> hf.GPTNeoXForCausalLM:
    return hf.GPTNeoXForCausalLM.from_pretrained(mini_checkpoint, cache_dir=cache)


@pytest.fixture(scope="module")
def tokenizer(mini_checkpoint: Path) -> hf.GPTNeoXTokenizer:
    return hf.AutoTokenizer.from_pretrained(mini_checkpoint)


@pytest.fixture(scope="module")
def their_model(mini_checkpoint: Path) -> Any:
    return transformers.GPTNeoXForCausalLM.from_pretrained(
        mini_checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture
def their_tokenizer(mini_checkpoint: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(mini_checkpoint)


def test_the_model_cards_snippet(mini_checkpoint: Path, tmp_path: Path, their_model: Any, their_tokenizer: Any) -> None:
    with running_hub() as hub:
        files = {path.name: path.read_bytes() for path in mini_checkpoint.iterdir()}
        hub.add("EleutherAI/pythia-70m-deduped", "step3000", files)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
        code = SNIPPET + "\nprint(type(tokens).__module__, tokenizer.decode(tokens[0]))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stderr
    inputs = their_tokenizer("Hello, I am", return_tensors="pt")
    expected = their_tokenizer.decode(their_model.generate(**inputs)[0])
    assert done.stdout == f"torch {expected}\n"
    assert list((tmp_path / "pythia-70m-deduped" / "step3000").rglob("*.pcpu"))


def test_the_tokenizer_downloads_no_weights(mini_checkpoint: Path, tmp_path: Path) -> None:
    with running_hub() as hub:
        hub.add("EleutherAI/pythia-14m", "main", {p.name: p.read_bytes() for p in mini_checkpoint.iterdir()})
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
        code = "from pythia_cpu.hf import AutoTokenizer as Auto; print(Auto.from_pretrained('pythia-14m').encode('It'))"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert set(hub.downloads()) == {"tokenizer.json"}
    assert done.stdout == f"{pythia_cpu.load().tokenizer.encode('It')}\n"


@pytest.mark.parametrize("text", [*TEXTS, TEXTS, "", "a  b\n\n<|endoftext|> ü 中"], ids=repr)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": True},
        {"padding": "longest", "padding_side": "left"},
        {"padding": "max_length", "max_length": 12},
        {"truncation": True, "max_length": 3},
        {"truncation": True, "padding": "max_length", "max_length": 6, "return_tensors": "np"},
        {"padding": True, "return_tensors": "pt"},
        {"return_attention_mask": False},
    ],
    ids=str,
)
def test_tokenizer_equals_transformers(
    tokenizer: hf.GPTNeoXTokenizer, their_tokenizer: Any, text: Any, options: dict[str, Any]
) -> None:
    if text == "" and options.get("return_tensors"):
        return  # transformers makes a float array of no ids
    ours, theirs = tokenizer(text, **options), their_tokenizer(text, **options)
    assert set(ours) == set(theirs)
    for name in theirs:
        assert type(ours[name]) is type(theirs[name])
        if isinstance(theirs[name], list):
            assert ours[name] == theirs[name]
        else:
            assert ours[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(ours[name], theirs[name])
        assert ours[name] is getattr(ours, name)


def test_tokenizer_properties(tokenizer: hf.GPTNeoXTokenizer, their_tokenizer: Any) -> None:
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "eos_token_id", "bos_token_id", "unk_token_id",
                 "pad_token_id", "padding_side", "vocab_size"):  # fmt: skip
        assert getattr(tokenizer, name) == getattr(their_tokenizer, name), name
    assert len(tokenizer) == len(their_tokenizer)
    assert tokenizer.get_vocab() == their_tokenizer.get_vocab()
    text = "Hello,  wörld <|endoftext|>"
    ids = their_tokenizer.encode(text)
    assert tokenizer.encode(text) == ids
    assert tokenizer.tokenize(text) == their_tokenizer.tokenize(text) == tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) == ids
    for form in (ids, np.array(ids), torch.tensor(ids), ids[0], [ids, ids[:2]], np.array([ids, ids])):
        for skip in (False, True):
            assert tokenizer.decode(form, skip_special_tokens=skip) == their_tokenizer.decode(
                form, skip_special_tokens=skip
            )
    assert tokenizer.batch_decode([ids, ids[:2]]) == their_tokenizer.batch_decode([ids, ids[:2]])


def assert_close(ours: Any, theirs: torch.Tensor) -> None:
    theirs_array = theirs.detach().numpy()
    assert np.abs(np.asarray(ours) - theirs_array).max() <= TOLERANCE * np.abs(theirs_array).max()


def test_forward(model: hf.GPTNeoXForCausalLM, tokenizer: hf.GPTNeoXTokenizer, their_model: Any) -> None:
    inputs = tokenizer("Once upon a time there was", return_tensors="pt")
    ours, theirs = model(**inputs), their_model(**inputs, labels=inputs.input_ids)
    assert isinstance(ours.logits, torch.Tensor)
    assert ours.logits.shape == theirs.logits.shape
    assert_close(ours.logits, theirs.logits)
    assert ours.loss is None and ours[0] is ours.logits is ours["logits"]
    arrays = {name: value.numpy() for name, value in inputs.items()}
    result = model(**arrays, labels=arrays["input_ids"])
    assert isinstance(result.logits, np.ndarray) and result.logits.dtype == np.float32
    np.testing.assert_array_equal(result.logits, ours.logits.numpy())
    np.testing.assert_allclose(result.loss, theirs.loss.item(), rtol=1e-5)
    labels = arrays["input_ids"].copy()
    labels[0, 2:4] = -100
    expected = their_model(**inputs, labels=torch.from_numpy(labels)).loss.item()
    np.testing.assert_allclose(model(**arrays, labels=labels).loss, expected, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_forward_of_padded_rows(
    model: hf.GPTNeoXForCausalLM, tokenizer: hf.GPTNeoXTokenizer, their_model: Any, side: str
) -> None:
    inputs = tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
    logits = model(**inputs).logits
    theirs = their_model(**inputs).logits
    for i, text in enumerate(TEXTS):
        real = inputs.attention_mask[i].bool()
        np.testing.assert_array_equal(logits[i][real], model.model.logits(tokenizer.encode(text)))
        assert_close(logits[i][real], theirs[i][real])
        assert (logits[i][~real] == 0).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 40},
        {"max_length": 30},
        {"max_new_tokens": 30, "repetition_penalty": 1.2},
        {"max_new_tokens": 30, "eos_token_id": 13},
        {"max_new_tokens": 20, "num_beams": 3, "num_return_sequences": 2, "eos_token_id": 13, "early_stopping": True},
        {"max_new_tokens": 30, "eos_token_id": [13, 264], "pad_token_id": 1},
    ],
    ids=str,
)
def test_generate_left_padded(
    model: hf.GPTNeoXForCausalLM, tokenizer: hf.GPTNeoXTokenizer, their_model: Any, options: dict[str, Any]
) -> None:
    inputs = tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="pt")
    ours, theirs = model.generate(**inputs, **options), their_model.generate(**inputs, **options)
    assert ours.dtype == theirs.dtype
    assert ours.tolist() == theirs.tolist()
    arrays = model.generate(**tokenizer(TEXTS, padding=True, padding_side="left", return_tensors="np"), **options)
    assert isinstance(arrays, np.ndarray)
    assert arrays.tolist() == theirs.tolist()
    width = inputs.input_ids.shape[1]
    for i, text in enumerate(TEXTS):
        if "max_length" not in options:  # which counts the padding
            alone = model.generate(**tokenizer(text, return_tensors="np"), **options)[0]
            new = alone[len(tokenizer.encode(text)) :]
            row = ours[i * options.get("num_return_sequences", 1)]
            assert row[width : width + len(new)].tolist() == new.tolist()


def test_generate_samples(model: hf.GPTNeoXForCausalLM, tokenizer: hf.GPTNeoXTokenizer) -> None:
    inputs = tokenizer(TEXTS[:2], padding=True, padding_side="left", return_tensors="np")
    rows = model.generate(**inputs, do_sample=True, temperature=0.8, num_return_sequences=3, seed=4, max_new_tokens=9)
    width = inputs.input_ids.shape[1]
    texts = model.model.generate(
        TEXTS[:2], do_sample=True, temperature=0.8, top_k=50, num_return_sequences=3, seed=4, max_new_tokens=9
    )
    for i in range(6):
        assert rows[i, :width].tolist() == inputs.input_ids[i // 3].tolist()
        assert rows[i, width : width + 9].tolist()[: len(texts[i // 3][i % 3].tokens)] == texts[i // 3][i % 3].tokens
    stopped = model.generate(tokenizer.encode(TEXTS[0], return_tensors="np"), stop_strings="other", tokenizer=tokenizer)
    assert tokenizer.decode(stopped[0]).endswith("other")


def test_full_context(model: hf.GPTNeoXForCausalLM) -> None:
    ids = np.random.default_rng(0).integers(2, 4096, (1, 2040))
    assert model.generate(ids, eos_token_id=1).shape[1] <= 2048
    assert model.generate(ids[:, :10], max_length=11).shape == (1, 11)


def test_dtypes(mini_checkpoint: Path, cache: Path) -> None:
    def stored(**options: Any) -> object:
        loaded = hf.AutoModelForCausalLM.from_pretrained(mini_checkpoint, cache_dir=cache, **options)
        assert loaded.eval().to("cpu") is loaded
        return loaded.model.provenance["weights"]

    for dtype in (None, "auto", torch.float32, np.float32, torch.float16, "float16"):
        assert stored(dtype=dtype) == "f16"  # which holds every value of this checkpoint
    assert stored(torch_dtype=torch.bfloat16) == "bf16"
    assert stored(weights="q8", device_map="cpu", low_cpu_mem_usage=True) == "q8"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, t: m.generate([[1, 2]], num_beam_groups=2), "num_beam_groups=2 is not supported"),
        (lambda m, t: m.generate([[1, 2]], output_scores=True), "output_scores is True"),
        (lambda m, t: m.generate([[1, 2]], max_length=2), "max_length is 2, but the prompts have 2"),
        (lambda m, t: m.generate([[1, 2]], max_new_tokens=0), "max_new_tokens is 0"),
        (lambda m, t: m.generate([[1, 2]], [[1, 0, 1]]), r"attention_mask has shape \[1, 3\]"),
        (lambda m, t: m.generate([[1, 2, 3]], [[1, 0, 1]]), "zeros between ones"),
        (lambda m, t: m.generate([[1, 2], [3, 4]], [[1, 1], [0, 0]]), r"attention_mask\[1\] is 0 everywhere"),
        (lambda m, t: m.generate([[1, 2], [3]]), "different lengths"),
        (lambda m, t: m.generate([[1.5]]), "float64"),
        (lambda m, t: m.generate([[5000]]), "5000"),
        (lambda m, t: m(), "input_ids is None"),
        (lambda m, t: m([[1]], output_attentions=True), "output_attentions is True"),
        (lambda m, t: m([[1, 2]], labels=[[1]]), "labels has shape"),
        (lambda m, t: m([[1, 2]], labels=[[1, 9999]]), "labels holds ids outside"),
        (lambda m, t: m.to("cuda"), "'cuda'"),
        (lambda m, t: t(TEXTS, return_tensors="np"), "padding=True"),
        (lambda m, t: t("x", return_tensors="tf"), "'tf'"),
        (lambda m, t: t("x", padding="most"), "'most'"),
        (lambda m, t: t("x", text_pair="y"), "text_pair"),
        (lambda m, t: t("x", return_offsets_mapping=True), "return_offsets_mapping"),
        (lambda m, t: t("x", padding="max_length"), "max_length is None"),
        (lambda m, t: hf.GPTNeoXForCausalLM.from_pretrained("x", load_in_8bit=True), "load_in_8bit is True"),
        (lambda m, t: hf.GPTNeoXForCausalLM.from_pretrained("x", dtype="int8"), "dtype is 'int8'"),
        (lambda m, t: hf.GPTNeoXForCausalLM.from_pretrained("x", subfolder="y"), "subfolder='y'"),
        (lambda m, t: hf.AutoTokenizer.from_pretrained("x", device="y"), "device='y'"),
    ],
)  # fmt: skip
def test_errors(model: hf.GPTNeoXForCausalLM, tokenizer: hf.GPTNeoXTokenizer, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(model, tokenizer)


def test_torch_is_not_needed(mini_checkpoint: Path, cache: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from pythia_cpu.hf import AutoTokenizer, GPTNeoXForCausalLM
model = GPTNeoXForCausalLM.from_pretrained({str(mini_checkpoint)!r}, cache_dir={str(cache)!r})
tokenizer = AutoTokenizer.from_pretrained({str(mini_checkpoint)!r})
print(type(model.generate(**tokenizer("It was", return_tensors="np"))))
try:
    tokenizer("It was", return_tensors="pt")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("<class 'numpy.ndarray'>\ntorch tensors were asked for"), done.stderr
