"""Bound propagation: the largest ball around every sample in which no logit can overtake the true one."""

from wassertight.certificates.propagation.low_dimensional import ForwardPropagation, InputSplit
from wassertight.certificates.propagation.methods import CrownIBP, IntervalPropagation, LinearPropagation
from wassertight.certificates.propagation.radii import Reading
from wassertight.certificates.propagation.searches import Auto, BranchAndBound, goal, in_turn, matters

__all__ = [
    "Auto",
    "BranchAndBound",
    "CrownIBP",
    "ForwardPropagation",
    "InputSplit",
    "IntervalPropagation",
    "LinearPropagation",
    "Reading",
    "goal",
    "in_turn",
    "matters",
]
