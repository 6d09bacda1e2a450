"""Divergences to be tested and the definition of their moment, for tests of every floor."""

from __future__ import annotations

import numpy as np

from wassertight.transport import KL, AlphaDivergence, Renyi
from wassertight.transport.weighting import Divergence

ALL: list[Divergence] = [
    KL, AlphaDivergence(order=0.0), AlphaDivergence(order=0.5), AlphaDivergence(order=2.0), AlphaDivergence(order=3.0),
    AlphaDivergence(order=6.0), AlphaDivergence(order=-1.5), Renyi(order=0.3), Renyi(order=1.0), Renyi(order=1.25),
    Renyi(order=2.95),
]  # fmt: skip


def name(divergence: Divergence) -> str:
    return divergence.name


def definition(w: np.ndarray, a: float) -> float:
    """D_a from its definition, written so that small changes lose no digits."""
    u = w - 1
    log = np.where(np.abs(u) < 0.5, np.log1p(np.clip(u, -0.5, 1e9)), np.log(np.maximum(w, 1e-300)))
    if a == 1:
        return float(np.mean(np.where(w > 0, w * log, 0) - u))
    if a == 0:
        return float(np.mean(u - log))
    return float(np.mean((np.expm1(a * log) - a * u) / (a * (a - 1))))
