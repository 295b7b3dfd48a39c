#!/usr/bin/env python3
"""Check that the objects compiled for one instruction set export their kernel table and nothing else.

Those of other architectures are empty.

A file compiled with -mavx512f that instantiates an inline function of a shared header (std::vector, std::min, ...)
emits it as a weak symbol full of AVX-512 code. The linker keeps one copy of a weak symbol for the whole program, any
copy, so the portable path may then run instructions that the CPU does not have. It has happened to Botan (#5260) and
NumPy (#25274), and no test on a machine that has AVX-512 can see it.

    tools/check_isa_objects.py BUILD_FOLDER     of a release build, where inline functions are really inlined
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def findings_of(listing: str) -> list[str]:
    """What is wrong with an object, from the lines of `nm --demangle`: "[address] type name"."""
    findings, exported = [], []
    for line in listing.splitlines():
        kind, _, name = line[17:].partition(" ")
        if kind in "WwVvu":
            findings.append(f"weak symbol {name}, which the linker may give to code for any CPU")
        elif kind.isupper() and kind != "U":
            exported.append(name)
    if len(exported) > 1:
        findings.append(f"exports {', '.join(exported)}; expected one symbol, the kernel table")
    return findings


def main() -> int:
    """Prints the findings; the exit status is 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, metavar="BUILD_FOLDER")
    build = parser.parse_args().build
    objects = sorted(build.glob("CMakeFiles/pythia_core.dir/csrc/kernels/isa_*.cc.o"))
    if not objects:
        print(f"{build}: no objects of csrc/kernels/isa_*.cc here; build first")
        return 1
    failed = False
    for path in objects:
        listing = subprocess.run(["nm", "--demangle", path], capture_output=True, text=True, check=True).stdout
        findings = findings_of(listing)
        fine = "one exported table, no weak symbols" if listing.strip() else "empty"
        print(f"{path.name}: {'; '.join(findings) or fine}")
        failed = failed or bool(findings)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
