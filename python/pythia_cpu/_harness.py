"""lm-evaluation-harness, where it is missing or cannot be used."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version


def missing_harness(error: BaseException) -> str:
    """Why the harness cannot be imported, and what to do."""
    try:
        found = version("lm_eval")
    except PackageNotFoundError:
        return f"needs lm-evaluation-harness: pip install '{_requirement()}'"
    return (
        f"found lm-evaluation-harness {found}, which cannot be used ({error}); it works with another version: "
        f"pip install '{_requirement()}'"
    )


def _requirement() -> str:
    """What the extra ``eval`` needs, as pip takes it."""
    for line in requires("pythia-cpu") or ():
        if match := re.fullmatch(r"lm_eval(\S+);\s*extra == .eval.", line.replace(" ;", ";")):
            limits = sorted(match[1].split(","), reverse=True)  # the lower one first, which metadata may have last
            return "lm_eval" + ",".join(limits)
    return "lm_eval"
