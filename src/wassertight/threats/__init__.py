"""Threat models: what an adversary may do, as objects that answer questions."""

from wassertight.threats.audit import AuditReport, audit_measure
from wassertight.threats.base import ThreatModel
from wassertight.threats.divergence import Decomposition, DivergenceBall, moves_alone
from wassertight.threats.parsing import parse, threat
from wassertight.threats.pointwise import PointwiseBall
from wassertight.threats.wasserstein import WassersteinBall

__all__ = [
    "AuditReport",
    "Decomposition",
    "DivergenceBall",
    "PointwiseBall",
    "ThreatModel",
    "WassersteinBall",
    "audit_measure",
    "moves_alone",
    "parse",
    "threat",
]
