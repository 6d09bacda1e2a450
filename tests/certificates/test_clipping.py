"""Intervals of units where a linear bound of the margin is not above zero: they hold there, and are nearly the best."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from wassertight.certificates.propagation.bounds import Bounds
from wassertight.certificates.propagation.clipping import Clip
from wassertight.certificates.propagation.hulls import Offsets, Planes
from wassertight.certificates.propagation.region import Region

UNITS, LEAVES = 6, 4


def _region(inputs: int, dtype: torch.dtype) -> Region:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, inputs, dtype=torch.float64, generator=generator).to(dtype)
    return Region.of(x, torch.tensor([0.1], dtype=dtype), math.inf, (0.0, 1.0))


def _clip(inputs: int, dtype: torch.dtype, most: int = UNITS) -> tuple[Clip, Planes]:
    region, generator = _region(inputs, dtype), torch.Generator().manual_seed(1)
    above, below = (torch.randn(UNITS, inputs, dtype=torch.float64, generator=generator).to(dtype) for _ in range(2))
    offsets = Offsets(region)
    top, bottom = torch.linspace(0, 1, UNITS, dtype=dtype), torch.linspace(-1, 0, UNITS, dtype=dtype)
    planes = Planes(
        units=torch.arange(UNITS), rows=above, top=top, chord=torch.full_like(top, 0.5), below=below, bottom=bottom
    )
    bounds = Bounds(
        lost=torch.zeros(1, dtype=torch.bool), low={3: (bottom - offsets.support(below))[None]},
        high={3: (top + offsets.support(above))[None]}, planes={3: planes},
    )  # fmt: skip
    clip = Clip.of(bounds, {4: 3}, {4: torch.arange(1.0, UNITS + 1)}, most, offsets)
    assert clip is not None
    return clip, planes


def _constraints(clip: Clip, share: Tensor) -> tuple[Tensor, Tensor]:
    """Random rows w and constants of `<w, d> + base`, with so much of their spread above zero."""
    generator = torch.Generator().manual_seed(2)
    w = torch.randn(len(share), clip.rows.shape[2], dtype=torch.float64, generator=generator).to(clip.rows)
    w[-1] = -clip.rows[0, 0]  # one that excludes what raises a unit
    return w, share * clip.offsets.support(w)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("inputs", [5, 300])
def test_intervals_hold_wherever_the_bound_is_not_positive_and_are_nearly_the_best(
    inputs: int, dtype: torch.dtype
) -> None:
    clip, planes = _clip(inputs, dtype)
    share = torch.tensor([0.2, 0.5, 0.8, 0.95], dtype=dtype)
    w, base = _constraints(clip, share)
    low, high = clip.ends(w, base)
    slack = 1e-4 * (clip.high - clip.low)
    assert (low >= clip.low - slack).all()
    assert (high <= clip.high + slack).all()
    reach = clip.offsets.reach.double().numpy()
    gaps = []
    for leaf in range(LEAVES):
        for unit in range(UNITS):
            for sign, row, shift, found in (
                (1, planes.rows[unit], planes.top[unit], high[leaf, unit]),
                (-1, planes.below[unit], planes.bottom[unit], low[leaf, unit]),
            ):
                best = linprog(
                    -sign * row.double().numpy(), A_ub=w[leaf].double().numpy()[None],
                    b_ub=np.array([-float(base[leaf])]), bounds=list(zip(-reach, reach, strict=True)),
                )  # fmt: skip
                exact = -sign * best.fun + float(shift)
                gap = sign * (float(found) - exact)
                assert gap >= -1e-12  # never inside what is possible
                gaps.append(gap / float(clip.offsets.support(row)))
    assert max(gaps) < (0.02 if inputs > 100 else 0.3)
    width = ((high - low) / (clip.high - clip.low)).mean(1)
    assert width[2] < 0.85
    assert width[3] < width[2] < width[1] < 1


def test_the_costliest_units_are_taken_and_nothing_is_made_of_nothing() -> None:
    clip, _ = _clip(5, torch.float64, most=2)
    assert clip.hinges[4].tolist() == [UNITS - 2, UNITS - 1]
    assert clip.split(torch.zeros(3, 7))[4].shape == (3, 2)
    empty = Bounds(lost=torch.zeros(1, dtype=torch.bool))
    assert Clip.of(empty, {4: 3}, {4: torch.ones(UNITS)}, 2, clip.offsets) is None
    planes = _clip(5, torch.float64)[1]
    ends = {3: torch.zeros(1, UNITS, dtype=torch.float64)}
    idle = Bounds(lost=empty.lost, low=ends, high=ends, planes={3: planes})
    assert Clip.of(idle, {4: 3}, {4: torch.zeros(UNITS)}, 2, clip.offsets) is None
