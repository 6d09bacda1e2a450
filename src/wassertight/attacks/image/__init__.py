"""Attacks on image-space Wasserstein balls: light moves between pixels."""

from wassertight.attacks.image.frank_wolfe import FrankWolfe

__all__ = ["FrankWolfe"]
