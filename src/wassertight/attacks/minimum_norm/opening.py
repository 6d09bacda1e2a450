"""The opening of the boundary search: linearised starts and fallbacks, then cycles of two arms."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.attacks.incumbent import Incumbent, pull_back
from wassertight.attacks.minimum_norm.descent import Arm, arms_for, descend, lean_arm, polish, short_arms
from wassertight.attacks.minimum_norm.starts import donors, linearised_classes, walk_out
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel

_LEAN = 30
"""With fewer iterations left than this, one arm takes them all."""
_SHORT = 60
"""With fewer than this, two arms share them, one after the other (l_inf and l_2)."""


class Opening:
    """One chunk's opening: its incumbent, its remaining passes and its ranked targets.

    Args:
        passes: a sample, the final pull-back and projection included.
        floor: distances that need not be improved, (n,).
    """

    ranked: Tensor
    starts: Tensor
    classes: int

    def __init__(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, passes: int, floor: Float[Tensor, " n"]
    ) -> None:
        self.queries, self.incumbent, self.threat, self.floor = queries, incumbent, threat, floor
        self.budget = queries.passes.total + passes * len(incumbent.x)
        self.steps = 0
        self.pulls, self.polishes = (6, 4) if passes >= (99 if threat.r == 1 else 150) else (4, 1)
        self.far = torch.zeros(len(incumbent.x), dtype=torch.bool, device=incumbent.x.device)

    def remaining(self, samples: int) -> int:
        """Iterations (a forward and a backward pass) left for that many samples, the final ones set aside."""
        n = len(self.incumbent.x)
        final = (self.pulls + 2 * self.polishes + 1) * n
        share = min(1.0, 2 * samples / n)
        return max(0, int(share * (self.budget - self.queries.passes.total - final)) // (2 * max(1, samples)))

    def start(self, targets: int, *, donor_logits: Tensor, donor_x: Tensor) -> None:
        """Linearised starts, then the fallbacks for samples without a flip."""
        self.classes = donor_logits.shape[1]
        everything = torch.arange(len(self.incumbent.x), device=self.incumbent.x.device)
        self.ranked, self.starts = linearised_classes(self.queries, self.incumbent, targets, self.threat)
        self.incumbent.offer(self.starts[:, 0], self.queries.logits(self.starts[:, 0]), everything)
        missing = (~self.incumbent.found).nonzero().squeeze(1)
        if len(missing):
            polish(self.queries, self.incumbent, self.threat, 3, rows=missing, start=self.starts[missing, 0])
            self.far = ~self.incumbent.found
            walk_out(self.queries, self.incumbent, self.threat)
            donors(self.queries, self.incumbent, donor_x, donor_logits)
        pull_back(self.queries, self.incumbent, self.pulls - 1, missing)

    def cycles(self) -> bool:
        """Both arms, then the better one in cycles until the budget is used; True if all samples stagnated."""
        best = self.incumbent
        found = self._open()
        if len(found) == 0:
            return True
        arms = arms_for(best.r)
        steps = self.remaining(len(found))
        if steps < _LEAN:
            for far in (False, True):
                self._descend(found[self.far[found] == far], steps, lean_arm(best.r, far=far))
            return False
        if steps < _SHORT and best.r != 1:
            first, second_arm = short_arms(best.r)
            self._descend(found, steps // 2, first)
            self._descend(found, self.remaining(len(found)), second_arm)
            return False
        length = max(10, steps // 5)
        gains = []
        for arm in arms:
            before = best.distance.clone()
            self._descend(found, min(length, self.remaining(len(found))), arm)
            gains.append(torch.nan_to_num(best.distance / before, nan=1.0))
        second = gains[1] < 1 - 1e-3
        quiet = torch.zeros(len(best.x), dtype=torch.int64, device=best.x.device)
        cycle = 0
        while True:
            rows = self._open(quiet < 3)
            left = self.remaining(len(rows))
            if len(rows) == 0 or left < 4:
                return len(rows) == 0
            before = best.distance.clone()
            cycle += 1
            other = cycle % 3 == 2 and self.ranked.shape[1] > 1
            column = 1 + (cycle // 3) % (self.ranked.shape[1] - 1) if other else None
            if cycle % 3 == 0:
                second = ~second
            steps = min(max(8, length // 2) if other else length, left)
            for index, arm in enumerate(arms):
                self._descend(rows[second[rows] == bool(index)], steps, arm, column)
            quiet = torch.where(best.distance < before * (1 - 1e-4), 0, quiet + 1)

    def _open(self, also: Tensor | None = None) -> Tensor:
        """Samples with a flip that is not known to be near enough."""
        mask = self.incumbent.found & (self.incumbent.distance > self.floor)
        return (mask if also is None else mask & also).nonzero().squeeze(1)

    def _descend(self, rows: Tensor, steps: int, arm: Arm, column: int | None = None) -> None:
        if len(rows) == 0:
            return
        target = None if column is None else self.ranked[rows, column]
        start = None if column is None else self.starts[rows, column]
        descend(self.queries, self.incumbent, self.threat, steps, rows, arm, target=target, start=start)
        self.steps += steps
