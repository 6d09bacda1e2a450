"""Bound propagation: the largest ball around every sample in which no logit can overtake the true one."""

from wassertight.certificates.propagation.low_dimensional import ForwardPropagation, InputSplit
from wassertight.certificates.propagation.methods import (
    Auto,
    BranchAndBound,
    CrownIBP,
    IntervalPropagation,
    LinearPropagation,
    matters,
)

__all__ = [
    "Auto",
    "BranchAndBound",
    "CrownIBP",
    "ForwardPropagation",
    "InputSplit",
    "IntervalPropagation",
    "LinearPropagation",
    "matters",
]
