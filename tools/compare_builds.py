#!/usr/bin/env python3
r"""Show that another build of the binary computes the same bits, for another architecture or by another compiler.

Small random models of many shapes, activations and weight formats are converted with the installed package;
fingerprints, greedy and sampled texts, scores of every token and token ids must be those of the binary beside this
Python.

    tools/compare_builds.py [--isa NAME]... [--threads N]... COMMAND...

For AArch64, with Debian's g++-aarch64-linux-gnu and qemu-user-static:

    cmake -B build-arm -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DPYTHIA_BUILD_PYTHON=OFF \
        -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ && cmake --build build-arm
    tools/compare_builds.py --isa neon_dotprod --isa neon --isa portable -- \
        qemu-aarch64-static -L /usr/aarch64-linux-gnu build-arm/pythia-cpu
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import pythia_cpu
from checkpoints import write_checkpoint

WEIGHTS = ("f32", "f16", "bf16", "q8", "q4")
SHAPES: tuple[dict[str, Any], ...] = (
    {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2},
    {"hidden_size": 80, "num_attention_heads": 5, "num_hidden_layers": 1, "rotary_pct": 1.0, "vocab_size": 4099},
    {"hidden_size": 72, "num_attention_heads": 3, "num_hidden_layers": 2, "parallel": False, "hidden_act": "gelu_new"},
    {"hidden_size": 96, "num_attention_heads": 1, "num_hidden_layers": 1, "tied": True, "hidden_act": "silu"},
    {
        "hidden_size": 144,
        "num_attention_heads": 9,
        "num_hidden_layers": 1,
        "attention_bias": False,
        "hidden_act": "relu",
    },
)
TEXT = "It was a dark and stormy night; caf\u00e9, \u4f60\u597d, e\u0301.\n\n" + "The rain fell in torrents. " * 40
SAMPLING = (
    "--temperature 0.9",
    "--top-k 20 --temperature 1.3",
    "--top-p 0.9",
    "--min-p 0.02",
    "--typical-p 0.8 --top-k 400",
)


def runs_of(model: Path, text: Path) -> Iterator[list[str]]:
    """The arguments of every run that is compared."""
    yield ["verify", "-m", str(model)]
    yield ["tokenize", "-m", str(model), text.read_text(encoding="utf-8")]
    yield ["score", "-m", str(model), "--per-token", str(text)]
    yield ["generate", "-m", str(model), "-n", "40", "Once upon a time"]
    for seed, options in enumerate(SAMPLING):
        yield ["generate", "-m", str(model), "-n", "20", "--seed", str(seed), *options.split(), "The old man"]


def output_of(command: list[str], isa: str = "") -> bytes:
    """What the command prints, without the instruction set that `verify` names; or how it fails."""
    environment = {**os.environ, "PYTHIA_CPU_ISA": isa}
    result = subprocess.run(command, capture_output=True, env=environment, check=False)
    if result.returncode != 0:
        return f"exit status {result.returncode}: ".encode() + result.stderr
    return result.stdout.split(b" (")[0] if "verify" in command else result.stdout


def models_in(scratch: Path) -> Iterator[Path]:
    """Converts the shapes to all formats, one after the other."""
    for number, shape in enumerate(SHAPES):
        checkpoint = write_checkpoint(scratch / f"checkpoint{number}", dtype="float32", seed=number, **shape)
        for weights in WEIGHTS:
            model = scratch / f"shape{number}-{weights}.pcpu"
            pythia_cpu.convert(checkpoint, model, weights=weights, progress=False)
            yield model


def main() -> int:
    """Prints each difference and a line for each model; the exit status is 1 if there are any differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", action="append", help="of the other build (default: its best); repeatable")
    parser.add_argument("--threads", action="append", help="of the other build (default: 1); repeatable")
    parser.add_argument("command", nargs="+", help="the other binary, with what runs it")
    arguments = parser.parse_args()
    installed = str(Path(sysconfig.get_path("scripts")) / "pythia-cpu")

    compared, different = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(TEXT, encoding="utf-8")
        for model in models_in(Path(folder)):
            for run in runs_of(model, text):
                expected = output_of([installed, *run])
                for isa, threads in itertools.product(arguments.isa or [""], arguments.threads or ["1"]):
                    more = [] if run[0] == "tokenize" else ["-t", threads]
                    found = output_of([*arguments.command, *run, *more], isa)
                    compared += 1
                    if found != expected:
                        different += 1
                        print(f"{isa} {' '.join([*run, *more])[:100]}: {found[:200]!r}, expected {expected[:200]!r}")
            print(f"{model.name}: {compared} runs compared, {different} differ", flush=True)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
