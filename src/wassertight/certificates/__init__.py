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
from wassertight.certificates.smoothing import (
    DeterministicFlowSmoothing,
    DeterministicSplittingSmoothing,
    GaussianFlowSmoothing,
    GaussianPixelSmoothing,
    LaplaceFlowSmoothing,
    LaplacePixelSmoothing,
    NoisyVoteCertificate,
    NoisyVotes,
    SmoothedCertificate,
    SplittingSmoothing,
    UniformPixelSmoothing,
    Verdict,
    ZonotopeFlowSmoothing,
    smoothed_answers,
)
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
    "DeterministicFlowSmoothing",
    "DeterministicSplittingSmoothing",
    "ForwardPropagation",
    "Gap",
    "GaussianFlowSmoothing",
    "GaussianPixelSmoothing",
    "GrowthBound",
    "InputSplit",
    "IntervalPropagation",
    "LaplaceFlowSmoothing",
    "LaplacePixelSmoothing",
    "LinearPropagation",
    "LipschitzBounds",
    "LipschitzRow",
    "LossBound",
    "LossCertificate",
    "NoisyVoteCertificate",
    "NoisyVotes",
    "Population",
    "Proved",
    "SmoothedCertificate",
    "SplittingSmoothing",
    "Task",
    "UniformPixelSmoothing",
    "Verdict",
    "ZonotopeFlowSmoothing",
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
    "smoothed_answers",
]
