#!/usr/bin/env python3
"""Compares pythia-cpu with other engines side by side, on random weights in Pythia's shapes.

Every peer is measured in turns with ours, in processes of their own, several rounds; what counts is the median of the
rounds' ratios, since absolute figures drift on a shared machine. Missing models are made first and kept.

    tools/bench_peers.py 70m 160m --models bench-models --python .peers/bin/python --output records/peers

measures the models that are there and writes records/peers.json with every figure and records/peers.md, a table. Making
models takes Pythia's tokenizer files (--tokenizer) and, for GGUF, llama.cpp's converter (--gguf-converter).

The peers' Python needs the packages of those engines that are wanted; the rest is left out, and said so:
llama-cpp-python, ctranslate2 with transformers<5, openvino with nncf, torch with transformers. ik_llama.cpp is its
llama-bench binary (--ik-llama-bench). pythia-cpu is the one of the Python that runs this script.

To hold all to AVX2: PYTHIA_CPU_ISA=avx2 CT2_FORCE_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2,
and ik_llama.cpp built with -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON.

Prefill: 512 tokens, logits of the last (CTranslate2: of all). Decode: 128 tokens after one, greedy. Tokens per second,
batch 1, the best of a round's repetitions.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers.models import PEERS, SHAPES, Peer, available, checkpoint, ours, run_worker, theirs
from peers.worker import Workload


def measure_ours(binary: str, model: Path, workload: Workload) -> dict[str, Any]:
    """The JSON of `pythia-cpu bench`, with lists of rates as the peers' workers give them."""
    command = [binary, "bench", "--json", "-m", str(model), *workload.arguments()]
    report: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    rates = {
        task: [report[task]["tokens"] / seconds for seconds in report[task]["seconds"]]
        for task in ("prefill", "decode", "scoring")
        if report[task]
    }
    return {**rates, "report": report}


def compare(shape: str, peer: Peer, workload: Workload, rounds: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All rounds of ours against one peer, and the median ratio of each task."""
    our_model = ours(arguments.models, shape, peer.weights)
    their_model = theirs(arguments.models, shape, peer, arguments.python, arguments.gguf_converter)
    figures = []
    for number in range(rounds):
        our_figures = measure_ours(arguments.binary, our_model, workload)
        their_figures = json.loads(
            run_worker(arguments.python, peer, ["measure", their_model, *workload.arguments()]).splitlines()[-1]
        )
        figures.append({"ours": our_figures, "peer": their_figures})
        tasks = [task for task in ("prefill", "decode", "scoring") if task in our_figures and task in their_figures]
        line = ", ".join(f"{task} {max(our_figures[task]):.1f} / {max(their_figures[task]):.1f}" for task in tasks)
        print(f"{shape} {peer.name} round {number + 1}: {line}", file=sys.stderr, flush=True)
    return {
        "shape": shape,
        "peer": peer.name,
        "weights": peer.weights,
        "version": figures[0]["peer"]["version"],
        "rounds": figures,
        "median_ratio": {
            task: statistics.median(max(one["ours"][task]) / max(one["peer"][task]) for one in figures)
            for task in tasks
        },
    }


def best(result: dict[str, Any], side: str, task: str) -> float:
    """The best rate of all rounds."""
    return max(max(one[side][task]) for one in result["rounds"])


def markdown(record: dict[str, Any]) -> str:
    """The record as text and a table, a line for each shape and peer."""
    settings = record["workload"]
    header = [
        "shape",
        "pythia-cpu",
        "prefill",
        "decode",
        "of DRAM rate",
        "peer",
        "prefill",
        "decode",
        "prefill ratio",
        "decode ratio",
    ]
    lines = [
        f"{record['machine']}, {record['isa']}, threads: {settings['threads']}, {record['date']}. Random weights,",
        f"batch 1, prefill of {settings['prompt_tokens']} tokens, decode of {settings['decode_tokens']}.",
        f"Tokens per second, best of {record['rounds']} rounds; ratios are the median of the rounds' ratios, above 1",
        "where pythia-cpu is faster.",
        "",
        "| " + " | ".join(header) + " |",
        "|---" * len(header) + "|",
    ]
    for result in record["results"]:
        dram = statistics.median(r["ours"]["report"]["decode"]["fraction_of_read_1gib"] for r in result["rounds"])
        cells = [
            result["shape"],
            result["weights"],
            *(f"{best(result, 'ours', task):,.0f}" for task in ("prefill", "decode")),
            f"{dram:.0%}",
            result["peer"],
            *(f"{best(result, 'peer', task):,.0f}" for task in ("prefill", "decode")),
            *(f"{result['median_ratio'][task]:.2f}" for task in ("prefill", "decode")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    versions = sorted({result["version"] for result in record["results"]})
    return "\n".join([*lines, "", "Peers: " + "; ".join(versions) + ".", ""])


def parse_arguments(command_line: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="+", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--peers", nargs="+", choices=PEERS, metavar="PEER", default=list(PEERS), help=", ".join(PEERS))
    parser.add_argument("--models", type=Path, default=Path("bench-models"), help="folder of the models (bench-models)")
    parser.add_argument("--tokenizer", type=Path, help="folder with Pythia's tokenizer files, to make checkpoints")
    parser.add_argument("--python", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--binary", help="the pythia-cpu binary (default: the one installed beside this Python)")
    parser.add_argument("--gguf-converter", type=Path, help="llama.cpp's convert_hf_to_gguf.py, to make GGUF files")
    parser.add_argument("--ik-llama-bench", help="ik_llama.cpp's llama-bench")
    parser.add_argument("--rounds", type=int, default=5, help="turns of ours and each peer (5)")
    parser.add_argument("--prepare-only", action="store_true", help="make the models, measure nothing")
    parser.add_argument("--output", type=Path, default=Path("peers"), help="write OUTPUT.json and OUTPUT.md (peers)")
    for name, value in vars(Workload()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"({value})")
    arguments = parser.parse_args(command_line)
    scripts = sysconfig.get_path("scripts")
    arguments.binary = arguments.binary or shutil.which("pythia-cpu", path=scripts + os.pathsep + os.environ["PATH"])
    if not arguments.binary:
        parser.error("pythia-cpu is not installed; run pip install . or name the binary: --binary")
    if arguments.ik_llama_bench:
        os.environ["IK_LLAMA_BENCH"] = str(Path(arguments.ik_llama_bench).resolve())
    for shape in arguments.shapes:
        if not (arguments.models / f"pythia-{shape}").exists() and arguments.tokenizer is None:
            parser.error(
                f"no checkpoint of {shape} in {arguments.models}; name tokenizer files to make one: --tokenizer"
            )
    return arguments


def main(command_line: Sequence[str] | None = None) -> int:
    """Makes what is missing, measures, and writes the record."""
    arguments = parse_arguments(command_line)
    workload = Workload(**{name: getattr(arguments, name) for name in vars(Workload())})
    arguments.models.mkdir(parents=True, exist_ok=True)
    peers = [PEERS[name] for name in arguments.peers if available(PEERS[name], arguments.python)]
    for name in arguments.peers:
        if PEERS[name] not in peers:
            print(f"{name} is left out: not installed", file=sys.stderr)
    for shape in arguments.shapes:
        checkpoint(arguments.models, shape, arguments.tokenizer)
        for peer in peers:
            ours(arguments.models, shape, peer.weights)
            theirs(arguments.models, shape, peer, arguments.python, arguments.gguf_converter)
    if arguments.prepare_only:
        return 0
    if not peers:
        print("no peer to measure", file=sys.stderr)
        return 1

    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    results = [
        compare(shape, peer, workload, arguments.rounds, arguments) for shape in arguments.shapes for peer in peers
    ]
    report = results[0]["rounds"][0]["ours"]["report"]
    record = {
        "date": date,
        "machine": report["machine"],
        "isa": report["isa"],
        "system": platform.platform(),
        "workload": vars(workload),
        "rounds": arguments.rounds,
        "results": results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.with_name(arguments.output.name + ".json").write_text(json.dumps(record, indent=1) + "\n")
    text = markdown(record)
    arguments.output.with_name(arguments.output.name + ".md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
