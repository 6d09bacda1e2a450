"""Attacks: upper bounds on worst-case accuracy, every result audited."""

from wassertight.attacks.a3_wda import A3
from wassertight.attacks.apgd import APGD
from wassertight.attacks.armor import ARMOR
from wassertight.attacks.base import Attack, AttackResult, Found, Problem, conclude
from wassertight.attacks.bisected import BisectedAPGD
from wassertight.attacks.ensemble import AutoAttack
from wassertight.attacks.expected_loss import ExpectedLoss, LossResult
from wassertight.attacks.fgsm import FGSM
from wassertight.attacks.foreign import Foreign, as_foolbox, as_torchattacks
from wassertight.attacks.image import (
    DualProjection,
    FrankWolfe,
    SinkhornPGD,
    SmoothedFrankWolfe,
    SmoothedResult,
    TransportDistance,
)
from wassertight.attacks.minimum_norm import DDN, FAB, FMN, PDPGD, DeepFool, MinimumNorm
from wassertight.attacks.penalty import Penalty
from wassertight.attacks.pgd import PGD
from wassertight.attacks.reweighting import Reweighting
from wassertight.attacks.square import Square
from wassertight.attacks.support import Support, compare_supports
from wassertight.attacks.wda import WDA
from wassertight.attacks.wda_plus import WDAPlusPlus

__all__ = [
    "A3",
    "APGD",
    "ARMOR",
    "DDN",
    "FAB",
    "FGSM",
    "FMN",
    "PDPGD",
    "PGD",
    "WDA",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "BisectedAPGD",
    "DeepFool",
    "DualProjection",
    "ExpectedLoss",
    "Foreign",
    "Found",
    "FrankWolfe",
    "LossResult",
    "MinimumNorm",
    "Penalty",
    "Problem",
    "Reweighting",
    "SinkhornPGD",
    "SmoothedFrankWolfe",
    "SmoothedResult",
    "Square",
    "Support",
    "TransportDistance",
    "WDAPlusPlus",
    "as_foolbox",
    "as_torchattacks",
    "compare_supports",
    "conclude",
]
