"""Deterministic splitting noise (DSSN): all shifts of one grid are tried; for images of 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.certificates.smoothing.exact import ExactSmoothing
from wassertight.certificates.smoothing.laplace_flow import ROUND_DOWN
from wassertight.transport.flow_noise import light
from wassertight.types import InputError


@dataclass(frozen=True, kw_only=True)
class DeterministicSplittingSmoothing(ExactSmoothing):
    """Certify moved images of 8 bits with exact votes: every pixel is known only by its cell in a shifted grid.

    With spacing q / 255 and shifts t = 0, ..., q - 1, pixel i's grid begins at `((t + v_i) mod q + 1/2) / 255`, v_i fixed random
    whole numbers. A change by one level changes the cell for one shift of q, so n_1 - n_2 votes of lead give the L1 radius
    `(n_1 - n_2) / 510`, and in shares of light `rho = (n_1 - n_2) / (1020 S)`, S the image's light.

    Args:
        levels: q, spacing of the grid in levels of 1/255.
        seed: of the v_i.

    Reference: 2103.10834 section 4. The radius of its code is the same, rounded to whole levels.
    """

    name: ClassVar[str] = "pixel-splitting-exact"
    levels: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 100_000:
            raise InputError(f"levels must be a whole number from 1 to 100000, got {self.levels}")

    def pieces(self, x: Float[Tensor, "c h w"]) -> tuple[Float[Tensor, "k c h w"], Float[Tensor, " k"]]:
        value = (x * 255).round()
        if float((value / 255 - x).abs().max()) > 1e-6:
            raise InputError("deterministic splitting is for images of 8 bits: pixels must be multiples of 1/255")
        generator = torch.Generator().manual_seed(self.seed)
        own = torch.randint(self.levels, x.shape, generator=generator).to(x.device)
        shift = (torch.arange(self.levels, device=x.device).view(-1, 1, 1, 1) + own) % self.levels
        low = shift + 0.5 + self.levels * ((value - shift - 0.5) / self.levels).floor()
        middle = (low.clamp(0, 255) + (low + self.levels).clamp(0, 255)) / 510
        return middle.to(x.dtype), torch.full((self.levels,), 1 / self.levels, dtype=torch.float64, device=x.device)

    def bound(self, lead: Float[Tensor, " n"], x: Tensor, r: float) -> Float[Tensor, " n"]:
        mass = light(x.to(torch.float64)).flatten().to(lead)
        return lead * self.levels / (1020 * mass) * ROUND_DOWN

    def assumptions(self) -> tuple[str, ...]:
        return ("the moved image has 8 bits too: its pixels are multiples of 1/255",)
