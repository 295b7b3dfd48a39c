"""Few test cases that hold every pair of values of every two parameters."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any


def pairwise(parameters: Mapping[str, Sequence[Any]], *, seed: int = 0) -> list[dict[str, Any]]:
    """Greedy all-pairs cover: each case starts from a pair still missing and takes the values that add most pairs."""
    rng = random.Random(seed)
    names = list(parameters)
    missing = {
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i in range(len(parameters[a]))
        for j in range(len(parameters[b]))
    }

    def gain(case: Mapping[str, int], name: str, index: int) -> int:
        pairs = ((other, case[other], name, index) for other in case)
        return sum(pair in missing or (*pair[2:], *pair[:2]) in missing for pair in pairs)

    cases = []
    while missing:
        a, i, b, j = min(missing)
        case = {a: i, b: j}
        for name in rng.sample(names, len(names)):
            if name not in case:
                choices = rng.sample(range(len(parameters[name])), len(parameters[name]))
                case[name] = max(choices, key=lambda index: gain(case, name, index))
        missing -= {(a, case[a], b, case[b]) for a, b in itertools.combinations(names, 2)}
        cases.append({name: parameters[name][case[name]] for name in names})
    return cases
