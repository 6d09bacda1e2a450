"""Minimum-norm attacks: how far is the nearest misclassified input."""

from wassertight.attacks.minimum_norm.boundary import MinimumNorm

__all__ = ["MinimumNorm"]
