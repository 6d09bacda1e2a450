"""Ranges of slopes, and lines around them, against derivatives by automatic differentiation on dense points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wassertight.certificates.lipschitz.derivatives import slope_range, steepest
from wassertight.certificates.lipschitz.linked import slope_lines
from wassertight.certificates.propagation import activations as act
from wassertight.certificates.propagation import smooth

POSITIVE = [smooth.square_root(), smooth.reciprocal_root(), smooth.logarithm(), smooth.reciprocal()]
EVERYWHERE = [
    smooth.sigmoid(), smooth.tanh(), smooth.erf(), smooth.gelu(), smooth.gelu("tanh"), smooth.silu(), smooth.silu(1.702),
    smooth.mish(), smooth.hard_swish(), smooth.softplus(), smooth.elu(), smooth.elu(1.7), smooth.exponential(),
    smooth.square(), act.relu(), act.leaky_relu(0.2), act.absolute(), act.clamp(), act.hard_sigmoid(),
]  # fmt: skip


def _intervals(positive: bool) -> tuple[Tensor, Tensor]:
    centre = torch.randn(1500, dtype=torch.float64) * 2
    width = torch.rand(1500, dtype=torch.float64) ** 3 * 5
    low = centre.abs() + 0.05 if positive else centre - width
    return low, low + 2 * width


def _derivatives(activation: act.Activation, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    z = (low + (high - low) * torch.linspace(0, 1, 501, dtype=torch.float64)[:, None]).requires_grad_()
    return z.detach(), torch.autograd.grad(activation.apply(z).sum(), z)[0]


@pytest.mark.parametrize("activation", EVERYWHERE + POSITIVE, ids=lambda a: a.name)
def test_ranges_hold_and_are_tight(activation: act.Activation) -> None:
    low, high = _intervals(activation in POSITIVE)
    least, most = slope_range(activation, low, high)
    _, found = _derivatives(activation, low, high)
    assert (found >= least - 1e-8).all()
    assert (found <= most + 1e-8).all()
    apart = (high - low) / 500 * 3 + 1e-8  # what lies between two points
    if activation.name not in ("hard_swish", "elu"):  # their kinks add slopes no point shows
        assert (found.amin(0) - least <= apart * 500).all()
        assert float((found.amin(0) - least).median()) < 1e-6
        assert float((most - found.amax(0)).median()) < 1e-6


@pytest.mark.parametrize("activation", EVERYWHERE + POSITIVE, ids=lambda a: a.name)
def test_lines_enclose_the_derivative(activation: act.Activation) -> None:
    low, high = _intervals(activation in POSITIVE)
    lines = slope_lines(activation, low, high)
    if lines is None:
        return
    z, found = _derivatives(activation, low, high)
    assert (lines.lower_slope * z + lines.lower_shift <= found + 1e-12).all()
    assert (found <= lines.upper_slope * z + lines.upper_shift + 1e-12).all()
    narrow = high - low < 0.1
    gap = ((lines.upper_slope - lines.lower_slope) * low + lines.upper_shift - lines.lower_shift)[narrow]
    assert float(gap.median()) < 1e-2


def test_steepest_slopes_of_the_line() -> None:
    known = {smooth.gelu(): 1.12890, smooth.gelu("tanh"): 1.12899, smooth.silu(): 1.09984, smooth.tanh(): 1.0}
    like = torch.zeros(1, dtype=torch.float64)
    for activation, slope in known.items():
        assert float(steepest(activation, like)) == pytest.approx(slope, abs=6e-6)
    assert float(steepest(smooth.square(), like)) == float(steepest(smooth.square_root(), like)) == float("inf")


def test_a_kink_at_an_end_counts_both_sides() -> None:
    least, most = slope_range(act.relu(), torch.tensor([0.0, -1.0]), torch.tensor([1.0, 0.0]))
    assert least.tolist() == [0.0, 0.0]
    assert most.tolist() == [1.0, 1.0]


def test_undefined_slopes_are_infinite() -> None:
    least, most = slope_range(smooth.reciprocal(), torch.tensor([-1.0]), torch.tensor([1.0]))
    assert float(least) == -float("inf")
    assert float(most) == float("inf")
