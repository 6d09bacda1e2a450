"""Certificates: proved lower bounds on worst-case accuracy."""

from wassertight.certificates.base import Certificate, CertificateMethod
from wassertight.certificates.curves import AccuracyCurve, Population, accuracy_curves
from wassertight.certificates.propagation import IntervalPropagation, LinearPropagation
from wassertight.certificates.tightness import Bracket, Gap, area_under

__all__ = [
    "AccuracyCurve",
    "Bracket",
    "Certificate",
    "CertificateMethod",
    "Gap",
    "IntervalPropagation",
    "LinearPropagation",
    "Population",
    "accuracy_curves",
    "area_under",
]
