"""Certificates: proved lower bounds on worst-case accuracy."""

from wassertight.certificates.base import Certificate, CertificateMethod
from wassertight.certificates.propagation import IntervalPropagation, LinearPropagation

__all__ = ["Certificate", "CertificateMethod", "IntervalPropagation", "LinearPropagation"]
