"""From the samples to the law they were drawn from, for expected losses: the radius that the empirical law may be off by.

For accuracies the distribution-free statement is `curves.Population`: it costs one or two points whatever the dimension.
For a general loss the classical route is to enlarge the ball: if `W_1(P_n, P) <= e` with probability 1 - eta, whatever is
proved on the ball of radius `delta + e` around P_n holds on the ball of radius `delta` around P. It is honest only with
its price, which `concentration_radius` computes with explicit constants:

On [0, 1]^d with l_inf, divide the cube into 2**(k d) cells of diameter 2**-k for k = 0..K and match mass in the finest
cells first. With `u_k` the mass that cells of level k leave unmatched, `W_1 <= 2**-K + sum over k = 1..K of 2**-k u_k`, and
`E u_k <= min(1, sqrt(2**(k d) c / n) / 2)` for n samples in c classes. One sample moves W_1 by at most 1/n, so (McDiarmid)
`W_1` exceeds its mean by `sqrt(log(1/eta) / (2 n))` with probability at most eta.

Caveats. 1. Labels are fixed in our certificates, so the law meant is the one with the sample's class frequencies and the
true law of every class. 2. The radius falls like n**(-1/d): for images it is the diameter of the box, and the statement is
empty. That is the true rate for general laws, not a weakness of the constants. 3. The samples are independent draws, and
neither training nor selection has seen them.
"""

from __future__ import annotations

import math

from wassertight.types import InputError

_LEVELS = 60


def concentration_radius(
    n: int, dimension: int, *, classes: int = 1, eta: float = 0.05, diameter: float = 1.0
) -> float:
    """A radius e with `W_1(P_n, P) <= e` with probability at least 1 - eta, ground norm l_inf on a cube; labels fixed.

    Args:
        n: samples, independent.
        dimension: coordinates of the input.
        classes: of the labels.
        eta: probability of failure.
        diameter: edge of the cube; radii scale with it.

    Returns:
        At most `diameter`, where the statement is empty.

    Raises:
        InputError: for n, dimension or classes below 1, eta outside (0, 1), or a diameter that is not positive.

    >>> concentration_radius(10_000, 784)
    1.0
    >>> concentration_radius(10_000, 1) < 0.03
    True
    """
    if n < 1 or dimension < 1 or classes < 1 or not 0 < eta < 1 or not diameter > 0:
        raise InputError(
            "n, dimension and classes must be at least 1, eta in (0, 1) and the diameter positive; "
            f"got {n}, {dimension}, {classes}, {eta}, {diameter}"
        )
    best, total = 1.0, 0.0
    for level in range(1, _LEVELS):
        exponent = 0.5 * (level * dimension * math.log(2) + math.log(classes) - math.log(n))
        total += 2.0**-level * (1.0 if exponent > math.log(2) else min(1.0, 0.5 * math.exp(exponent)))
        best = min(best, 2.0**-level + total)
    return diameter * min(1.0, best + math.sqrt(math.log(1 / eta) / (2 * n)))
