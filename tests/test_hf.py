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
from huggingface_hub import constants

import pythia_cpu
from hub_server import running_hub
from pythia_cpu import hf
from pythia_cpu._hub_access import HubAccess, hub_access
from pythia_cpu.hf._offline import offline

TEXTS = ["Once upon a time", "It was", "The old man looked at the door, and", "x"]
AS_DICT = {"return_dict_in_generate": True}

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


def script(hf: Any, path: Path) -> list[Any]:
    """What people write for transformers, with what they print of it."""
    tokenizer = hf.AutoTokenizer.from_pretrained(path, padding_side="left")
    model = hf.GPTNeoXForCausalLM.from_pretrained(path, device_map="cpu", dtype=torch.float32)
    tokenizer.pad_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model = model.eval().float().cpu().to(model.device)
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt").to(model.device)
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        logits = output[0]
        loss = model(inputs.input_ids[2:3], labels=inputs["input_ids"][2:3]).loss
        new = model.generate(**inputs, max_new_tokens=8, do_sample=False, temperature=0.0)[
            :, inputs.input_ids.shape[1] :
        ]
        first = model.generate(
            inputs.input_ids[:1],
            generation_config=hf.GenerationConfig(max_new_tokens=1),
            attention_mask=inputs.attention_mask[:1],
            return_dict_in_generate=True,
            output_scores=True,
        )
    ids = torch.topk(first.scores[0][0].softmax(-1), 3).indices
    return [
        tokenizer.decode(logits[0, -1].argmax()),
        tokenizer.batch_decode(logits[:, -1].argmax(-1)),
        tokenizer.batch_decode(new, skip_special_tokens=True),
        tokenizer.convert_ids_to_tokens(ids.tolist()),
        len(output.hidden_states),
        output.hidden_states[-1].shape,
        model.num_parameters(),
        model.dtype,
        round(loss.item(), 3),
    ]


def test_a_script(mini_checkpoint: Path, cache: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHIA_CPU_CACHE", str(cache))
        ours = script(hf, mini_checkpoint)
    assert ours == script(transformers, mini_checkpoint)


def test_loading_without_the_hub(mini_checkpoint: Path, tmp_path: Path) -> None:
    online = """
from pythia_cpu.hf import AutoModelForCausalLM, GPTNeoXTokenizerFast
print(GPTNeoXTokenizerFast.from_pretrained("pythia-14m").encode("It"))
try:
    AutoModelForCausalLM.from_pretrained("pythia-14m", local_files_only=True)
except OSError as error:
    print(error)
AutoModelForCausalLM.from_pretrained("pythia-14m")
"""
    offline = """
from pythia_cpu.hf import AutoTokenizer, AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("pythia-14m", local_files_only=True)
print(model.config.hidden_size, AutoTokenizer.from_pretrained("pythia-14m", local_files_only=True).model_max_length)
"""
    with running_hub() as hub:
        hub.add("EleutherAI/pythia-14m", "main", {p.name: p.read_bytes() for p in mini_checkpoint.iterdir()})
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
        environment |= {"PYTHIA_CPU_CACHE": str(tmp_path / "cache")}
        output = []
        for code in (online, offline):
            num_requests = len(hub.log)
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, done.stderr
            output += done.stdout.splitlines()
        assert hub.downloads()[:2] == ["tokenizer.json", "tokenizer_config.json"]  # no weights for a tokenizer
        assert len(hub.log) == num_requests
    assert output[0] == str(pythia_cpu.load().tokenizer.encode("It"))
    assert output[1].endswith(f"the hub cannot be reached, and its cache {tmp_path}/hf/hub has no config.json")
    assert output[2] == "128 2048"


def test_downloads_are_kept_in_the_cache_dir(mini_checkpoint: Path, tmp_path: Path) -> None:
    """As in transformers: nothing is kept where HF_HOME says, and without the hub all is found. No token is shown."""
    online = """
from pythia_cpu.hf import AutoTokenizer, AutoModelForCausalLM
options = {"revision": "step3000", "cache_dir": "chosen", "token": "hf_secret"}
tokenizer = AutoTokenizer.from_pretrained("pythia-14m", **options)
print(AutoModelForCausalLM.from_pretrained("pythia-14m", **options).config.hidden_size, len(tokenizer))
"""
    offline = """
from pythia_cpu.hf import AutoTokenizer
options = {"revision": "step3000", "local_files_only": True, "use_auth_token": "hf_secret"}
print(len(AutoTokenizer.from_pretrained("pythia-14m", cache_dir="chosen", **options)))
try:
    AutoTokenizer.from_pretrained("pythia-14m", **options)
except OSError as error:
    print(error)
"""
    with running_hub() as hub:
        hub.add("EleutherAI/pythia-14m", "step3000", {p.name: p.read_bytes() for p in mini_checkpoint.iterdir()})
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
        output = []
        for code in (online, offline):
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
                cwd=tmp_path,
            )
            assert done.returncode == 0, done.stderr
            output += done.stdout.splitlines()
    assert output[:2] == ["128 4096", "4096"]
    assert f"its cache {tmp_path}/hf/hub does not" in output[2] and "hf_secret" not in output[2]
    assert (tmp_path / "chosen/models--EleutherAI--pythia-14m/refs/step3000").exists()
    assert not list(tmp_path.glob("hf/**/*.json"))


def test_names_of_transformers() -> None:
    from pythia_cpu.hf import TextStreamer, set_seed

    assert TextStreamer is transformers.TextStreamer and set_seed is transformers.set_seed
    with pytest.raises(ImportError, match="cannot import name 'Trainer'"):
        from pythia_cpu.hf import Trainer  # type: ignore[attr-defined]  # noqa: F401
    assert not hasattr(hf, "Trainer")


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
        (lambda m, t: m.generate([[1, 2]], num_beam_groups=2), "num_beam_groups is 2, but pythia_cpu supports only 1"),
        (lambda m, t: m.generate([[1, 2]], {"guidance_scale": 5}), "guidance_scale is 5, but .* supports only 1"),
        (lambda m, t: m.generate([[1, 2]], [[1, 1]]), "generation_config is of type list"),
        (lambda m, t: m.generate([[1, 2]], torch.ones(1, 2)), "generation_config is of type Tensor"),
        (lambda m, t: m.generate([[1, 2]], input_ids=[[1, 2]]), "both inputs and input_ids"),
        (lambda m, t: m.generate([[1, 2]], eos_token_id=1.5), "eos_token_id is 1.5"),
        (lambda m, t: m.generate([[1, 2]], do_sample=True, temperature=0.0), "temperature is 0"),
        (lambda m, t: m.generate([[1, 2]], num_beams=2, min_new_tokens=5), "min_new_tokens is 5"),
        (lambda m, t: m.generate([[1, 2]], max_time="a"), "max_time is 'a'"),
        (lambda m, t: m.generate([[1, 2]], stop_strings=5), "stop_strings is 5, expected a str"),
        (lambda m, t: m.compute_transition_scores([[1]], (), beam_indices=[[0]]), "no scores of beams"),
        (lambda m, t: m.generate([[1]], output_logits=True, num_beams=2, **AS_DICT), "with num_beams"),
        (lambda m, t: m.generate([[1, 2]], max_length=2), "max_length is 2, but the prompts have 2"),
        (lambda m, t: m.generate([[1, 2]], max_new_tokens=0), "max_new_tokens is 0"),
        (lambda m, t: m.generate([[1, 2]], attention_mask=[[1, 0, 1]]), r"attention_mask has shape \[1, 3\]"),
        (lambda m, t: m.generate([[1, 2, 3]], attention_mask=[[1, 0, 1]]), "zeros between ones"),
        (lambda m, t: m.generate([[1], [3]], attention_mask=[[1], [0]]), r"attention_mask\[1\] is 0 everywhere"),
        (lambda m, t: m.generate([[1, 2], [3]]), "different lengths"),
        (lambda m, t: m.generate([[1.5]]), "float64"),
        (lambda m, t: m.generate(np.zeros((1, 0), int)), r"shape \[1, 0\]"),
        (lambda m, t: m.generate([[[1]]]), r"shape \[1, 1, 1\]"),
        (lambda m, t: m.generate([[5000]]), "5000"),
        (lambda m, t: m(), "input_ids is None"),
        (lambda m, t: m([[1, 2]], position_ids=[[0, 2]]), "position_ids do not count up by 1"),
        (lambda m, t: m([[1, 2]], position_ids=[[0]]), r"position_ids has shape \[1, 1\]"),
        (lambda m, t: m([[1, 2]], labels=[[1, 2]], attention_mask=[[1, 0]]), r"labels\[attention_mask == 0\] = -100"),
        (lambda m, t: m([[1, 2]], attention_mask=[[1, 0.5]]), "attention_mask is an array of float64"),
        (lambda m, t: m.cuda(), "runs on the CPU"),
        (lambda m, t: m.train(), "inference only"),
        (lambda m, t: m.requires_grad_(), "no gradients"),
        (lambda m, t: m.generate([[1]], nonsense="x" * 1000), "nonsense='x{59}... is not supported"),
        (lambda m, t: m([[1, 2]], labels=[[1]]), "labels has shape"),
        (lambda m, t: m([[1, 2]], labels=[[1, 9999]]), "labels holds ids outside"),
        (lambda m, t: m.to("cuda"), "'cuda'"),
        (lambda m, t: m.to(dtype=torch.float64), "'torch.float64'"),
        (lambda m, t: t(TEXTS, return_tensors="np"), "padding=True"),
        (lambda m, t: t("x", return_tensors="tf"), "'tf'"),
        (lambda m, t: t(None), "text is of type NoneType, expected a str or a list of str"),
        (lambda m, t: t({"text": "x"}), "text is of type dict"),
        (lambda m, t: t("x", padding="most"), "'most'"),
        (lambda m, t: t("x", text_pair="y"), "text_pair"),
        (lambda m, t: t("x", return_length=True), "return_length"),
        (lambda m, t: t("x", truncation="only_second"), "truncation is 'only_second'"),
        (lambda m, t: t("x", padding="max_length", max_length=9, padding_side="up"), "padding_side is 'up'"),
        (lambda m, t: t("x", pad_to_multiple_of=0, padding=True), "pad_to_multiple_of is 0"),
        (lambda m, t: t("x", max_length=-1), "max_length is -1"),
        (lambda m, t: t("x").to("cuda"), "device is 'cuda'"),
        (lambda m, t: m.generate([[5]], stop_strings=["a<|padding|>"]), "token 1 is a special one.*use eos_token_id=1"),
        (lambda m, t: t.add_special_tokens({"pad_token": "[PAD]"}), "pad_token is .*use tokenizer.eos_token"),
        (lambda m, t: t.add_special_tokens({"cls_tokens": "x"}), "'cls_tokens' is no special token"),
        (lambda m, t: t.pad({"labels": [1]}), "no input_ids"),
        (lambda m, t: hf.GPTNeoXForCausalLM.from_pretrained("x", load_in_8bit=True), "load_in_8bit is True"),
        (lambda m, t: hf.GPTNeoXForCausalLM.from_pretrained("x", dtype="int8"), "dtype is 'int8'"),
        (lambda m, t: hf.GPTNeoXForCausalLM.from_pretrained("x", subfolder="y"), "subfolder is 'y'"),
        (lambda m, t: hf.GPTNeoXForCausalLM.from_pretrained("x", token=5), "token is of type int"),
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


def test_loads_without_the_hub_side_by_side() -> None:
    """The client's setting is as before when the last one has ended, whichever that is."""
    before = constants.HF_HUB_OFFLINE
    first, second = offline(True), offline(True)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert constants.HF_HUB_OFFLINE is True
    second.__exit__(None, None, None)
    assert constants.HF_HUB_OFFLINE is before


@pytest.mark.parametrize(
    ("options", "token"),
    [
        ({}, None),
        ({"token": "own"}, "own"),
        ({"use_auth_token": "old"}, "old"),
        ({"token": False, "use_auth_token": "old"}, False),
    ],
    ids=str,
)
def test_tokens_of_the_hub(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], token: object) -> None:
    """Of the names that they have had, the new one counts first."""
    seen = []

    def noted(*_: object, **__: object) -> None:
        seen.append(hub_access())
        raise KeyboardInterrupt

    for kind, reader in ((hf.GPTNeoXForCausalLM, "_model.load"), (hf.GPTNeoXTokenizer, "_tokenizer.read_tokenizer")):
        monkeypatch.setattr(f"pythia_cpu.hf.{reader}", noted)
        with pytest.raises(KeyboardInterrupt):
            kind.from_pretrained("pythia-14m", cache_dir="here", **options)
    assert seen == [HubAccess("here", token)] * 2
    assert hub_access() == HubAccess()
