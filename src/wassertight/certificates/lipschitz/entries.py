"""Cheap bounds of every entry of a gradient over all masks: linear bounds carried through the masks.

The cotangent g of a layer is known within an interval; `D g` lies under the chord of its range over it. An entry is
a linear form of the masked cotangents of the first layer, so it is carried upward to the logits, where the gradient is
a known vector (1811.00866's backward bounds, on the network that computes the gradient).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wassertight.certificates.lipschitz.network import ReluNetwork
from wassertight.certificates.lipschitz.relaxation import SLACK, Relaxation


def entry_bounds(network: ReluNetwork, c: Tensor, phase: Tensor) -> Tensor:
    """Upper bounds of `|(J_D' c)_i|` over masks that agree with a partial one (units,), for rows c; (rows, inputs)."""
    middle, half = Relaxation(network, 2.0).slopes(phase)
    least, most = torch.split(middle - half.abs(), network.sizes), torch.split(middle + half.abs(), network.sizes)
    ends = [(c, c)]
    for t in range(len(network.sizes) - 1, 0, -1):
        w = network.weights[t]
        upper = _above(network, w.T, ends, least, most, t)
        lower = -_above(network, -w.T, ends, least, most, t)
        ends.insert(0, (lower, upper))
    w = network.weights[0].T
    out = torch.maximum(_above(network, w, ends, least, most, 0), _above(network, -w, ends, least, most, 0))
    return out * (1 + SLACK)


def _above(
    network: ReluNetwork, rows: Tensor, ends: list[tuple[Tensor, Tensor]], least: tuple[Tensor, ...],
    most: tuple[Tensor, ...], layer: int,
) -> Tensor:  # fmt: skip
    """Upper bounds of rows (m, n_layer) @ (D g), g the cotangents of a layer, known in `ends` from that layer on."""
    n = len(ends[0][0])
    a, constant = rows.expand(n, -1, -1), rows.new_zeros(n, len(rows))
    top = len(network.sizes) - 1
    for t in range(layer, top + 1):
        low, high = ends[t - layer]
        up, up_shift = _chord(low, high, least[t], most[t])
        down, down_shift = (-v for v in _chord(low, high, -most[t], -least[t]))
        positive, negative = a.clamp_min(0), a.clamp_max(0)
        constant = constant + (positive @ up_shift[:, :, None] + negative @ down_shift[:, :, None]).squeeze(2)
        a = positive * up[:, None] + negative * down[:, None]
        if t < top:
            a = a @ network.weights[t + 1].T
    return constant + (a @ ends[-1][0][:, :, None]).squeeze(2)


def _chord(low: Tensor, high: Tensor, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and shift of the smallest line above `max(least g, most g)` over [low, high]."""
    bottom, top = torch.maximum(least * low, most * low), torch.maximum(least * high, most * high)
    width = high - low
    slope = torch.where(width > 0, (top - bottom) / torch.where(width > 0, width, 1.0), 0.0)
    return slope, bottom - slope * low
