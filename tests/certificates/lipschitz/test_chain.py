"""The chain of slopes around the exact worst case for p = 1, on networks of one input where everything can be seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from wassertight.certificates.lipschitz.constants import lipschitz_constants
from wassertight.certificates.lipschitz.slope import losses


def _grid(model: nn.Sequential, x: np.ndarray) -> np.ndarray:
    """The samples, points far away, and everything between, finest where the slope changes."""
    coarse = np.unique(np.r_[np.linspace(-60, 60, 20_001), np.logspace(1.7, 4, 300), -np.logspace(1.7, 4, 300)])
    with torch.no_grad():
        f = model(torch.from_numpy(coarse)[:, None]).numpy()
    slope = np.diff(f, axis=0) / np.diff(coarse)[:, None]
    order = np.argsort(f[:, :], axis=1)
    bent = np.flatnonzero((np.abs(np.diff(slope, axis=0)) > 1e-9).any(1) | (order[1:-1] != order[2:]).any(1))
    near = [np.linspace(coarse[k], coarse[min(k + 2, len(coarse) - 1)], 400) for k in bent]
    return np.unique(np.concatenate([coarse, x, *near]))


def _excess(
    grid: np.ndarray, value: np.ndarray, x: np.ndarray, base: np.ndarray, delta: float, slopes: np.ndarray
) -> float:
    """The one-dimensional dual, over multipliers at least the slope at infinity."""
    best = math.inf
    for lam in slopes:
        inner = [float((value[i] - lam * np.abs(grid - x[i])).max()) for i in range(len(x))]
        best = min(best, lam * delta + float(np.mean(inner)) - float(base.mean()))
    return best


@pytest.mark.parametrize(("seed", "loss"), [(1, "margin"), (4, "margin"), (2, "cross-entropy"), (4, "cross-entropy")])
def test_excess_lies_in_the_chain(seed: int, loss: str) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double().eval()
    x, y = torch.randn(5, 1).double(), torch.tensor([0, 1, 2, 0, 1])
    small, lam, rise, top = lipschitz_constants(model, x, y, norm=2, bounds=None, loss=loss, seconds=20)
    assert [b.name for b in (small, lam, rise, top)] == ["l", "Lambda", "Lip_N", "L"]
    assert small.lower <= lam.upper
    assert lam.lower <= rise.lower * (1 + 1e-9)
    assert rise.lower <= top.upper
    grid = _grid(model, x.squeeze(1).numpy())
    with torch.no_grad():
        logits = model(torch.from_numpy(grid)[:, None])
        value = np.stack([losses(loss, logits, y[i].expand(len(grid)))[:, 0].numpy() for i in range(len(x))])
        base = losses(loss, model(x), y)[:, 0].numpy()
    flat = x.squeeze(1).numpy()
    slope = (value - base[:, None]) / np.maximum(np.abs(grid - flat[:, None]), 1e-3)
    steepest = float(slope.max())
    assert steepest <= rise.upper * (1 + 1e-9)
    assert rise.lower >= steepest * (1 - 1e-2) - 1e-3
    last = math.inf
    for delta in (0.03, 0.3, 3.0):
        excess = _excess(grid, value, flat, base, delta, np.linspace(lam.upper, top.upper, 60)) / delta
        assert lam.lower <= excess * (1 + 1e-3) + 1e-9
        assert excess <= rise.upper * (1 + 1e-6) + 1e-9
        assert excess <= last * (1 + 1e-3) + 1e-9
        last = excess


def test_a_box_has_no_slope_at_infinity() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).double().eval()
    names = [b.name for b in lipschitz_constants(model, torch.rand(3, 2).double(), torch.tensor([0, 1, 2]), norm=1)]
    assert names == ["Lip_N", "L"]
