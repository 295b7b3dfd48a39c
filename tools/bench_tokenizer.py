#!/usr/bin/env python3
"""Measures encoding beside Hugging Face `tokenizers`, both on one thread, on the same text, in turns.

python tools/bench_tokenizer.py                                  the shipped tokenizer on its own English sample
python tools/bench_tokenizer.py --tokenizer tokenizer.json --text book.txt
"""

from __future__ import annotations

import argparse
import os
import pathlib
import time
from collections.abc import Callable

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before the import: one thread

import tokenizers

from pythia_cpu._core import Tokenizer
from pythia_cpu._tokenizer_export import compile_tokenizer

ROOT = pathlib.Path(__file__).parents[1]
MINI_TOKENIZER = ROOT / "tests" / "data" / "mini-pythia" / "step1800" / "tokenizer.json"


def best_time_s(run: Callable[[], object], repeats: int) -> float:
    """The shortest of several runs, in seconds: the one least disturbed."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print a table with one line for each length of text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=pathlib.Path, default=MINI_TOKENIZER, help="a tokenizer.json")
    parser.add_argument("--text", type=pathlib.Path, default=ROOT / "LICENSE", help="a UTF-8 text file")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each, of which the best counts")
    arguments = parser.parse_args()

    tokenizer_json = arguments.tokenizer.read_bytes()
    section = compile_tokenizer(tokenizer_json)
    load_time_s = best_time_s(lambda: Tokenizer(section), arguments.repeats)
    ours, reference = Tokenizer(section), tokenizers.Tokenizer.from_buffer(tokenizer_json)
    whole = arguments.text.read_text(encoding="utf-8")
    print(f"{arguments.tokenizer}: {ours.vocab_size} tokens, loaded in {load_time_s * 1e3:.2f} ms")
    print(
        f"{'bytes':>10} {'tokens':>9} {'pythia_cpu MB/s':>16} {'tokenizers MB/s':>16} {'ratio':>7} {'decode ratio':>13}"
    )
    for length in sorted({100, 1000, 10_000, len(whole)}):
        text = whole[:length]
        ids = reference.encode(text, add_special_tokens=False).ids
        if ours.encode(text) != ids or ours.decode(ids) != reference.decode(ids):
            raise SystemExit(f"the tokenizers differ on the first {length} characters of {arguments.text}")
        calls = max(1, 200_000 // length)

        def times(run: Callable[[], object], calls: int = calls) -> float:
            return best_time_s(lambda: [run() for _ in range(calls)], arguments.repeats) / calls

        encode_s = times(lambda text=text: ours.encode(text))
        reference_s = times(lambda text=text: reference.encode(text, add_special_tokens=False).ids)
        decode_ratio = times(lambda ids=ids: reference.decode(ids)) / times(lambda ids=ids: ours.decode(ids))
        megabytes = len(text.encode()) / 1e6
        rates = f"{megabytes / encode_s:>16.1f} {megabytes / reference_s:>16.2f}"
        print(f"{len(text.encode()):>10} {len(ids):>9} {rates} {reference_s / encode_s:>7.1f} {decode_ratio:>13.1f}")


if __name__ == "__main__":
    main()
