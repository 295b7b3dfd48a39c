#!/usr/bin/env python3
"""Fit the sixteen levels of q4 (csrc/quant/q4_levels.h) to weights and print them.

Lloyd's algorithm on groups of 32 weights, each with the best scale of either sign. Needs numpy and safetensors:

    tools/fit_codebook.py tests/data/mini-pythia/step1800/model.safetensors
"""

import argparse

import numpy as np
from safetensors.numpy import load_file

GROUP = 32
LARGEST = 127.0
DIVISORS = np.arange(90.0, 150.0, 5.0)
# Denser around zero, and lopsided, so that a scale of either sign has something to choose.
POSITIONS = np.linspace(-1.0, 0.9, 16)
START = LARGEST * np.sign(POSITIONS) * np.abs(POSITIONS) ** 1.15


def assign(groups: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best scale [n] and codes [n, 32] of each group, and their squared errors [n]."""
    largest = np.abs(groups).max(1)
    best = np.full(len(groups), np.inf)
    scales, codes = np.ones(len(groups)), np.zeros(groups.shape, int)
    borders = (levels[1:] + levels[:-1]) / 2
    for divisor in np.concatenate([DIVISORS, -DIVISORS]):
        trial = np.searchsorted(borders, groups * (divisor / largest)[:, None])
        values = levels[trial]
        scale = (groups * values).sum(1) / (values * values).sum(1)
        error = ((groups - scale[:, None] * values) ** 2).sum(1)
        better = error < best
        best[better], scales[better], codes[better] = error[better], scale[better], trial[better]
    return scales, codes, best


def fit(groups: np.ndarray, rounds: int = 40) -> np.ndarray:
    """Levels [16], the largest at -127 or 127, with the least squared error over the groups."""
    levels = START
    for _ in range(rounds):
        scales, codes, _ = assign(groups, levels)
        weight = np.bincount(codes.ravel(), np.repeat(scales**2, GROUP), 16)
        total = np.bincount(codes.ravel(), (groups * scales[:, None]).ravel(), 16)
        levels = np.sort(total / np.maximum(weight, 1e-12))
        levels *= LARGEST / np.abs(levels).max()
    return levels


def main() -> None:
    """Fit to the matrices of a checkpoint's layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", metavar="SAFETENSORS")
    tensors = load_file(parser.parse_args().weights)
    matrices = [t.astype(float) for name, t in sorted(tensors.items()) if t.ndim == 2 and ".layers." in name]
    groups = np.concatenate([m.reshape(-1, GROUP) for m in matrices])
    groups = groups[np.abs(groups).max(1) > 0]
    groups = groups[np.random.default_rng(0).permutation(len(groups))[:20000]] / np.std(groups)
    levels = np.round(fit(groups))
    relative = assign(groups, levels)[2].sum() / (groups**2).sum()
    print(levels.astype(int).tolist(), f"relative squared error {relative:.5f}")


if __name__ == "__main__":
    main()
