"""Attacks on image-space Wasserstein balls: light moves between pixels."""

from wassertight.attacks.image.dual_projection import DualProjection
from wassertight.attacks.image.frank_wolfe import FrankWolfe
from wassertight.attacks.image.sinkhorn_pgd import SinkhornPGD
from wassertight.attacks.image.smoothed import SmoothedFrankWolfe, SmoothedResult
from wassertight.attacks.image.transport_distance import TransportDistance

__all__ = ["DualProjection", "FrankWolfe", "SinkhornPGD", "SmoothedFrankWolfe", "SmoothedResult", "TransportDistance"]
