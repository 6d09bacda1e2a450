"""How far light has to move before an image is misclassified: Frank-Wolfe at a bisected radius of every image.

Problem, for every correctly classified image: `min W_p(x, z) subject to argmax f(z) != y, 0 <= z <= cap`.

Every image has its own bracket. Radii grow by doubling until the first flip; then each round attacks the middle of the bracket.
A flip is shortened along the segment to its image (at p = 1 the distance falls in proportion, so that a short bisection
ends at the smallest flip of the segment). What is reported is the exact distance, on the full grid, of the flip whose
plan was cheapest. These distances are the knapsack's prices: an average budget (`W1-image-W1@0.1`) is spent on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.image.climbing import Flips, image_flips, light, shrink_to_flip
from wassertight.attacks.image.frank_wolfe import FrankWolfe
from wassertight.queries import ModelQueries
from wassertight.threats import ImageWasserstein
from wassertight.types import InputError

_HALVINGS = 10


@dataclass(frozen=True, kw_only=True)
class TransportDistance(Attack):
    """Smallest radius at which Frank-Wolfe succeeds, image by image.

    Args:
        attack: the attack of a round.
        rounds: rounds in all, those of the doubling included.
        first: the first radius tried.

    >>> from wassertight.threats import ImageWasserstein
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> _ = model[1].load_state_dict({"weight": torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])})
    >>> x, y = torch.tensor([[[[0.0, 1.0, 0.0, 0.0]]]]), torch.tensor([0])
    >>> round(float(TransportDistance(attack=FrankWolfe(steps=5))(model, x, y, ImageWasserstein(radius=0.35)).distances.values), 2)
    0.33
    """

    name: ClassVar[str] = "frank-wolfe-distance"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = False

    attack: FrankWolfe = field(default_factory=lambda: FrankWolfe(steps=40, overdraw=1.0))
    rounds: int = 12
    first: float = 0.05

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.first > 0:
            raise InputError(f"rounds must be >= 1 and first > 0, got {self.rounds} and {self.first}")

    def find(self, problem: Problem) -> Found:
        """Nearest flips."""
        return image_flips(problem, self._search, self.attack.goal)

    def _search(self, queries: ModelQueries, flips: Flips, threat: ImageWasserstein, generator: torch.Generator) -> int:
        low = torch.zeros_like(light(flips.x))
        reach = 2.0 * (threat.window // 2)
        taken = 0
        for index in range(self.rounds):
            known = flips.found
            radius = torch.where(known, (low + flips.spent.nan_to_num(posinf=0)) / 2, self.first * 2.0**index)
            radius = radius.clamp_max(reach)
            round_ = Flips(flips.x, flips.y, flips.jitter, flips.goal)
            taken += self.attack.within(queries, round_, threat, radius, generator)
            hit = round_.found
            shrink_to_flip(queries, round_, _HALVINGS, hit.nonzero().squeeze(1), threat.p)
            better = round_.spent < flips.spent
            flips.points[better], flips.spent[better] = round_.points[better], round_.spent[better]
            flips.stuck = round_.stuck
            low = torch.where(hit, low, torch.maximum(low, radius))
        return taken
