"""Certificates: proved lower bounds on worst-case accuracy."""

from wassertight.certificates.base import Certificate, CertificateMethod, Proved, Task
from wassertight.certificates.propagation import (
    Auto,
    BranchAndBound,
    CrownIBP,
    IntervalPropagation,
    LinearPropagation,
)

__all__ = [
    "Auto",
    "BranchAndBound",
    "Certificate",
    "CertificateMethod",
    "CrownIBP",
    "IntervalPropagation",
    "LinearPropagation",
    "Proved",
    "Task",
]
