#!/usr/bin/env python3
"""Run a pythia-cpu binary built with AddressSanitizer and UBSan over sound and damaged input.

Every run must end with the exit status that its input deserves (0, 1 or 2); a report ends it with another.

    tools/check_sanitizers.py BINARY
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pythia_cpu

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "python" / "pythia_cpu" / "data" / "mini-pythia.pcpu"  # f16
CHECKPOINT = ROOT / "tests" / "data" / "mini-pythia" / "step1800"  # that it was made from
REPORT_STATUS = 99
NUM_DAMAGED = 60
OK, ERROR, USAGE = 0, 1, 2

LONG_PROMPT = "It was the best of times, it was the worst of times. " * 25  # keys of two chunks
PROMPTS = "Once upon a time\nÜ 中\n".encode() + LONG_PROMPT.encode() + b"\nOnce upon a day"
BENCH = ("--prompt-tokens", "20", "--decode-tokens", "3", "--score-texts", "2", "--repetitions", "1")
RECORDS = b"""\
{"context": "It was", "continuation": " a dark night."}

{"other": [1, -2.5e3, {"a": null}], "text": "\\u00e9\\ud83d\\ude00 \xc3\xa9\\n"}
"""


def run(binary: Path, status: int, *arguments: str | Path, stdin: bytes = b"", isa: str = "") -> str:
    """Runs the binary; returns what is wrong with the outcome, or an empty string."""
    environment = {
        **os.environ,
        "ASAN_OPTIONS": f"exitcode={REPORT_STATUS}:detect_stack_use_after_return=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": f"exitcode={REPORT_STATUS}:halt_on_error=1:print_stacktrace=1",
        "PYTHIA_CPU_ISA": isa,
    }
    command = [str(binary), *map(str, arguments)]
    result = subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=300, check=False)
    if result.returncode == status:
        return ""
    shown = " ".join(argument if len(argument) < 80 else f"{argument[:60]}..." for argument in command[1:])
    errors = result.stderr.decode(errors="replace")[-4000:]
    return f"pythia-cpu {shown}: status {result.returncode}, expected {status}\n{errors}"


def sound_runs(binary: Path) -> list[str]:
    """Ordinary use, and ordinary mistakes."""
    model = ("-m", MODEL)
    return [
        run(binary, OK, "info", MODEL),
        run(binary, OK, "generate", *model, "-n", "8", "Once upon a time"),
        run(binary, OK, "generate", *model, "-n", "8", "Once upon a time", isa="portable"),
        run(binary, OK, "generate", *model, "-n", "8", "-t", "4", "--temperature", "0.8", "--top-k", "40", "A"),
        run(
            binary,
            OK,
            "generate",
            *model,
            "-n",
            "4",
            "--top-p",
            "0.9",
            "--seed",
            "7",
            "-",
            stdin="Ü 中 \U0001f600".encode(),
        ),
        run(binary, OK, "generate", *model, "-n", "3", "word " * 1500),
        run(binary, OK, "score", *model, "--per-token", "--json", "-", stdin=b"It was a dark and stormy night."),
        run(binary, OK, "score", *model, "--jsonl", "-", stdin=RECORDS),
        run(binary, OK, "score", *model, "--jsonl", "-", stdin=RECORDS, isa="portable"),
        run(binary, OK, "verify", MODEL, isa="portable"),
        run(binary, OK, "tokenize", *model, "-", stdin=PROMPTS),
        run(binary, OK, "bench", *model, *BENCH),
        run(binary, OK, "--help"),
        run(binary, USAGE),
        run(binary, USAGE, "generate", "--no-such-option"),
        run(binary, USAGE, "generate", *model, "--temperature", "warm", "A"),
        run(binary, USAGE, "no-such-command"),
        run(binary, ERROR, "generate", *model, "word " * 3000),
        run(binary, ERROR, "generate", *model, "-", stdin=b"\xff\xfe\x80"),
        run(binary, ERROR, "info", MODEL.parent),
        run(binary, ERROR, "info", MODEL.parent / "missing.pcpu"),
        run(binary, ERROR, "generate", *model, "A", isa="no-such-isa"),
    ]


def quantized_runs(binary: Path, folder: Path) -> list[str]:
    """Every command with q8 and q4 weights. Only the portable kernels are built with sanitizers."""
    findings = []
    for weights in ("q8", "q4"):
        path = folder / f"{weights}.pcpu"
        pythia_cpu.convert(CHECKPOINT, path, weights=weights, progress=False)
        model = ("-m", path)
        batch = ("--batch", "--logprobs", "3", "-n", "5", "-")
        findings += [
            run(binary, OK, "info", path),
            run(binary, OK, "verify", path, isa="portable"),
            run(binary, OK, "generate", *model, "-n", "8", "-t", "2", LONG_PROMPT, isa="portable"),
            run(binary, OK, "generate", *model, *batch, stdin=PROMPTS, isa="portable"),
            run(binary, OK, "generate", *model, "--top-p", "0.9", *batch, stdin=PROMPTS),
            run(binary, OK, "score", *model, "--jsonl", "-", stdin=RECORDS, isa="portable"),
            run(binary, OK, "score", *model, "-c", "70", "-s", "40", "-", stdin=LONG_PROMPT.encode()),
            run(binary, OK, "tokenize", *model, "--json", LONG_PROMPT),
            run(binary, OK, "bench", *model, *BENCH),
            run(binary, ERROR, "generate", *model, *batch, stdin=b"A\n\n"),
        ]
    return findings


def damaged_runs(binary: Path, folder: Path) -> list[str]:
    """Files cut short, with bytes changed, and of another kind; most of them in the header and the tables."""
    sound = MODEL.read_bytes()
    rng = random.Random(0)
    tables = len(sound) - 600_000  # the tokenizer, the metadata and the tensor table are at the end
    damaged = [b"", b"PK\x03\x04", sound[:255], sound[:256], sound[:-1], sound + b"\0", bytes(len(sound))]
    for i in range(NUM_DAMAGED):
        data = bytearray(sound)
        place = rng.randrange(256) if i % 3 else rng.randrange(max(tables, 0), len(sound))
        data[place] ^= 1 << rng.randrange(8)
        damaged.append(bytes(data))
    findings = []
    for data in damaged:
        path = folder / "damaged.pcpu"
        path.write_bytes(data)
        findings.append(run(binary, ERROR, "info", path))
    return findings


def damaged_lines(binary: Path) -> list[str]:
    """JSON lines with bytes changed, left out and put in: an error where they are no JSON any more."""
    rng = random.Random(1)
    findings = []
    for _ in range(NUM_DAMAGED):
        line = bytearray(RECORDS.splitlines()[-1])
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(line))
            line[place : place + rng.randint(0, 2)] = rng.choice([b"", b'"', b"\\", b"[", b"}", b"\\u", b"\xf0", b"\0"])
        try:
            record = json.loads(line)
            sound = isinstance(record, dict) and isinstance(record.get("text"), str)
        except ValueError:
            sound = False
        # What Python reads may be refused, e.g. half a surrogate pair; what it does not read must be.
        finding = run(binary, ERROR, "score", "-m", MODEL, "--jsonl", "-", stdin=bytes(line))
        if finding and sound:
            finding = run(binary, OK, "score", "-m", MODEL, "--jsonl", "-", stdin=bytes(line))
        findings.append(finding)
    return findings


def main() -> int:
    """Prints the findings; the exit status is 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, metavar="BINARY")
    binary = parser.parse_args().binary
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        findings = [*sound_runs(binary), *quantized_runs(binary, scratch)]
        findings += [*damaged_runs(binary, scratch), *damaged_lines(binary)]
    failed = [finding for finding in findings if finding]
    print("\n".join(failed) or f"  {len(findings)} runs, no report")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
