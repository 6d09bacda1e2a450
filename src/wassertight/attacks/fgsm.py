"""FGSM and its Wasserstein version W-FGSM: one step of the whole radius (1412.6572; 2306.09844 theorem 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from wassertight.attacks.base import Attack, Found, Problem
from wassertight.attacks.pgd import PGD


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One step of the whole radius: FGSM under a pointwise threat (1412.6572), W-FGSM under a W_p ball (2306.09844).

    Args:
        loss: as for PGD.
        mode: as for PGD.
    """

    name: ClassVar[str] = "fgsm"
    separable: ClassVar[bool] = False
    uses_radius: ClassVar[bool] = True

    loss: str | None = None
    mode: Literal["default", "reference"] = "default"

    def __post_init__(self) -> None:
        self._as_pgd()

    def _as_pgd(self) -> PGD:
        return PGD(steps=1, step_factor=1.0, loss=self.loss, mode=self.mode)

    def find(self, problem: Problem) -> Found:
        """The one step of PGD with steps = 1."""
        return self._as_pgd().find(problem)
