#!/usr/bin/env python3
"""Fit the polynomials of csrc/kernels/elementwise.inl and print them as C++ constants.

Near-minimax fits by Lawson's iteratively reweighted least squares on a Chebyshev grid, in float64 from 40-digit
references, then rounded to float32. Needs numpy and mpmath. The committed constants came from this script; last digits
differ where numpy's linear algebra adds in another order (OPENBLAS_CORETYPE=Haswell gave those).
"""

import argparse

import mpmath
import numpy as np

mpmath.mp.dps = 40


def fit(function, low, high, degree, weight=None, nodes=400):
    """Coefficients c of sum c[i] t**i closest to function(t) on [low, high], relative to weight(t)."""
    t = (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
    target = np.array([float(function(mpmath.mpf(float(v)))) for v in t])
    scale = np.array([float(weight(mpmath.mpf(float(v)))) if weight else 1.0 for v in t])
    basis = np.vander(t, degree + 1, increasing=True)
    lawson = np.ones(nodes) / nodes
    best, best_error = None, np.inf
    for _ in range(200):
        w = np.sqrt(lawson) * scale
        c, *_ = np.linalg.lstsq(basis * w[:, None], target * w, rcond=None)
        error = np.abs((basis @ c - target) * scale)
        if error.max() < best_error:
            best, best_error = c, error.max()
        lawson *= error + 1e-300
        lawson /= lawson.sum()
    return best, best_error


def show(name, coefficients, error):
    """Print one C++ array, lowest power first, with the fit's own weighted error."""
    values = ", ".join(np.format_float_scientific(np.float32(c), unique=True) + "f" for c in coefficients)
    print(f"// weighted error of the fit {error:.2g}\ninline constexpr float {name}[] = {{{values}}};")


def main():
    """Print every polynomial."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    half_ln2 = float(mpmath.log(2) / 2) * 1.0005
    # exp(r) = 1 + r + r^2 P(r)
    show(
        "kExp",
        *fit(
            lambda r: (mpmath.expm1(r) - r) / r**2 if r else mpmath.mpf(1) / 2, -half_ln2, half_ln2, 5, lambda r: r * r
        ),
    )
    # erfc(t / sqrt 2) = 2^(-t P(t)), t < kErfcEnd; the floor keeps the fit close where erfc is not small
    root2 = mpmath.sqrt(2)
    show(
        "kErfc",
        *fit(
            lambda t: -mpmath.log(mpmath.erfc(t / root2), 2) / t if t else mpmath.sqrt(2 / mpmath.pi) / mpmath.log(2),
            0.0,
            13.2,
            9,
            lambda t: t * (mpmath.erfc(t / root2) + 1e-9),
        ),
    )
    # tanh(x) = x + x^3 P(x^2), |x| < 0.625
    show(
        "kTanh", *fit(lambda s: (mpmath.tanh(mpmath.sqrt(s)) / mpmath.sqrt(s) - 1) / s, 1e-12, 0.625**2, 4, lambda s: s)
    )
    # 2^f = 1 + f P(f), |f| <= 1/2
    show(
        "kExp2",
        *fit(
            lambda f: (mpmath.mpf(2) ** f - 1) / f if f else mpmath.log(2),
            -0.5,
            0.5,
            4,
            lambda f: abs(f) / mpmath.mpf(2) ** f,
        ),
    )
    # log(1 + f) = f - f^2/2 + f^3 P(f)
    low, high = float(mpmath.sqrt(0.5)) - 1, float(mpmath.sqrt(2)) - 1
    show(
        "kLog",
        *fit(
            lambda f: (mpmath.log1p(f) - f + f * f / 2) / f**3 if abs(f) > 1e-9 else mpmath.mpf(1) / 3,
            low,
            high,
            8,
            lambda f: f**3 / mpmath.log1p(f),
        ),
    )


if __name__ == "__main__":
    main()
