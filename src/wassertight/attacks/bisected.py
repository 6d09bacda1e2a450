"""APGD with a bisected radius: the fixed-radius attack turned into a minimum-norm one.

Problem, for every correctly classified sample: `min ||z - x||_r subject to argmax f(z) != y, z in the box`.

Every sample has its own bracket of radii. A first walk of growing radii - from 1/32 of the box, or from twice the
linearised distance where there is no box - ends at a flip; then each round runs APGD at
the middle of the bracket, which ends there after a failure and at the flip's own distance after a success.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from wassertight.attacks.apgd import APGD
from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent
from wassertight.attacks.minimum_norm.search import check_steps, farthest, nearest_flips
from wassertight.geometry import conjugate, norm
from wassertight.losses import margin
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel

_BEYOND = 64
"""Without a box: the farthest radius tried, in linearised distances."""


@dataclass(frozen=True, kw_only=True)
class BisectedAPGD(Attack):
    """Smallest radius at which APGD succeeds, sample by sample.

    Args:
        attack: the attack of a round.
        rounds: rounds in all.
    """

    name: ClassVar[str] = "apgd-bisect"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = False

    attack: APGD = field(default_factory=lambda: APGD(targets=9, steps=20))
    rounds: int = 10

    def __post_init__(self) -> None:
        check_steps(self.rounds)

    def find(self, problem: Problem) -> Found:
        """Closest flips."""
        return nearest_flips(problem, self._search)

    def _search(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> int:
        most = farthest(incumbent.x, threat.r, threat.bounds).to(incumbent.distance)
        if threat.bounds is None:
            _, height, g = queries.gradient(incumbent.x, incumbent.y, margin)
            slope = norm(g, conjugate(threat.r)).clamp_min(torch.finfo(g.dtype).tiny)
            most = _BEYOND * (height.abs().to(slope) / slope).clamp_max(1e6)
        low, taken = torch.zeros_like(most), 0
        for index in range(self.rounds):
            far = torch.minimum(most, most * 2.0 ** (index - 5))
            radius = torch.where(incumbent.found, (low + incumbent.distance.nan_to_num(posinf=0)) / 2, far)
            taken += self.attack.within(queries, incumbent, threat, radius, generator)
            low = torch.where(incumbent.distance > radius, torch.maximum(low, radius), low)
        return taken
