"""Certificates: proved lower bounds on worst-case accuracy."""

from wassertight.certificates.base import Certificate, CertificateMethod, Proved, Task
from wassertight.certificates.curves import AccuracyCurve, Population, accuracy_curves
from wassertight.certificates.growth import GrowthBound
from wassertight.certificates.lipschitz import (
    ConeAudit,
    LipschitzBounds,
    LipschitzRow,
    cone_audit,
    jacobian_bounds,
    lipschitz_constants,
    lipschitz_table,
    local_lipschitz,
)
from wassertight.certificates.loss_bounds import LossBound, LossCertificate
from wassertight.certificates.out_of_sample import concentration_radius
from wassertight.certificates.propagation import (
    Auto,
    BranchAndBound,
    CrownIBP,
    ForwardPropagation,
    InputSplit,
    IntervalPropagation,
    LinearPropagation,
)
from wassertight.certificates.reweighting import population_accuracy, proved_accuracy, reweighted_loss
from wassertight.certificates.tightness import Bracket, Gap, area_under

__all__ = [
    "AccuracyCurve",
    "Auto",
    "Bracket",
    "BranchAndBound",
    "Certificate",
    "CertificateMethod",
    "ConeAudit",
    "CrownIBP",
    "ForwardPropagation",
    "Gap",
    "GrowthBound",
    "InputSplit",
    "IntervalPropagation",
    "LinearPropagation",
    "LipschitzBounds",
    "LipschitzRow",
    "LossBound",
    "LossCertificate",
    "Population",
    "Proved",
    "Task",
    "accuracy_curves",
    "area_under",
    "concentration_radius",
    "cone_audit",
    "jacobian_bounds",
    "lipschitz_constants",
    "lipschitz_table",
    "local_lipschitz",
    "population_accuracy",
    "proved_accuracy",
    "reweighted_loss",
]
