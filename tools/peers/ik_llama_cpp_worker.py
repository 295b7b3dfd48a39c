"""ik_llama.cpp through its llama-bench, weights repacked at load (worker.py says how to run it). Variants: q8_0, q4_0.

The binary is named by the environment variable IK_LLAMA_BENCH.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from peers.worker import Workload, main

BINARY_VARIABLE = "IK_LLAMA_BENCH"


def prepare(checkpoint: Path, output: Path, options: argparse.Namespace) -> None:
    """Nothing: it reads llama.cpp's GGUF files."""


def measure(path: Path, variant: str, workload: Workload) -> dict[str, Any]:
    """Rates of llama-bench's tests pp (prompt) and tg (text generation)."""
    binary = shutil.which(os.environ.get(BINARY_VARIABLE, ""))
    if not binary:
        raise SystemExit(f"{BINARY_VARIABLE} names no executable; expected the path of ik_llama.cpp's llama-bench")
    # fmt: off
    command = [
        binary, "-m", path, "-t", workload.threads, "-p", workload.prompt_tokens, "-n", workload.decode_tokens,
        "-r", workload.repetitions, "-rtr", 1, "-o", "json",
    ]
    # fmt: on
    output = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    tests = json.loads(output[output.index("[") :])
    samples = {bool(test["n_gen"]): test["samples_ts"] for test in tests}
    return {"version": f"ik_llama.cpp {tests[0]['build_commit']}", "prefill": samples[False], "decode": samples[True]}


if __name__ == "__main__":
    main(prepare, measure)
