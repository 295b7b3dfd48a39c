"""pythia-eval: the harness's command with pythia-cpu as its model."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
os.environ["HF_DATASETS_OFFLINE"] = "1"

from offline_tasks import ROLLING, WRITING, write_task
from pythia_cpu import _cli_eval, _harness

pytestmark = pytest.mark.usefixtures("own_datasets_cache")

TASK = "offline_command"
# Without torch, as where it is not installed.
WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder

class WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "torch" else super().find_spec(name, path, target)

sys.meta_path = [WithoutTorch if finder is PathFinder else finder for finder in sys.meta_path]
from pythia_cpu._cli_eval import main
status = main()
assert "torch" not in sys.modules
sys.exit(status)
"""
COMMAND = [sys.executable, "-m", "pythia_cpu._cli_eval"]


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    write_task(folder, TASK, ROLLING, [{"text": "It was a dark and stormy night."}])
    write_task(folder, "offline_writing", WRITING, [{"question": "It was", "choices": ["a"], "answer": 0}])
    return folder


@pytest.fixture
def no_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a run in this process reading the thousands of files of the harness's own tasks."""
    import lm_eval.tasks

    manager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)


@pytest.fixture
def evaluate(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_other_tasks: None
) -> Callable[..., dict[str, Any]]:
    """evaluate(config, *arguments) -> the report of ``pythia-eval --config`` in tmp_path, run in this process."""
    monkeypatch.chdir(tmp_path)

    def run(config: dict[str, Any], *arguments: str) -> dict[str, Any]:
        shared = {"tasks": [TASK], "include_path": str(task_folder), "output_path": "report.json", "limit": None}
        Path("e.yaml").write_text(json.dumps(config | shared))
        monkeypatch.setattr(sys, "argv", ["pythia-eval", "--config", "e.yaml", *arguments])
        assert _cli_eval.main() == 0
        (path,) = tmp_path.glob("report_*.json")
        report: dict[str, Any] = json.loads(path.read_text())
        path.unlink()
        return report

    return run


def bits_per_byte(report: dict[str, Any]) -> float:
    value: float = report["results"][TASK]["bits_per_byte,none"]
    return value


@pytest.mark.parametrize("in_config", [False, True], ids=["command line", "config"])
def test_one_cache_for_many_models(
    evaluate: Callable[..., dict[str, Any]],
    in_config: bool,
    mini_checkpoint: Path,
    make_model_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    cache = {"use_cache": "r.db"} if in_config else {}
    arguments = [] if in_config else ["--use_cache", "r.db"]
    results = {}
    for weights in ("q8", "q4", "q8"):
        model_args = {"pretrained": str(make_model_file(mini_checkpoint, weights)), "threads": 2}
        report = evaluate({"model_args": model_args, **cache}, *arguments)
        assert report["config"]["model_weights"] == weights
        assert results.setdefault(weights, bits_per_byte(report)) == bits_per_byte(report)
    assert results["q8"] != results["q4"]
    assert [path.name for path in tmp_path.glob("r.db*")] == ["r.db"]  # its own cache, not the harness's


def test_model_args_of_config_and_command_line(evaluate: Callable[..., dict[str, Any]], mini_checkpoint: Path) -> None:
    config = {"model_args": f"pretrained={mini_checkpoint},weights=q4,cache_dir=cache"}
    assert evaluate(config)["config"]["model_weights"] == "q4"
    report = evaluate(config, "--model_args", "weights=q8")
    assert report["config"]["model_weights"] == "q8"


def test_the_seed_of_torch_is_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval._cli import HarnessCLI

    seen: list[Any] = []
    monkeypatch.setattr(HarnessCLI, "execute", lambda _, arguments: seen.append(arguments.model_args.get("seed")))
    for config, arguments, seed in [
        ({}, [], None),
        ({}, ["--seed", "5"], 5),
        ({"seed": 5}, [], 5),
        ({"seed": 5}, ["--seed", "0,1,2,3"], 2),
        ({"seed": [0, 1, None, 3]}, [], None),
        ({"seed": 5}, ["--model_args", "seed=6"], 6),
    ]:
        (tmp_path / "e.yaml").write_text(json.dumps(config))
        monkeypatch.setattr(sys, "argv", ["pythia-eval", "--config", str(tmp_path / "e.yaml"), *arguments])
        assert _cli_eval.main() == 0
        assert seen.pop() == seed, (config, arguments)


def test_other_models_keep_their_arguments(evaluate: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    evaluate({"model": "dummy", "use_cache": "r.db"})
    assert (tmp_path / "r.db_rank0.db").exists()


def test_command(task_folder: Path, shipped_model: Path, tmp_path: Path) -> None:
    """Which needs no torch."""
    command = [sys.executable, "-c", WITHOUT_TORCH, "--model_args", f"pretrained={shipped_model},threads=2,dtype=float"]
    command += ["--device", "cuda:0", "--batch_size", "auto:4"]  # as in the harness's README
    command += ["--tasks", f"{TASK},offline_writing", "--include_path", str(task_folder)]
    command += ["--output_path", str(tmp_path / "out")]
    command += ["--use_cache", str(tmp_path / "results.db")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in ("pythia-cpu", TASK, "offline_writing"))
    (path,) = (tmp_path / "out").rglob("results_*.json")
    assert bits_per_byte(json.loads(path.read_text())) > 0
    assert [path.name for path in tmp_path.glob("results*")] == ["results.db"]


@pytest.mark.usefixtures("no_other_tasks")
def test_chat_templates_are_refused(
    task_folder: Path, shipped_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pythia-eval", "--model_args", f"pretrained={shipped_model}", "--apply_chat_template"]
    command += ["--tasks", "offline_writing", "--include_path", str(task_folder)]
    monkeypatch.setattr(sys, "argv", command)
    assert _cli_eval.main() == 1
    assert capsys.readouterr().err.endswith("pythia-cpu has no chat templates: leave it out\n")


@pytest.mark.usefixtures("no_other_tasks")
def test_command_errors(
    tmp_path: Path, task_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def yaml(name: str, text: str) -> str:
        (tmp_path / f"{name}.yaml").write_text(text)
        return str(tmp_path / f"{name}.yaml")

    usage = subprocess.run(COMMAND, capture_output=True, text=True, timeout=60, check=False)
    assert usage.returncode == 0 and "pythia-eval" in usage.stdout
    for arguments, message in [
        (["--model_args", f"pretrained={tmp_path / 'missing.pcpu'}"], "missing.pcpu"),
        (["--model_args", "weights=q8"], "pretrained is missing"),
        ([], "pretrained is missing"),
        (["--config", str(tmp_path / "missing.yaml")], "missing.yaml"),
        (["--config", yaml("list", "[tasks]")], "YAML root must be a mapping in"),
        (["--config", yaml("broken", "a: [")], "Invalid YAML in"),
        (
            ["--config", yaml("unknown", "{modle: pythia-cpu, 3: 4}")],
            "unknown.yaml: has no meaning for modle, 3; it may",
        ),
        (["--config", yaml("model_args", "model_args: [a]")], "model_args is ['a'], expected name: value pairs"),
        (
            ["--config", yaml("other", "{model: dummy, more: 1}")],
            "other.yaml: has no meaning for more; it may hold apply",
        ),
    ]:
        command = ["pythia-eval", *arguments, "--tasks", TASK, "--include_path", str(task_folder)]
        monkeypatch.setattr(sys, "argv", command)
        assert _cli_eval.main() == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("pythia-eval: ") and message in last


def test_a_harness_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    extra = re.search(r'^eval = \["(.*)"\]$', (Path(__file__).parents[1] / "pyproject.toml").read_text(), re.MULTILINE)
    assert extra is not None
    monkeypatch.setattr(sys, "argv", ["pythia-eval", "ls", "tasks"])
    monkeypatch.setitem(sys.modules, "lm_eval._cli", None)
    monkeypatch.setattr(_harness, "version", lambda _: "0.4.9")
    assert _cli_eval.main() == 1
    error = capsys.readouterr().err
    assert "found lm-evaluation-harness 0.4.9, which cannot be used (" in error and "lm_eval._cli" in error
    assert f"works with another version: pip install '{extra[1]}'" in error

    for name in [name for name in sys.modules if name.startswith("pythia_cpu.eval")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval.api.registry", None)
    with pytest.raises(
        ImportError, match=r"^pythia_cpu\.eval found lm-evaluation-harness 0\.4\.9, which cannot be used"
    ):
        importlib.import_module("pythia_cpu.eval")
    assert _cli_eval.main() == 1
    assert capsys.readouterr().err.count("found lm-evaluation-harness") == 1

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(_harness, "version", missing)
    assert _cli_eval.main() == 1
    assert capsys.readouterr().err == f"pythia-eval: needs lm-evaluation-harness: pip install '{extra[1]}'\n"
