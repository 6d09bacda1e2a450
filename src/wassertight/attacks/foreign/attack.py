"""An attack of Foolbox, torchattacks or AutoAttack as a finder of flip distances, so that any W_p threat can be met.

Problem, for every correctly classified sample: `min ||z - x||_r subject to argmax f(z) != y, z in the box`, by whatever
the other library does. An attack that minimises is run once. One that searches a ball of given radius is run once at the
radius of a pointwise threat, and otherwise at bisected radii, sample by sample: all radii lie on one geometric grid, so
that samples at the same radius are one batch, and flips are drawn towards their sample along the segment.

Nothing they return is believed: every image is put into the box, classified again in eval mode, measured again in float64
and audited; an image that is not finite, not misclassified or of another shape counts as not found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

import torch
from torch import Tensor

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.foreign.libraries import Answering, Called, called, quietly, wrong_norm
from wassertight.attacks.incumbent import Incumbent, pull_back
from wassertight.attacks.minimum_norm.search import farthest, nearest_flips, within_rounding
from wassertight.geometry import project_box
from wassertight.geometry.norms import per_sample_mask
from wassertight.queries import ModelQueries
from wassertight.threats import ThreatModel, moves_alone
from wassertight.types import InputError, ThreatError, WassertightError

_RATIO, _GRID, _FIRST = 2**0.25, 40, 20
"""The grid of radii: neighbours, length (down to 1/1000 of the farthest corner), and where the walk begins (1/32)."""
_STRIDE = 4


@dataclass(frozen=True, kw_only=True)
class Foreign(Attack):
    """Flip distances by another library's attack.

    Args:
        attack: "foolbox:<attack>", "torchattacks:<attack>" or "autoattack:<version>", for example "foolbox:LinfPGD".
        settings: of that attack, by the names that library gives them; lengths in shares of the box.
        rounds: attacks at a fixed radius, threats that are not pointwise: radii tried on each sample, at most.
        halvings: attacks at a fixed radius: steps of the search along the segment from a flip to its sample.
        version: of the library, for the record.

    Raises:
        PackageError: the library is not installed; says how to get it.
        InputError: an attack or a setting that library does not have.

    >>> Foreign(attack="nobody:PGD")
    Traceback (most recent call last):
    ...
    wassertight.errors.InputError: attacks of other libraries are named foolbox:<attack>, torchattacks:<attack>,
    autoattack:<attack>; got 'nobody:PGD'
    """

    separable: ClassVar[bool] = True

    attack: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 10
    halvings: int = 8
    version: str = field(init=False, default="")

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.halvings < 0:
            raise InputError(f"rounds must be >= 1 and halvings >= 0, got {self.rounds} and {self.halvings}")
        self._called()
        with suppress(PackageNotFoundError):
            object.__setattr__(self, "version", version(self.attack.partition(":")[0]))

    @property
    def name(self) -> str:  # type: ignore[override]
        """As on the command line."""
        return self.attack

    def uses_radius(self, threat: ThreatModel) -> bool:
        """Whether the points found depend on the threat's radius: at a fixed radius and a pointwise threat."""
        return self._called().fixed and math.isinf(threat.order)

    def find(self, problem: Problem) -> Found:
        """The nearest flips the other library finds."""
        norms, threat = self._called().norms, moves_alone(problem.threat)
        if norms and threat.r not in norms:
            raise ThreatError(wrong_norm(self.attack, norms, threat.name))
        if threat.bounds is None:
            raise ThreatError(f"{self.attack} needs a box of admissible inputs; give bounds=(low, high)")
        return nearest_flips(replace(problem, threat=threat), self._search)

    def _called(self) -> Called:
        return called(self.attack, self.settings)

    def _search(
        self, queries: ModelQueries, incumbent: Incumbent, threat: ThreatModel, generator: torch.Generator
    ) -> int:
        assert threat.bounds is not None
        one, model = self._called(), Answering(queries, threat.bounds, incumbent.x)
        rows = torch.arange(len(incumbent.x), device=incumbent.x.device)

        def attempt(rows: Tensor, radius: float) -> None:
            moved = self._moved(one, model, incumbent, rows, radius, threat, generator)
            incumbent.offer(moved, queries.logits(moved), rows)
            if one.fixed:
                pull_back(queries, incumbent, self.halvings, rows)

        if not one.fixed:
            attempt(rows, math.inf)
            return 1
        if self.uses_radius(threat):
            if threat.radius > 0:
                attempt(rows, float(within_rounding(torch.tensor(threat.radius), incumbent.x.cpu())))
            return 1
        top = float(farthest(incumbent.x, threat.r, threat.bounds).max())
        radii = top * _RATIO ** torch.arange(1 - _GRID, 1, dtype=torch.float64, device=rows.device)
        low = torch.full_like(rows, -1)
        for index in range(self.rounds):
            high = torch.searchsorted(radii, incumbent.distance.double())
            middle = torch.where(incumbent.found, (low + high) // 2, (low + _STRIDE).clamp(_FIRST, _GRID - 1))
            open_ = high - low > 1
            if not bool(open_.any()):
                return index
            for place in torch.unique(middle[open_]).tolist():
                attempt(rows[open_ & (middle == place)], float(radii[place]))
            failed = open_ & (incumbent.distance.double() > radii[middle])
            low = torch.where(failed, torch.maximum(low, middle), low)
        return self.rounds

    def _moved(
        self, one: Called, model: Answering, incumbent: Incumbent, rows: Tensor, radius: float, threat: ThreatModel,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """Their images in our box; what cannot be one is the sample itself."""
        assert threat.bounds is not None
        low, high = threat.bounds
        x, y, span = incumbent.x[rows], incumbent.y[rows], high - low
        plain = threat.bounds == (0.0, 1.0)
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        try:
            with quietly(seed), torch.enable_grad():
                seen = x if plain else ((x - low) / span).clamp(0, 1)
                moved = one.run(model, seen.clone(), y.clone(), radius / span, threat.r, seed)
        except WassertightError:
            raise
        except Exception as error:
            raise InputError(
                f"{self.attack} stopped on {len(x)} samples: {type(error).__name__}: {str(error).strip() or 'no message'}"
            ) from error
        if not isinstance(moved, Tensor) or moved.shape != x.shape:
            shape = tuple(moved.shape) if isinstance(moved, Tensor) else type(moved).__name__
            raise InputError(f"{self.attack} returned {shape} for images of shape {tuple(x.shape)}")
        moved = moved.detach().to(x)
        moved = moved if plain else low + span * moved
        fine = per_sample_mask(torch.isfinite(moved).flatten(1).all(1), x)
        return project_box(torch.where(fine, moved, x), threat.bounds)
