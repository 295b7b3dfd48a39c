"""Fixtures shared by all tests; everything expensive is made once a session."""

from __future__ import annotations

import importlib.resources
import os
import shutil
import signal
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before transformers is imported: the tests use no network, and a tokenizer's threads do not mix with forks.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis
import pytest

import pythia_cpu
from checkpoints import MINI_PYTHIA, write_checkpoint
from hub_runs import Run, runner
from hub_server import Hub, running_hub
from pythia_cpu import hf
from reference import Reference

# A shared two-core machine has no steady clock: no deadline for one example. Derandomized: a red run is red again.
hypothesis.settings.register_profile("default", deadline=None, derandomize=True)
hypothesis.settings.load_profile("default")

# A shell that runs the tests in the background has them and their children ignore Ctrl-C, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shipped_model() -> Path:
    """The .pcpu file inside the package."""
    return Path(str(importlib.resources.files(pythia_cpu) / "data" / "mini-pythia.pcpu"))


@pytest.fixture(scope="session")
def mini_checkpoint() -> Path:
    """The checkpoint that the shipped model was converted from."""
    return MINI_PYTHIA


@pytest.fixture(scope="session")
def binary() -> Path:
    """The installed pythia-cpu binary."""
    found = shutil.which("pythia-cpu", path=sysconfig.get_path("scripts"))
    assert found, "pythia-cpu is not installed beside this Python; run: pip install ."
    return Path(found)


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_checkpoint(**write_checkpoint's arguments) -> a folder, made once for the same arguments."""
    made: dict[str, Path] = {}

    def make(**arguments: Any) -> Path:
        key = repr(sorted(arguments.items()))
        if key not in made:
            made[key] = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), **arguments)
        return made[key]

    return make


@pytest.fixture(scope="session")
def make_model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_model_file(checkpoint, weights="auto") -> its .pcpu file, made once for the same arguments."""
    made: dict[tuple[Path, str], Path] = {}

    def make(checkpoint: Path, weights: str = "auto") -> Path:
        if (checkpoint, weights) not in made:
            path = tmp_path_factory.mktemp("model") / "model.pcpu"
            pythia_cpu.convert(checkpoint, path, weights=weights, progress=False)
            made[checkpoint, weights] = path
        return made[checkpoint, weights]

    return make


@pytest.fixture(scope="session")
def reference() -> Callable[[Path], Reference]:
    """reference(checkpoint) -> transformers' model of it, loaded once."""
    loaded: dict[Path, Reference] = {}

    def load(checkpoint: Path) -> Reference:
        if checkpoint not in loaded:
            loaded[checkpoint] = Reference(checkpoint)
        return loaded[checkpoint]

    return load


@pytest.fixture
def hf_model(mini_checkpoint: Path, make_model_file: Callable[..., Path]) -> hf.GPTNeoXForCausalLM:
    """The mini model under transformers' names."""
    return hf.GPTNeoXForCausalLM.from_pretrained(make_model_file(mini_checkpoint))


@pytest.fixture(scope="module")
def hf_tokenizer(mini_checkpoint: Path) -> hf.GPTNeoXTokenizer:
    """Its tokenizer."""
    return hf.AutoTokenizer.from_pretrained(mini_checkpoint)


@pytest.fixture
def their_hf_model(mini_checkpoint: Path, reference: Callable[[Path], Reference]) -> Any:
    """transformers' own model of it."""
    return reference(mini_checkpoint).model


@pytest.fixture
def own_datasets_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what lm-evaluation-harness reads from task files in the tests' folder."""
    import datasets

    folder = str(tmp_path_factory.getbasetemp() / "datasets-cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", folder)  # of child processes
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub on this machine."""
    with running_hub() as server:
        yield server


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """run(code, **environment) runs Python as a user of that hub, whose cache is empty at first."""
    return runner(hub, tmp_path)
