#!/usr/bin/env python3
"""Check what the objects of a build export, and what they take from libm.

Those compiled for one instruction set export their kernel table and nothing else. (Those of other architectures are
empty.) A file compiled with -mavx512f that instantiates an inline function of a shared header (std::vector, std::min,
...) emits it as a weak symbol full of AVX-512 code. The linker keeps one copy of a weak symbol for the whole program,
any copy, so the portable path may then run instructions that the CPU does not have. It has happened to Botan (#5260)
and NumPy (#25274), and no test on a machine that has AVX-512 can see it.

None calls a function of libm whose last bits differ between machines: exp, pow, sin, ... Those that IEEE 754 defines
to the bit are fine: sqrt and fma are rounded correctly; floor, ceil, nearbyint, ldexp, nextafter, fmod, ... are exact.

    tools/check_isa_objects.py BUILD_FOLDER     of a release build, where inline functions are really inlined
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

# Functions that no standard rounds, of real and complex numbers (c...), of any type (...f, ...l), under the names that
# -ffast-math gives them too (__..._finite, and libmvec's vectors).
INEXACT = re.compile(
    r"(?:__|_ZGV[a-z]\w+?_)?(?:c?(?:a?(?:sin|cos|tan)h?|exp(?:2|10|m1)?|log(?:2|10|1p)?|pow|erfc?|[lt]gamma)|c(?:abs|arg|sqrt)"
    r"|atan2|sincos|pow10|powi|cbrt|hypot|gamma|[jy][01n])(?:pi)?(?:[fl]|f\d+x?)?(?:_r)?(?:_finite)?"
)


def export_findings(listing: str) -> list[str]:
    """What is wrong with an instruction set's object, from the lines of `nm --demangle`: "[address] type name"."""
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


def libm_findings(listing: str) -> list[str]:
    """The same for what an object takes from libm."""
    symbols = {line[17:].removeprefix("U ") for line in listing.splitlines() if line[17:].startswith("U ")}
    taken = sorted(symbol for symbol in symbols if INEXACT.fullmatch(symbol))
    return [f"calls libm's {symbol}, whose results differ between machines" for symbol in taken]


def main() -> int:
    """Prints the findings; the exit status is 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, metavar="BUILD_FOLDER")
    build = parser.parse_args().build
    objects = sorted(build.glob("CMakeFiles/*.dir/csrc/**/*.cc.o"))
    if not any(path.name.startswith("isa_") for path in objects):
        print(f"{build}: no objects of csrc/kernels/isa_*.cc here; build first")
        return 1
    failed = False
    for path in objects:
        listing = subprocess.run(["nm", "--demangle", path], capture_output=True, text=True, check=True).stdout
        findings = libm_findings(listing)
        if path.name.startswith("isa_"):
            findings += export_findings(listing)
            fine = "one exported table, no weak symbols" if listing.strip() else "empty"
            print(f"{path.name}: {'; '.join(findings) or fine}")
        elif findings:
            print(f"{path.name}: {'; '.join(findings)}")
        failed = failed or bool(findings)
    if not failed:
        print(f"{len(objects)} objects: nothing of libm that differs between machines")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
