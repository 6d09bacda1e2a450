"""Certificates: proved lower bounds on worst-case accuracy."""

from wassertight.certificates.base import Certificate, CertificateMethod, Proved, Task
from wassertight.certificates.curves import AccuracyCurve, Population, accuracy_curves
from wassertight.certificates.propagation import (
    Auto,
    BranchAndBound,
    CrownIBP,
    ForwardPropagation,
    InputSplit,
    IntervalPropagation,
    LinearPropagation,
)
from wassertight.certificates.tightness import Bracket, Gap, area_under

__all__ = [
    "AccuracyCurve",
    "Auto",
    "Bracket",
    "BranchAndBound",
    "Certificate",
    "CertificateMethod",
    "CrownIBP",
    "ForwardPropagation",
    "Gap",
    "InputSplit",
    "IntervalPropagation",
    "LinearPropagation",
    "Population",
    "Proved",
    "Task",
    "accuracy_curves",
    "area_under",
]
