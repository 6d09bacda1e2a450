"""How a large pass budget is spent: four ways to look for a nearer flip, used the more the more they bring.

* restart: climbs from random points of the ball just inside the incumbent, each towards one likely class
  (many local optima: small fully connected networks);
* come in: from noise and a far walk, a ball that shrinks towards the sample (masked gradients, sparse flips);
* wide: a cosine cycle of long to short steps from the incumbent;
* fine: short steps only.

A round gives every sample one of them, drawn with probability proportional to what it gained a pass - on the batch
and on this sample -, and a tenth shared evenly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wassertight.attacks.incumbent import Incumbent
from wassertight.attacks.minimum_norm.descent import arms_for, come_in, descend, fine_arm, restart
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel

_ARMS = 4
_FIRST = (1, 0, 2, 3)
"""Every sample tries all of them once, in this order."""
_EVEN, _KEPT = 0.1, 0.7
_CYCLE, _COMING = 40, 60
_RESTARTS, _CLIMB, _TURNS = 3, 13, 2
_DEAREST, CHEAPEST = 2 * (_COMING + 6), 2 * _CYCLE + 2
"""Passes a sample of coming in, and of every other way."""


class Portfolio:
    """Chooses and carries out rounds on one incumbent.

    Attributes:
        spent: passes each sample has used here, (n,).
        steps: iterations made, the longest of every round added up.
    """

    def __init__(
        self,
        queries: ModelQueries,
        incumbent: Incumbent,
        threat: ThreatModel,
        generator: torch.Generator,
        ranked: Tensor,
        classes: int,
    ) -> None:
        self.queries, self.incumbent, self.threat, self.generator = queries, incumbent, threat, generator
        self.ranked, self.classes = ranked, classes
        n = len(incumbent.x)
        self.spent = torch.zeros(n, dtype=torch.float64)
        self.steps = 0
        self._own = torch.zeros(n, _ARMS, dtype=torch.float64)
        self._gained, self._paid = torch.zeros(_ARMS, dtype=torch.float64), torch.zeros(_ARMS, dtype=torch.float64)
        self._uses = [0] * _ARMS
        self._round = 0

    def round(self, rows: Tensor, passes: int) -> None:
        """One look for each of the samples `rows`, so that none has spent more than `passes`, at least CHEAPEST each."""
        choice = self._choose(rows)
        choice[(choice == 1) & (self.spent[rows.cpu()] + _DEAREST > passes)] = 2
        for arm in range(_ARMS):
            mine = rows[(choice == arm).to(rows.device)]
            if len(mine) == 0:
                continue
            before, paid = self.incumbent.distance[mine].clone(), self.queries.passes.total
            self._look(arm, mine)
            each = (self.queries.passes.total - paid) / len(mine)
            gain = (before / self.incumbent.distance[mine]).log().nan_to_num(nan=0.0, posinf=1.0).double().cpu()
            at = mine.cpu()
            self.spent[at] += each
            self._own[at, arm] = (self._own[at, arm] + gain / each) / 2
            self._gained[arm] = _KEPT * self._gained[arm] + gain.sum()
            self._paid[arm] = _KEPT * self._paid[arm] + each * len(mine)
            self._uses[arm] += 1
        self._round += 1
        self.steps += _COMING

    def _choose(self, rows: Tensor) -> Tensor:
        if self._round < _ARMS:
            return torch.full((len(rows),), _FIRST[self._round])
        rate = (self._gained + 1e-4) / self._paid.clamp_min(1.0)
        share = rate + self._own[rows.cpu()]
        share = (1 - _EVEN) * share / share.sum(1, keepdim=True) + _EVEN / _ARMS
        return torch.multinomial(share, 1, generator=self.generator).squeeze(1)

    def _look(self, arm: int, rows: Tensor) -> None:
        queries, incumbent, threat, uses = self.queries, self.incumbent, self.threat, self._uses[arm]
        if arm == 0:
            for turn in range(_RESTARTS * uses, _RESTARTS * (uses + 1)):
                target = self.ranked[rows, turn % min(5, self.ranked.shape[1])]
                v = torch.empty((len(rows), self.classes), dtype=torch.float64)
                v = v.uniform_(-1, 1, generator=self.generator).to(incumbent.x)
                steps = _CLIMB - _TURNS
                restart(queries, incumbent, threat, steps, rows, self.generator, target, v=v, turns=_TURNS)
        elif arm == 1:
            come_in(queries, incumbent, threat, _COMING, rows, self.generator)
        elif arm == 2:
            descend(queries, incumbent, threat, _CYCLE, rows, arms_for(threat.r)[uses % 2])
        else:
            descend(queries, incumbent, threat, _CYCLE, rows, fine_arm(threat.r, steepest=uses % 2 == 0))
