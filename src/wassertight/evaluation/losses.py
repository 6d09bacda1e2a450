"""The bracket of a worst-case expected loss: what an attack reaches below, what a certificate proves above."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from wassertight.attacks import ARMOR, ExpectedLoss
from wassertight.attacks.expected_loss import LossResult
from wassertight.certificates import LossBound, LossCertificate
from wassertight.evaluation.store import Watch
from wassertight.threats import DivergenceBall, ThreatModel
from wassertight.types import AuditError, Model, Progress


@dataclass(frozen=True, kw_only=True)
class LossBracket:
    """`clean <= attacked <= worst case <= certified`.

    Attributes:
        attack: an audited law in the ball and its loss.
        certificate: the proved upper bound, rule by rule.
    """

    attack: LossResult = field(repr=False)
    certificate: LossCertificate = field(repr=False)

    @property
    def clean(self) -> float:
        """Expected loss on the samples."""
        return self.attack.clean

    @property
    def attacked(self) -> float:
        """Expected loss under the attack's law."""
        return self.attack.value

    @property
    def certified(self) -> float:
        """What no law in the ball exceeds."""
        return self.certificate.value

    def row(self) -> dict[str, Any]:
        """The numbers, for tables and JSON."""
        return {
            "threat": self.certificate.threat.name,
            "loss": self.certificate.loss,
            "clean": self.clean,
            "attacked": self.attacked,
            "certified": self.certified,
            "rules": dict(self.certificate.rules),
            "assumptions": list(self.certificate.assumptions),
            "atoms": len(self.attack.measure),
            "passes": {"forward": self.attack.passes.forward, "backward": self.attack.passes.backward},
            **split_row(self.attack),
            "seconds": {"attack": round(self.attack.seconds, 3), "certificate": round(self.certificate.seconds, 3)},
        }


def split_row(found: LossResult) -> dict[str, Any]:
    """How a re-weighting threat's budget was spent and what each freedom reaches alone; nothing for other threats."""
    part = found.reweighting
    if part is None:
        return {}
    alone = part.decomposition
    return {
        "spent_divergence": part.spent_divergence,
        "spent_transport": part.spent_transport,
        "effective": part.effective,
        "weights_only": alone.reweighting,
        "moves_only": alone.transport,
        "heaviest": [{"sample": i, "weight": float(part.density[i])} for i in part.heaviest()],
    }


def attack_loss(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    loss: str = "cross-entropy",
    grid: int = 12,
    batch_size: int | None = None,
    weights: Tensor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LossResult:
    """The worst expected loss an attack reaches: growth functions under a W_p ball, ARMOR where weights may change."""
    if isinstance(threat, DivergenceBall):
        armor = ARMOR(objective="loss", loss=loss, grid=grid)
        return armor.expected_loss(model, x, y, threat, batch_size=batch_size, weights=weights, progress=progress)
    return ExpectedLoss(loss=loss, grid=grid)(
        model, x, y, threat, batch_size=batch_size, weights=weights, seed=seed, progress=progress
    )


def bracket_loss(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    loss: str = "cross-entropy",
    grid: int = 12,
    batch_size: int | None = None,
    weights: Tensor | None = None,
    seed: int = 0,
    watch: Watch | None = None,
) -> LossBracket:
    """Bracket the worst-case expected loss of exactly these samples.

    Args:
        model, x, y, threat: as for every method.
        loss: "cross-entropy" or "margin".
        grid: radii at which growth functions are sampled and bounded.
        watch: called as watch("certificate" or "attack", done, total).

    Raises:
        UnsupportedLayerError: the model has an operation that cannot be bounded.
        AuditError: the attack exceeds the certificate; that is a defect of this library.

    >>> import torch
    >>> from wassertight.threats import WassersteinBall
    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.zeros(2)})
    >>> x, y = torch.tensor([[0.2, 0.0], [0.4, 0.0]]), torch.tensor([0, 0])
    >>> ball = WassersteinBall(radius=0.1, p=1, r=2, bounds=(-1.0, 1.0))
    >>> found = bracket_loss(model, x, y, ball, loss="margin")
    >>> round(found.attacked, 3), round(found.certified, 3)
    (-0.4, -0.4)
    """
    certificate = LossBound(loss=loss, grid=grid)(
        model, x, y, threat, batch_size=batch_size, weights=weights, progress=_side(watch, "certificate")
    )
    attack = attack_loss(
        model, x, y, threat, loss=loss, grid=grid, batch_size=batch_size, weights=weights, seed=seed,
        progress=_side(watch, "attack"),
    )  # fmt: skip
    allowed = 1e-4 * (1 + float(certificate.growth.values[:, 0].abs().max()))
    if attack.value > certificate.value + allowed:
        raise AuditError(
            f"the attack's expected {loss} under {threat.name}, {attack.value:.6g}, exceeds the certificate {certificate.value:.6g}"
        )
    return LossBracket(attack=attack, certificate=certificate)


def _side(watch: Watch | None, side: str) -> Progress | None:
    return None if watch is None else lambda done, total: watch(side, done, total)
