"""Bound propagation: the largest ball around every sample in which no logit can overtake the true one."""

from wassertight.certificates.propagation.radii import IntervalPropagation, LinearPropagation

__all__ = ["IntervalPropagation", "LinearPropagation"]
