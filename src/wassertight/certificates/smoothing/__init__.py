"""Smoothing certificates for light that moves between pixels: what votes under noise prove about W_p balls."""

from wassertight.certificates.smoothing.deterministic_flow import DeterministicFlowSmoothing
from wassertight.certificates.smoothing.estimation import smoothed_answers
from wassertight.certificates.smoothing.exact import ExactSmoothing
from wassertight.certificates.smoothing.gaussian_flow import GaussianFlowSmoothing
from wassertight.certificates.smoothing.laplace_flow import LaplaceFlowSmoothing
from wassertight.certificates.smoothing.noisy_votes import NoisyVoteCertificate, NoisyVotes
from wassertight.certificates.smoothing.pixel import (
    GaussianPixelSmoothing,
    LaplacePixelSmoothing,
    SplittingSmoothing,
    UniformPixelSmoothing,
)
from wassertight.certificates.smoothing.pixel_splitting import DeterministicSplittingSmoothing
from wassertight.certificates.smoothing.smoothed import SmoothedCertificate, Smoother, Smoothing, Verdict
from wassertight.certificates.smoothing.zonotope_flow import ZonotopeFlowSmoothing

__all__ = [
    "DeterministicFlowSmoothing",
    "DeterministicSplittingSmoothing",
    "ExactSmoothing",
    "GaussianFlowSmoothing",
    "GaussianPixelSmoothing",
    "LaplaceFlowSmoothing",
    "LaplacePixelSmoothing",
    "NoisyVoteCertificate",
    "NoisyVotes",
    "SmoothedCertificate",
    "Smoother",
    "Smoothing",
    "SplittingSmoothing",
    "UniformPixelSmoothing",
    "Verdict",
    "ZonotopeFlowSmoothing",
    "smoothed_answers",
]
