"""Flows of light on the pixel grid: divergence by slicing, edge weights, effective resistances and the constant kappa.

A flow has one signed number per edge of the 4-neighbour grid, `(..., edges)`: first the edges down, row by row, then the
edges to the right. With conductances c_e the weighted grid Laplacian is `L_c = D diag(c) D^T`, D the divergence, and
`R(i, j) = (e_i - e_j)^T L_c^+ (e_i - e_j)` is the effective resistance between two pixels.

For noise `D sqrt(c) sigma g`, g standard normal, everything a certificate needs to know about the grid is
`kappa = min over i != j of d(i, j) / sqrt(R(i, j))` (wasserstein_smoothing.md theorem 2). For ground metrics of order r in
[1, 2] neighbours attain it: R is a metric, so `R(i, j) <= d_1(i, j) R_max`, and `d_1 <= d_2**2` for whole steps.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.types import InputError, ThreatError

ROUNDING = 1e-6
"""Relative slack of kappa: covers float32 factors of the sampled noise and the inversion in float64."""
_EXACT = 2500
"""Pixels up to which resistances come from the full matrix."""
_WINDOW = 28
_POWER, _ROUNDS, _ENOUGH = 1.4, 40, 1e-7


def edge_count(h: int, w: int) -> int:
    """Edges of the 4-neighbour grid.

    >>> edge_count(28, 28)
    1512
    """
    return (h - 1) * w + h * (w - 1)


def apply_flow(x: Float[Tensor, "*images h w"], flow: Float[Tensor, "*flows edges"]) -> Float[Tensor, "*all h w"]:
    """x after the flow: a positive number moves so much light down, or to the right. Mass is kept; flows add up.

    Leading dimensions of both are broadcast.

    >>> apply_flow(torch.tensor([[1.0, 0.0]]), torch.tensor([0.25])).tolist()
    [[0.75, 0.25]]
    """
    h, w = x.shape[-2:]
    down = flow[..., : (h - 1) * w].view(*flow.shape[:-1], h - 1, w)
    right = flow[..., (h - 1) * w :].view(*flow.shape[:-1], h, w - 1)
    out = torch.broadcast_to(x, (*np.broadcast_shapes(x.shape[:-2], flow.shape[:-1]), h, w)).clone()
    out[..., :-1, :] -= down
    out[..., 1:, :] += down
    out[..., :, :-1] -= right
    out[..., :, 1:] += right
    return out


def edge_differences(potential: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch edges"]:
    """Rise of a potential along every edge: the adjoint of the divergence."""
    down = potential[..., 1:, :] - potential[..., :-1, :]
    right = potential[..., :, 1:] - potential[..., :, :-1]
    return torch.cat((down.flatten(-2), right.flatten(-2)), -1)


def edge_ends(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Flat indices of the pixels every edge leaves and enters."""
    index = torch.arange(h * w).view(h, w)
    return (
        torch.cat((index[:-1].flatten(), index[:, :-1].flatten())),
        torch.cat((index[1:].flatten(), index[:, 1:].flatten())),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowGrid:
    """A grid with the edge weights that noise is drawn with, and what they certify; made by `flow_grid`.

    Attributes:
        h, w: rows and columns.
        roots: sqrt(c_e) as sampled, (edges,) float32.
        resistance: upper bound on the effective resistance of every edge, for c = roots**2.
        inverse: L_c^+ (pixels, pixels) float64; None for grids too large for it.
    """

    h: int
    w: int
    roots: Float[Tensor, " edges"] = field(repr=False)
    resistance: float
    inverse: Float[Tensor, "pixels pixels"] | None = field(repr=False)

    def kappa(self, r: float = 2.0) -> float:
        """`min d_r(i, j) / sqrt(R(i, j))` over all pairs of pixels, rounded down."""
        if self.h * self.w == 1:
            return math.inf
        if 1 <= r <= 2:
            return (1 - ROUNDING) / math.sqrt(self.resistance)
        squared, distance = self.pair_resistances(), pair_distances(self.h, self.w, r)
        return (1 - ROUNDING) * float((distance / squared.sqrt()).nan_to_num(math.inf).min())

    def pair_resistances(self) -> Float[Tensor, "pixels pixels"]:
        """R(i, j) of all pairs, float64; zero on the diagonal."""
        if self.inverse is None:
            raise ThreatError(
                f"a {self.h} x {self.w} grid is too large for all pairs of pixels (at most {_EXACT} pixels); take a "
                "ground metric of order r in [1, 2]"
            )
        own = self.inverse.diagonal()
        found = own[:, None] + own[None, :] - 2 * self.inverse
        return found.clamp_min(0).fill_diagonal_(0)


def pair_distances(h: int, w: int, r: float) -> Float[Tensor, "pixels pixels"]:
    """d_r between all pixels in grid steps, float64."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place = torch.stack((rows.flatten(), columns.flatten()), 1).double()
    return torch.cdist(place, place, p=r, compute_mode="donot_use_mm_for_euclid_dist")


@functools.lru_cache(maxsize=16)
def flow_grid(h: int, w: int, weighted: bool = True) -> FlowGrid:
    """The grid of h x w pixels with its noise weights, computed once.

    Weighted: the c that make all edges equally resistant, so that `R_max = (V - 1) / E`, the least that any weights of
    mean 1 can reach (Foster: `sum c_e R_e = V - 1`); a D-optimal design, found by multiplicative updates
    `c_e <- c_e (R_e E / (V - 1))**1.4`, made equal under the grid's own symmetries. R is computed from the float32
    roots that are sampled. Unweighted: c = 1.

    Differs from the paper: 1. noise is Gaussian and its edges are weighted. 2. Above 2500 pixels c = 1 and R_max is that
    of a sub-grid of at most 28 x 28, which is sound by Rayleigh's monotonicity: every edge lies in such a sub-grid, and
    taking edges away only raises resistances.

    >>> grid = flow_grid(8, 8)
    >>> round(grid.kappa(), 4), round(flow_grid(8, 8, weighted=False).kappa(), 4)
    (1.3333, 1.2004)
    """
    if h < 1 or w < 1:
        raise InputError(f"a grid has at least one row and one column, got {h} x {w}")
    if h * w > _EXACT:
        part = flow_grid(min(h, _WINDOW), min(w, _WINDOW), weighted=False)
        return FlowGrid(h=h, w=w, roots=torch.ones(edge_count(h, w)), resistance=part.resistance, inverse=None)
    weights = torch.ones(edge_count(h, w), dtype=torch.float64)
    if weighted and h * w > 1:
        weights = optimal_weights(h, w)
    roots = weights.sqrt().float()
    inverse = laplacian_inverse(h, w, roots.double() ** 2)
    resistance = float(edge_resistances(inverse, h, w).max()) if len(roots) else 0.0
    return FlowGrid(h=h, w=w, roots=roots, resistance=resistance, inverse=inverse)


def optimal_weights(h: int, w: int) -> Float[Tensor, " edges"]:
    """Conductances of mean 1 under which all edges have nearly the same resistance, float64.

    Exactly as symmetric as the grid: those of w x h are those of h x w transposed.
    """
    if h < w:
        tall = optimal_weights(w, h)
        down, right = tall[: (w - 1) * h].view(w - 1, h), tall[(w - 1) * h :].view(w, h - 1)
        return torch.cat((right.T.flatten(), down.T.flatten()))
    edges, best = edge_count(h, w), (h * w - 1) / edge_count(h, w)
    weights = torch.ones(edges, dtype=torch.float64)
    for _ in range(_ROUNDS):
        found = edge_resistances(laplacian_inverse(h, w, weights), h, w)
        if float(found.max()) <= best * (1 + _ENOUGH):
            break
        weights = weights * (found / best) ** _POWER
        weights = symmetric(weights * (edges / weights.sum()), h, w)
    return weights


def symmetric(weights: Float[Tensor, " edges"], h: int, w: int) -> Float[Tensor, " edges"]:
    """The mean over the grid's reflections and, where it is square, its transpose."""
    down, right = weights[: (h - 1) * w].view(h - 1, w), weights[(h - 1) * w :].view(h, w - 1)
    if h == w:
        down = (down + right.T) / 2
    for axis in (0, 1):
        down, right = (down + down.flip(axis)) / 2, (right + right.flip(axis)) / 2
    return torch.cat((down.flatten(), (down.T if h == w else right).flatten()))


def laplacian_inverse(h: int, w: int, weights: Float[Tensor, " edges"]) -> Float[Tensor, "pixels pixels"]:
    """L_c^+ in float64: `inv(L_c + J / V) - J / V`, J all ones."""
    begin, end = edge_ends(h, w)
    pixels = h * w
    matrix = torch.full((pixels, pixels), 1 / pixels, dtype=torch.float64)
    weights = weights.to(torch.float64)
    matrix[begin, end] -= weights
    matrix[end, begin] -= weights
    degree = torch.zeros(pixels, dtype=torch.float64).index_add(0, begin, weights).index_add(0, end, weights)
    matrix.diagonal().add_(degree)
    inverse: Tensor = torch.linalg.inv(matrix)
    return inverse - 1 / pixels


def edge_resistances(inverse: Float[Tensor, "pixels pixels"], h: int, w: int) -> Float[Tensor, " edges"]:
    """R_e of every edge from L_c^+."""
    begin, end = edge_ends(h, w)
    own = inverse.diagonal()
    return own[begin] + own[end] - 2 * inverse[begin, end]
