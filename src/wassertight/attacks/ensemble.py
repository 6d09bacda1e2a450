"""AutoAttack: the `standard` ensemble of APGD-CE, APGD-T, FAB-T and Square, in that order (2003.01690).

Problem, for every correctly classified sample: is there a z with `||z - x||_r <= radius` in the box that is
misclassified? Every attack sees only the samples the earlier ones left standing.

Budget a sample that survives everything, as published: APGD-CE 100 iterations; APGD-T 9 targets of 100; FAB-T 9 targets
of 100; Square 5,000 queries. That is about 8,900 passes.

Differs from the released code: 1. flipped samples leave a run at once; 2. the attacks' own departures (see their
files); 3. with two classes APGD-CE is followed by FAB and Square only, as targeted losses coincide with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from wassertight.attacks.apgd import APGD
from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.incumbent import Incumbent
from wassertight.attacks.minimum_norm.fab import FAB
from wassertight.attacks.minimum_norm.search import nearest_flips
from wassertight.attacks.square import Square
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel
from wassertight.types import InputError

Member = Literal["apgd-ce", "apgd-t", "fab-t", "square"]
STANDARD: tuple[Member, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """The standard ensemble at a fixed radius.

    Args:
        members: attacks in their order, among "apgd-ce", "apgd-t", "fab-t", "square".
        steps: iterations of a gradient-based run.
        targets: classes of the targeted attacks.
        queries: forward passes of Square.
    """

    name: ClassVar[str] = "autoattack"
    separable: ClassVar[bool] = True
    uses_radius: ClassVar[bool] = True
    least_classes: ClassVar[int] = 4

    members: tuple[Member, ...] = STANDARD
    steps: int = 100
    targets: int = 9
    queries: int = 5000

    def __post_init__(self) -> None:
        unknown = [member for member in self.members if member not in STANDARD]
        if unknown or not self.members:
            raise InputError(f"members must be among {', '.join(STANDARD)}; got {list(self.members)}")
        self._searches()

    def _searches(self) -> dict[str, Callable[[ModelQueries, Incumbent, ThreatModel, torch.Generator], int]]:
        return {
            "apgd-ce": APGD(steps=self.steps).search,
            "apgd-t": APGD(steps=self.steps, targets=self.targets).search,
            "fab-t": FAB(steps=self.steps, targets=self.targets).within,
            "square": Square(queries=self.queries).search,
        }

    def find(self, problem: Problem) -> Found:
        """Flips inside the ball, by the first member that finds one."""
        return nearest_flips(problem, self._search)

    def _search(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> int:
        searches = self._searches()
        return sum(searches[member](queries, incumbent, threat, generator) for member in self.members)
