#!/usr/bin/env python3
"""How much faster a draft makes decoding, at an acceptance that is set.

    tools/bench_speculative.py --target 1.4b --draft 70m --acceptance 0.7 --models bench-models

Both models have the sizes of Pythia's, so that they cost what those cost, but know one thing only: which token follows
a token, a random cycle through the vocabulary. The draft knows it for a part of the tokens, the acceptance, and is
wrong about the others. Their layers run in full and add nothing. Models are made where they are missing.

Plain and drafted decoding of the same prompts run in turns; what counts is the median of the rounds' ratios, and that
the tokens are equal.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import pythia_cpu
from peers.models import SHAPES
from peers.worker import FIRST_TOKEN, LAST_TOKEN

SEED = 0


def successors(vocab_size: int, known: float) -> np.ndarray:
    """What follows each token, int64 ``[vocab_size]``: a cycle, of which a part ``known`` is right and the rest is
    mixed up.
    """
    rng = np.random.default_rng(SEED)
    cycle = rng.permutation(vocab_size)
    following = np.empty(vocab_size, np.int64)
    following[cycle] = np.roll(cycle, -1)
    unknown = rng.permutation(vocab_size)[: round((1 - known) * vocab_size)]
    following[unknown] = following[np.roll(unknown, 1)]
    return following


def successor_model(folder: Path, shape: str, known: float) -> Path:
    """A q8 file of a model that writes ``successors``."""
    path = folder / f"successors-{shape}-{known:.2f}-q8.pcpu"
    if path.exists():
        return path
    from checkpoints import neox_config, random_tensors, write_checkpoint  # peers.models says where it is

    print(f"making {path}", file=sys.stderr)
    hidden, layers, heads, vocab_size = SHAPES[shape]
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocab_size}
    tensors = random_tensors(neox_config(**sizes))
    for name, tensor in tensors.items():
        if ".dense." in name or ".dense_4h_to_h." in name:
            tensor[...] = 0
    tensors["gpt_neox.final_layer_norm.weight"][...] = 1
    tensors["gpt_neox.final_layer_norm.bias"][...] = 0
    head = tensors["embed_out.weight"]
    head[...] = 0
    head[successors(vocab_size, known)] = tensors["gpt_neox.embed_in.weight"] / np.float16(np.sqrt(hidden))
    scratch = folder / f"{path.stem}.checkpoint"
    write_checkpoint(scratch, tensors=tensors, **sizes)
    del tensors
    pythia_cpu.convert(scratch, path, weights="q8", progress=False)
    shutil.rmtree(scratch)
    return path


def main(command_line: Sequence[str] | None = None) -> int:
    """Makes the models, measures, and prints a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=SHAPES, default="1.4b")
    parser.add_argument("--draft", choices=SHAPES, default="70m")
    parser.add_argument("--acceptance", type=float, default=0.7)
    parser.add_argument("--models", type=Path, default=Path("bench-models"), help="folder of the models (bench-models)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=1, help="prompts that run together (1)")
    parser.add_argument("--decode-tokens", type=int, default=64)
    arguments = parser.parse_args(command_line)
    arguments.models.mkdir(parents=True, exist_ok=True)
    target = pythia_cpu.load(successor_model(arguments.models, arguments.target, 1.0), threads=arguments.threads)
    draft_file = successor_model(arguments.models, arguments.draft, arguments.acceptance)
    draft = pythia_cpu.load(draft_file, threads=arguments.threads)
    rng = np.random.default_rng(SEED + 1)
    rates = []
    acceptances = []
    for number in range(arguments.rounds + 1):
        prompts = rng.integers(FIRST_TOKEN, LAST_TOKEN, (arguments.prompts, 16))
        start = time.perf_counter()
        plain = target.generate(prompts, max_new_tokens=arguments.decode_tokens, ignore_eos=True)
        middle = time.perf_counter()
        drafted = target.generate(prompts, max_new_tokens=arguments.decode_tokens, ignore_eos=True, draft=draft)
        end = time.perf_counter()
        if [text.tokens for text in plain] != [text.tokens for text in drafted]:
            raise SystemExit("the texts differ")
        if number > 0:  # the first one reads the files
            rates.append((middle - start) / (end - middle))
            acceptances += [text.draft_acceptance for text in drafted]
    print(
        json.dumps(
            {
                **{name: value for name, value in vars(arguments).items() if name != "models"},
                "accepted_of_all_proposed": round(statistics.mean(acceptances), 3),
                "speedups": [round(rate, 3) for rate in rates],
                "median_speedup": round(statistics.median(rates), 3),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
