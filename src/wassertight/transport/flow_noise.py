"""Smoothing noise, one object a law: what a certificate samples, training adds and an attack averages over.

Every noise is called as `noise(x, draws, generator)` with images (n, c, h, w) and returns (draws, n, c, h, w): independent
draws, fresh for every image. Light is measured in shares of the image's own light S: the model sees
`S (x / S + noise) = x + S noise`. Nothing is clipped; pixels may become negative. S is treated as a constant in gradients,
because no image of the threat has another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.transport.flows import apply_flow, edge_count, flow_grid
from wassertight.types import InputError

_SMALLEST = 2.0**-25
"""Replaces an exact zero of a float32 uniform, whose logarithm a Laplace draw needs."""


@runtime_checkable
class Noise(Protocol):
    """A law of perturbed images."""

    def __call__(
        self, x: Float[Tensor, "n c h w"], draws: int = 1, generator: torch.Generator | None = None
    ) -> Float[Tensor, "draws n c h w"]:
        """Independent perturbed copies of every image, on x's device and in its dtype; differentiable in x."""


@dataclass(frozen=True, kw_only=True)
class GaussianFlow:
    """Gaussian flow on every edge: `D sqrt(c) sigma g`, so that pixels have covariance sigma**2 L_c, per channel.

    Args:
        sigma: root mean square of the flow on an edge, in shares of the image's light, > 0.
        weighted: edge weights c that make all edges equally resistant; False: c = 1.

    >>> x = torch.ones(2, 1, 4, 4)
    >>> noisy = GaussianFlow(sigma=0.01)(x, 3)
    >>> noisy.shape, bool(torch.allclose(noisy.sum((-1, -2)), x.sum((-1, -2)), atol=1e-4))
    (torch.Size([3, 2, 1, 4, 4]), True)
    """

    sigma: float
    weighted: bool = True

    def __post_init__(self) -> None:
        check_scale("sigma", self.sigma)

    def __call__(self, x: Tensor, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
        n, c, h, w = image_shape(x)
        flow = torch.randn((draws, n, c, edge_count(h, w)), generator=generator, device=x.device, dtype=x.dtype)
        roots = flow_grid(h, w, self.weighted).roots.to(x)
        return apply_flow(x, flow.mul_((self.sigma * light(x))[..., 0] * roots))


@dataclass(frozen=True, kw_only=True)
class LaplaceFlow:
    """Independent Laplace flow of standard deviation sigma on every edge and channel (1910.10783 section 4)."""

    sigma: float

    def __post_init__(self) -> None:
        check_scale("sigma", self.sigma)

    def __call__(self, x: Tensor, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
        n, c, h, w = image_shape(x)
        flow = laplace((draws, n, c, edge_count(h, w)), x, generator)
        return apply_flow(x, flow.mul_(self.sigma / math.sqrt(2) * light(x)[..., 0]))


@dataclass(frozen=True, kw_only=True)
class GaussianPixels:
    """Independent Gaussian noise of standard deviation sigma on every pixel, in shares of the image's light."""

    sigma: float

    def __post_init__(self) -> None:
        check_scale("sigma", self.sigma)

    def __call__(self, x: Tensor, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn((draws, *image_shape(x)), generator=generator, device=x.device, dtype=x.dtype)
        return x + noise.mul_(self.sigma * light(x))


@dataclass(frozen=True, kw_only=True)
class LaplacePixels:
    """Independent Laplace noise of standard deviation sigma on every pixel, in shares of the image's light."""

    sigma: float

    def __post_init__(self) -> None:
        check_scale("sigma", self.sigma)

    def __call__(self, x: Tensor, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
        noise = laplace((draws, *image_shape(x)), x, generator)
        return x + noise.mul_(self.sigma / math.sqrt(2) * light(x))


@dataclass(frozen=True, kw_only=True)
class UniformPixels:
    """Independent noise on every pixel, uniform with standard deviation sigma (half width sqrt(3) sigma)."""

    sigma: float

    def __post_init__(self) -> None:
        check_scale("sigma", self.sigma)

    def __call__(self, x: Tensor, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.rand((draws, *image_shape(x)), generator=generator, device=x.device, dtype=x.dtype)
        return x + noise.sub_(0.5).mul_(2 * math.sqrt(3) * self.sigma * light(x))


@dataclass(frozen=True, kw_only=True)
class SplittingPixels:
    """Every pixel is known only to lie in its cell of a random grid of spacing 2 half_width (2103.10834, SSN).

    The model sees the middle of the cell, cut to [0, 1]. Pixels are in their own units, not in shares of light.
    """

    half_width: float

    def __post_init__(self) -> None:
        check_scale("half_width", self.half_width)

    def __call__(self, x: Tensor, draws: int = 1, generator: torch.Generator | None = None) -> Tensor:
        image_shape(x)
        spacing = 2 * self.half_width
        offset = spacing * torch.rand((draws, *x.shape), generator=generator, device=x.device, dtype=x.dtype)
        low = offset + spacing * ((x - offset) / spacing).floor()
        return (low.clamp(0, 1) + (low + spacing).clamp(0, 1)) / 2


def light(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 1 1"]:
    """The light S of every image, over all channels; a constant for gradients."""
    return x.detach().sum((1, 2, 3), keepdim=True)


def laplace(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Laplace draws of scale one, by the inverse distribution function."""
    draw = torch.empty(shape, device=like.device, dtype=like.dtype).uniform_(-1, 1, generator=generator)
    return draw.abs().clamp_min_(_SMALLEST).log_().neg_().copysign_(draw)


def image_shape(x: Tensor) -> tuple[int, int, int, int]:
    """n, c, h, w of a batch of images.

    Raises:
        InputError: for anything that is no batch of images.
    """
    if x.ndim != 4:
        raise InputError(f"smoothing noise needs images (n, c, h, w), got shape {tuple(x.shape)}")
    n, c, h, w = x.shape
    return n, c, h, w


def check_scale(name: str, value: float) -> None:
    """Refuse a scale that is not a positive number."""
    if not 0 < value < math.inf:
        raise InputError(f"{name} must be a finite number > 0, got {value}")
