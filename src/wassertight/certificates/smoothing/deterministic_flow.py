"""Deterministic smoothing for moving light: block sums of several sizes, rounded to a grid that one number shifts."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from wassertight.certificates.smoothing.exact import ExactSmoothing
from wassertight.certificates.smoothing.laplace_flow import ROUND_DOWN
from wassertight.transport.flows import pair_distances
from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class DeterministicFlowSmoothing(ExactSmoothing):
    """Certify against moving light with exact votes: no sampling, no confidence level.

    Problem: features phi_k are sums of shares of light over blocks of 1, 2 x 2, 4 x 4, ... pixels. With one number t,
    uniform in [0, 1), the model sees only the cells `floor(phi_k / period - t)`. A move m changes cell k with probability
    at most |phi_k m| / period, so all of them together by at most B W, B the largest of
    `sum_k |phi_k(i) - phi_k(j)| / (period d(i, j))` over pairs of pixels, and

        rho = (v - v_B) / (2 B).

    Cells change at the fractional parts of phi_k / period only: at most one model call more than there are features.

    Args:
        period: grid spacing, in shares of light.
        levels: block sizes 1, 2, ..., 2**(levels - 1); 1 is the pixel baseline.

    Reference: ours (wasserstein_smoothing.md 5), after 2103.10834. The model sees the cells put together to an image again:
    pixels, corrected from small blocks to large ones by what their cells say.
    """

    name: ClassVar[str] = "deterministic-flow"
    period: float = 0.1
    levels: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.period < float("inf"):
            raise InputError(f"period must be a finite number > 0, got {self.period}")
        if not 1 <= self.levels <= 16:
            raise InputError(f"levels must be a whole number from 1 to 16, got {self.levels}")

    def pieces(self, x: Float[Tensor, "c h w"]) -> tuple[Float[Tensor, "k c h w"], Float[Tensor, " k"]]:
        mass = x.to(torch.float64).sum().clamp_min(torch.finfo(torch.float64).tiny)
        features = [block_sums((x.to(torch.float64) / mass)[None], level) / self.period for level in range(self.levels)]
        parts = torch.cat([(feature - feature.floor()).flatten() for feature in features])
        cuts: Tensor = torch.unique(torch.cat((parts.new_zeros(1), parts, parts.new_ones(1))))
        t = ((cuts[:-1] + cuts[1:]) / 2).view(-1, 1, 1, 1)
        cells = [feature.floor() - (t > feature - feature.floor()).to(torch.float64) for feature in features]
        return (mass * self.together(cells)).to(x.dtype), cuts.diff()

    def together(self, cells: list[Float[Tensor, "k c _ _"]]) -> Float[Tensor, "k c h w"]:
        """An image with about these block sums: t is unknown, so cell j means a sum of (j + 1) period on average."""
        h, w = cells[0].shape[-2:]
        image = (cells[0] + 1) * self.period
        for level, cell in enumerate(cells[1:], start=1):
            pixels = 4.0**level
            gain = pixels / (pixels + 1)
            missing = (cell + 1) * self.period - block_sums(image, level)
            image = image + interpolate(missing * (gain / pixels), scale_factor=2**level, mode="nearest")[..., :h, :w]
        return image

    def bound(self, lead: Float[Tensor, " n"], x: Tensor, r: float) -> Float[Tensor, " n"]:
        return lead * (ROUND_DOWN / (2 * change_rate(x.shape[-2], x.shape[-1], self.levels, r) / self.period))

    def assumptions(self) -> tuple[str, ...]:
        return ("the model sees nothing of an image but the cells of its block sums, decided in float64",)


def block_sums(x: Float[Tensor, "*n c h w"], level: int) -> Float[Tensor, "*n c a b"]:
    """Sums over blocks of 2**level x 2**level pixels; the last ones may be cut off by the border."""
    size = 2**level
    h, w = x.shape[-2:]
    sums: Tensor = avg_pool2d(pad(x, (0, -w % size, 0, -h % size)), size) * size**2
    return sums


@functools.lru_cache(maxsize=16)
def change_rate(h: int, w: int, levels: int, r: float) -> float:
    """B for period 1: most block sums that a step can change, per unit of distance, over all pairs of pixels."""
    if h * w == 1:
        return 0.0
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    changed = torch.zeros(h * w, h * w, dtype=torch.float64)
    for level in range(levels):
        block = ((rows >> level) * w + (columns >> level)).flatten()
        changed += 2.0 * (block[:, None] != block[None, :])
    return float((changed / pair_distances(h, w, r)).nan_to_num(0.0).max())
