"""Minimum-norm attacks: how far is the nearest misclassified input."""

from wassertight.attacks.minimum_norm.boundary import PRESETS, Effort, MinimumNorm
from wassertight.attacks.minimum_norm.ddn import DDN
from wassertight.attacks.minimum_norm.deepfool import DeepFool
from wassertight.attacks.minimum_norm.fab import FAB
from wassertight.attacks.minimum_norm.fmn import FMN
from wassertight.attacks.minimum_norm.pdpgd import PDPGD

__all__ = ["DDN", "FAB", "FMN", "PDPGD", "PRESETS", "DeepFool", "Effort", "MinimumNorm"]
