"""How far a budget reaches in an image: no pixel can give more light than it has, which caps a flow's energy.

For a move m of W_1 cost at most W, `|m|_c**2 = <L_c^+ m, m> <= W Lip(L_c^+ m)`, and the difference of L_c^+ m between two
neighbours is itself linear in the plan. Weak duality over plans that take from pixel i no more than its share xbar_i gives,
for every price lam >= 0 (wasserstein_smoothing.md 4.2),

    |<f, m>| <= lam W + u_lam,   u_lam = sum_i xbar_i max_j (f(j) - f(i) - lam d(i, j)),   f = L_c^+ (e_b - e_a),

the largest over pairs (a, b) of neighbours, both signs and all channels. Tables hold one pair of every class under the
grid's reflections; the other pairs are the same table applied to the reflected image.
"""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.transport.flows import FlowGrid, flow_grid

_PRICES = 16
_CHEAPEST = 0.06
_ROUND_UP = 1 + 1e-6
_ROUNDING = 3e-7
"""Absolute slack of u_lam, for tables in float32."""
_WINDOW = 6
_FLIPS = ((), (-2,), (-1,), (-2, -1))
_BISECTIONS = 60


def limited_radius(
    x: Float[Tensor, "n c h w"], shift: Float[Tensor, " n"], grid: FlowGrid, r: float
) -> Float[Tensor, " n"]:
    """The largest W such that no move of W_1 cost below W (ground metric of order r in [1, 2]) has |m|_c >= shift.

    Args:
        x: images with pixels >= 0.
        shift: largest norm allowed, sigma times the normal quantile of the vote bound, >= 0.

    Returns:
        radii (n,) float64, rounded down; at least `shift / sqrt(R_max)`, with equality where one pixel has it all.
    """
    shares = x.detach().to("cpu", torch.float64)
    shares = shares / shares.sum((1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    goal, prices = shift.detach().to("cpu", torch.float64), price_grid(grid)
    weighted = bool((grid.roots != 1).any())
    near = excess(shares, grid.h, grid.w, weighted, euclid=r > 1)
    if r == 1:
        root = (near**2 + 4 * prices * goal[:, None] ** 2).sqrt()
        found = ((root - near) / (2 * prices)).amax(1)
    else:
        found = _bisect(near, diagonal_excess(shares, grid.h, grid.w, weighted), prices, goal)
    return (found / _ROUND_UP).to(shift)


def price_grid(grid: FlowGrid) -> Float[Tensor, " prices"]:
    """Geometric grid of prices up to R_max, where the limits say nothing; any grid is sound."""
    steps = torch.linspace(math.log(_CHEAPEST), 0.0, _PRICES, dtype=torch.float64).exp()
    return steps * grid.resistance * _ROUND_UP


def excess(
    shares: Float[Tensor, "n c h w"], h: int, w: int, weighted: bool, *, euclid: bool
) -> Float[Tensor, "n prices"]:
    """u_lam of every image over all edges."""
    down = _over(shares, edge_table(h, w, weighted, euclid))
    return torch.maximum(down, _over(shares.mT, edge_table(w, h, weighted, euclid)))


def diagonal_excess(shares: Float[Tensor, "n c h w"], h: int, w: int, weighted: bool) -> Float[Tensor, "n prices"]:
    """u_lam of every image over all pairs of diagonal neighbours, Euclidean costs."""
    return _over(shares, diagonal_table(h, w, weighted))


def _over(shares: Tensor, table: Float[Tensor, "prices pairs pixels"]) -> Float[Tensor, "n prices"]:
    """Largest of sum_i xbar_i T[pair, i] over pairs, channels and reflections."""
    n, c = shares.shape[:2]
    images = torch.stack([shares.flip(axes) for axes in _FLIPS]).flatten(-2).flatten(0, 2)
    if table.shape[1] == 0:
        return shares.new_zeros(n, len(table))
    found = [(images @ part.double().T).amax(1).view(len(_FLIPS), n, c).amax((0, 2)) for part in table]
    return torch.stack(found, 1) * _ROUND_UP + _ROUNDING


@functools.lru_cache(maxsize=8)
def edge_table(h: int, w: int, weighted: bool, euclid: bool) -> Float[Tensor, "prices pairs pixels"]:
    """T_lam of the edges down in the grid's upper left quarter, both signs."""
    rows, columns = torch.meshgrid(torch.arange(h // 2), torch.arange((w + 1) // 2), indexing="ij")
    begin = (rows * w + columns).flatten()
    return _table(flow_grid(h, w, weighted), begin, begin + w, euclid)


@functools.lru_cache(maxsize=8)
def diagonal_table(h: int, w: int, weighted: bool) -> Float[Tensor, "prices pairs pixels"]:
    """T_lam of the falling diagonals in the grid's upper half, both signs; the rest are their reflections."""
    rows, columns = torch.meshgrid(torch.arange(h // 2), torch.arange(max(w - 1, 0)), indexing="ij")
    begin = (rows * w + columns).flatten()
    return _table(flow_grid(h, w, weighted), begin, begin + w + 1, True)


def _table(grid: FlowGrid, begin: Tensor, end: Tensor, euclid: bool) -> Float[Tensor, "prices pairs pixels"]:
    assert grid.inverse is not None
    f = (grid.inverse[end] - grid.inverse[begin]).float().view(-1, grid.h, grid.w)
    f = torch.cat((f, -f))
    prices = price_grid(grid)
    rise = _euclid_rise(f, prices) if euclid else torch.stack([_manhattan_rise(f, float(lam)) for lam in prices])
    return (rise - f).clamp_min(0).flatten(-2)


def _manhattan_rise(f: Float[Tensor, "pairs h w"], lam: float) -> Float[Tensor, "pairs h w"]:
    """max over j of f(j) - lam d_1(i, j): a cone splits into rows and columns, each swept both ways."""
    for axis in (-1, -2):
        slope = lam * torch.arange(f.shape[axis], dtype=f.dtype).view(-1, *(1,) * (-1 - axis))
        before = (f + slope).cummax(axis).values - slope
        after = (f - slope).flip(axis).cummax(axis).values.flip(axis) + slope
        f = torch.maximum(before, after)
    return f


def _euclid_rise(f: Float[Tensor, "pairs h w"], prices: Tensor) -> Float[Tensor, "prices pairs h w"]:
    """Upper bound on max over j of f(j) - lam d_2(i, j): exact in a window, the overall maximum beyond it."""
    h, w = f.shape[-2:]
    best: dict[int, Tensor] = {}
    for a in range(-min(_WINDOW, h - 1), min(_WINDOW, h - 1) + 1):
        for b in range(-min(_WINDOW, w - 1), min(_WINDOW, w - 1) + 1):
            to = (..., slice(max(-a, 0), h - max(a, 0)), slice(max(-b, 0), w - max(b, 0)))
            source = (..., slice(max(a, 0), h - max(-a, 0)), slice(max(b, 0), w - max(-b, 0)))
            layer = best.setdefault(a * a + b * b, torch.full_like(f, -math.inf))
            layer[to] = torch.maximum(layer[to], f[source])
    top = f.amax((-1, -2), keepdim=True)
    rises = []
    for lam in prices.tolist():
        rise = (top - lam * (_WINDOW + 1)).expand_as(f)
        for squared, layer in best.items():
            rise = torch.maximum(rise, layer - lam * math.sqrt(squared))
        rises.append(rise)
    return torch.stack(rises)


def _bisect(near: Tensor, diagonal: Tensor, prices: Tensor, goal: Tensor) -> Float[Tensor, " n"]:
    """Largest W with `W sqrt(K1**2 + (K2 - K1)**2) <= goal**2`, K(W) = min over lam of lam W + u_lam, increasing in W."""
    low, high = torch.zeros_like(goal), 1.01 * goal / prices.min().sqrt()
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        first = (prices * middle[:, None] + near).amin(1)
        second = torch.minimum((prices * middle[:, None] + diagonal).amin(1).clamp_min(first), 2 * first)
        fits = middle * (first**2 + (second - first) ** 2).sqrt() <= goal**2
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return low
