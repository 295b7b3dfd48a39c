"""The ``pythia-eval`` command: lm-evaluation-harness's own, with pythia-cpu as its model."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from pythia_cpu import __version__
from pythia_cpu._harness import missing_harness

_USAGE = """\
pythia-eval takes the arguments of lm-evaluation-harness's lm-eval; its model is pythia-cpu unless --model names
another.

  pythia-eval --model_args pretrained=EleutherAI/pythia-14m,revision=step3000,weights=q8 --tasks lambada_openai

--use_cache FILE keeps results in FILE by checkpoint and weight format, so that one file serves many checkpoints and an
interrupted evaluation resumes. With --config FILE.yaml, model_args of the command line are added to those
of the file and replace those of the same name. `pythia-eval run --help` lists all arguments, in the harness's own
words (whose default model, hf, is not the one here), `pythia-eval ls tasks` the tasks.
"""


def main() -> int:
    """Runs the command with ``sys.argv``; its exit status is 0, 1 for an error, 2 for wrong usage."""
    if len(sys.argv) == 1 or sys.argv[1:] in (["-h"], ["--help"]):
        print(_USAGE, end="")
        return 0
    if sys.argv[1:] == ["--version"]:
        print(f"pythia-eval {__version__}")
        return 0
    try:
        from lm_eval._cli import HarnessCLI
        from lm_eval.utils import setup_logging

        import pythia_cpu.eval  # noqa: F401  # registers the model
    except ImportError as error:
        return _error(missing_harness(error.__cause__ or error))
    setup_logging()
    if sys.argv[1].startswith("-"):
        sys.argv.insert(1, "run")
    harness = HarnessCLI()
    arguments = harness.parse_args()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            _adapt(arguments, Path(scratch))
            harness.execute(arguments)
        if sys.stdout is not None:  # as it is where standard output is closed
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _error("interrupted", 130)
    except BrokenPipeError:  # who reads has seen enough; nothing more can be written when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        return _error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ValueError as error:
        return _error(str(error))
    return 0


def _adapt(arguments: argparse.Namespace, scratch: Path) -> None:
    """Makes pythia-cpu the model of a run, and its own cache the one that is used.

    The harness's own cache does not know models apart. ``scratch`` is a folder that lives until the end of the run.
    """
    if arguments.command != "run":
        return
    from lm_eval.utils import simple_parse_args_string

    configured = _read_config(arguments.config) if arguments.config else {}
    arguments.model = arguments.model or configured.get("model") or "pythia-cpu"
    if arguments.model != "pythia-cpu":
        return
    # The harness would take one of the two model_args as a whole.
    model_args = configured.get("model_args") or {}
    if isinstance(model_args, str):
        model_args = simple_parse_args_string(model_args)
    if not isinstance(model_args, dict):
        raise ValueError(f"{arguments.config}: model_args is {model_args!r}, expected name: value pairs")
    arguments.model_args = {**model_args, **(arguments.model_args or {})}
    configured_cache = configured.pop("use_cache", None)
    if cache := arguments.use_cache or configured_cache:
        arguments.model_args["result_cache"] = cache
    arguments.use_cache = None
    if (seed := _torch_seed(arguments.seed or configured.get("seed"))) is not None:
        arguments.model_args.setdefault("seed", seed)  # what HFLM draws with
    if configured_cache:
        import yaml  # comes with the harness

        copy = scratch / Path(arguments.config).name
        copy.write_text(yaml.safe_dump(configured))
        arguments.config = str(copy)


def _torch_seed(seeds: object) -> int | None:
    """The one for torch of the harness's seeds; None if it is not set.

    Raises:
        ValueError: too many or too few, or something other than whole numbers.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

    normalized = EvaluatorConfig(seed=seeds)._normalize_seed().seed
    return None if normalized is None else normalized[2]


def _read_config(path: str) -> dict[str, Any]:
    """The arguments in a YAML file.

    Raises:
        ValueError: no mapping, or one with a name that is no argument of ``lm-eval run``.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

    try:
        configured: dict[str, Any] = EvaluatorConfig.load_yaml_config(path)
    except TypeError as error:
        raise ValueError(str(error)) from None
    known = sorted(field.name for field in dataclasses.fields(EvaluatorConfig))
    if unknown := [str(name) for name in configured if name not in known]:
        raise ValueError(f"{path}: has no meaning for {', '.join(unknown)}; it may hold {', '.join(known)}")
    return configured


def _error(message: str, status: int = 1) -> int:
    print(f"pythia-eval: {' '.join(message.splitlines())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
