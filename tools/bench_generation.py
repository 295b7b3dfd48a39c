#!/usr/bin/env python3
"""Compares greedy generation for many prompts at once with other engines, side by side, on random weights.

    tools/bench_generation.py 14m 160m --models bench-models --python .peers/bin/python --output records/generation

64 prompts of 32 random tokens, 32 tokens after each: ours in one call, ours one prompt after the other, CTranslate2
int8 and transformers float32, each in a process of its own, in turns. Each peer first tries its batch sizes and keeps
the best. What counts is the median of the rounds' ratios. Models are those of bench_peers.py, which makes them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers.models import PEERS, SHAPES, Peer, available, ours, run_worker, theirs
from peers.worker import Workload

BATCH_SIZES = (8, 16, 32, 64)
OURS = {variant: Peer(f"ours {variant}", "q8", "pythia_cpu_worker", variant) for variant in ("batch", "single")}


def measure(python: str, engine: Peer, model: Path, workload: Workload) -> float:
    """Generated tokens per second, the best of the worker's repetitions."""
    output = run_worker(python, engine, ["measure", model, *workload.arguments()])
    return max(json.loads(output.splitlines()[-1])["generation"])


def best_batch_size(python: str, peer: Peer, model: Path, workload: dict[str, int]) -> int:
    """The batch size that a peer is fastest with."""
    rates = {size: measure(python, peer, model, Workload(**workload, batch_size=size)) for size in BATCH_SIZES}
    print(f"{peer.name}: " + ", ".join(f"{size}: {rate:.0f}/s" for size, rate in rates.items()), file=sys.stderr)
    return max(rates, key=lambda size: rates[size])


def compare(shape: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All rounds of one shape."""
    counts = {
        "threads": arguments.threads,
        "prompt_tokens": arguments.prompt_tokens,
        "decode_tokens": arguments.decode_tokens,
        "generate_prompts": arguments.prompts,
        "repetitions": arguments.repetitions,
    }
    our_model = ours(arguments.models, shape, "q8")
    runs = [(sys.executable, engine, our_model, Workload(**counts)) for engine in OURS.values()]
    for name in arguments.peers:
        if not available(PEERS[name], arguments.python):
            print(f"{name} is left out: not installed", file=sys.stderr)
            continue
        model = theirs(arguments.models, shape, PEERS[name], arguments.python, None)
        size = best_batch_size(arguments.python, PEERS[name], model, counts)
        runs.append((arguments.python, PEERS[name], model, Workload(**counts, batch_size=size)))
    rounds = []
    for number in range(arguments.rounds):
        rounds.append({engine.name: measure(python, engine, model, work) for python, engine, model, work in runs})
        figures = ", ".join(f"{name} {rate:.0f}" for name, rate in rounds[-1].items())
        print(f"{shape} round {number + 1}: {figures}", file=sys.stderr, flush=True)
    mine = OURS["batch"].name
    others = [engine.name for _, engine, _, _ in runs[1:]]
    return {
        "shape": shape,
        "workload": counts,
        "batch_sizes": {engine.name: work.batch_size for _, engine, _, work in runs[len(OURS) :]},
        "rounds": rounds,
        "median_ratio": {name: statistics.median(one[mine] / one[name] for one in rounds) for name in others},
    }


def main(command_line: Sequence[str] | None = None) -> int:
    """Measures and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="+", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=["ctranslate2-int8", "torch-float32"])
    parser.add_argument("--models", type=Path, default=Path("bench-models"), help="folder of the models (bench-models)")
    parser.add_argument("--python", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all engines (3)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--decode-tokens", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3, help="in each turn, of which the best counts (3)")
    parser.add_argument("--output", type=Path, help="write OUTPUT.json")
    arguments = parser.parse_args(command_line)
    results = [compare(shape, arguments) for shape in arguments.shapes]
    for result in results:
        ratios = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in result["median_ratio"].items())
        print(f"{result['shape']}: {ratios}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
