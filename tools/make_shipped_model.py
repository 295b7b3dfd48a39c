"""Converts the checkpoint in tests/data to the model that ships in the package. Run it when the file format changes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pythia_cpu

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT, REVISION = ROOT / "tests" / "data" / "mini-pythia", "step1800"
OUTPUT = ROOT / "python" / "pythia_cpu" / "data" / "mini-pythia.pcpu"


def main() -> None:
    """Writes the file and says what it is."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    OUTPUT.parent.mkdir(exist_ok=True)
    report = pythia_cpu.convert(CHECKPOINT, OUTPUT, revision=REVISION)
    print(
        f"{OUTPUT.relative_to(ROOT)}: {report.size_bytes} bytes, {report.weights}, {report.num_parameters} parameters"
    )


if __name__ == "__main__":
    main()
