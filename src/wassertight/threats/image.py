"""The image-space Wasserstein threat: an image is a pile of light on the pixel grid, the adversary pays light x distance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from wassertight.transport.capacity import realised
from wassertight.transport.exact import image_distance
from wassertight.transport.polytope import exact_oracle
from wassertight.transport.sinkhorn import projected_sinkhorn
from wassertight.transport.windows import LocalPlans
from wassertight.types import Bounds, ThreatError

_CAP_TOLERANCE = 1e-6
_SHARPNESS = 1e4


@dataclass(frozen=True, kw_only=True)
class ImageWasserstein:
    """All images z within W_p distance `radius` of x, both divided by the light S of x; no light changes channel.

    radius 0.1 at p = 1 lets a tenth of an image's light move by one pixel.

    Args:
        radius: bounds W_p (published codes bound W_p**p), in grid steps, >= 0.
        p: Wasserstein order between images, >= 1.
        r: order of the norm between pixel positions, 2 (Euclid) or 1 (Manhattan); any r >= 1 and inf work.
        window: odd width of the square around a pixel inside which attacks move its light; the audit uses the full grid.
        cap: largest pixel value (1.0: the well-defined threat of 2004.12478), or None for the free set.
        order: how images share the budget: inf - each has the whole radius to itself; a finite order bounds
            `mean(W_p**order)` over the data by `radius**order`.

    Reference: 1902.07906 section 2, 2004.12478 section 3 (the cap).

    >>> ImageWasserstein(radius=0.1).name, ImageWasserstein(radius=0.1, r=1, cap=None, order=1).name
    ('image-W1@0.1', 'W1-image-W1-L1-free@0.1')
    """

    radius: float
    p: float = 1.0
    r: float = 2.0
    window: int = 5
    cap: float | None = 1.0
    order: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.radius < math.inf:
            raise ThreatError(f"radius must be a finite number >= 0 (0 = clean), got {self.radius}")
        for name, value in (("p", self.p), ("r", self.r), ("order", self.order)):
            if not value >= 1 or (name == "p" and math.isinf(value)):
                allowed = "a finite number >= 1" if name == "p" else "a number >= 1 or inf"
                raise ThreatError(f"{name} of an image threat must be {allowed}, got {value}")
        if self.window < 3 or self.window % 2 == 0:
            raise ThreatError(f"window must be an odd number >= 3, got {self.window}")
        if self.cap is not None and not 0 < self.cap < math.inf:
            raise ThreatError(f"cap must be a finite number > 0, or None for no cap, got {self.cap}")

    @property
    def ground(self) -> str:
        """Name of the distance between images, without the radius: `image-W1`, `image-W1-L1-k7-free`."""
        norm = "" if self.r == 2 else ("-Linf" if math.isinf(self.r) else f"-L{self.r:g}")
        window = "" if self.window == 5 else f"-k{self.window}"
        cap = {None: "-free", 1.0: ""}.get(self.cap, f"-cap{self.cap or 0:g}")
        return f"image-W{self.p:g}{norm}{window}{cap}"

    @property
    def name(self) -> str:
        share = "" if math.isinf(self.order) else f"W{self.order:g}-"
        return f"{share}{self.ground}@{self.radius:.3g}"

    @property
    def bounds(self) -> Bounds:
        """The box of pixel values."""
        return (0.0, math.inf if self.cap is None else self.cap)

    def cost(self, z: Tensor, x: Tensor) -> Float[Tensor, " n"]:
        """Exact W_p of every pair on the full grid, float64; inf where z is no moved image of x.

        That is: a channel's light differs by more than 1e-6 of the image's, a pixel is negative or above the cap
        (by more than 1e-6).
        """
        distance: Tensor = image_distance(x, z, p=self.p, r=self.r)
        if self.cap is None:
            return distance
        above = torch.maximum(z.flatten(1).amax(1), x.flatten(1).amax(1)) > self.cap + _CAP_TOLERANCE
        return torch.where(above.to(distance.device), torch.inf, distance)

    def plans(self, x: Float[Tensor, "n c h w"]) -> LocalPlans:
        """The local plans of images x: the adversary's variable is a plan, not an image."""
        return LocalPlans.of(x, self.window, self.p, self.r)

    def budget(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """What a plan may cost: `radius**p` times the light of each image, float64."""
        return float(self.radius**self.p) * x.flatten(1).sum(1, dtype=torch.float64)

    def realise(self, plan: Tensor, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The image of a plan, light above the cap returned to its sender: a member of the set; x where that fails."""
        return realised(self.plans(x), plan, x, self.cap)

    def linear_oracle(self, g: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The image of the ball (cap ignored) with the largest inner product with g, exactly."""
        return exact_oracle(self.plans(x), g, self.budget(x)).image()

    def project(self, z: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """A member of the set near z: projected Sinkhorn, then `realise`."""
        light = x.flatten(1).sum(1, dtype=torch.float64)
        plan, _ = projected_sinkhorn(self.plans(x), z, light, self.budget(x), sharpness=_SHARPNESS, cap=self.cap)
        return self.realise(plan, x)

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A random member: the oracle's answer to Gaussian noise, mixed with x by a uniform share."""
        g = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x)
        share = torch.rand(len(x), generator=generator, dtype=x.dtype).to(x)
        plans = self.plans(x)
        plan = plans.stay() * (1 - share[:, None, None])
        exact_oracle(plans, g, self.budget(x)).add_to(plan, share)
        return self.realise(plan, x)

    def steepest(self, g: Tensor, weights: Tensor | None = None) -> Tensor:
        """Not offered: which light can move depends on the image.

        Raises:
            ThreatError: always.
        """
        raise ThreatError(
            f"{self.name} has no steepest direction without an image; ask linear_oracle(g, x), or use 'frank-wolfe'"
        )

    def with_radius(self, radius: float) -> ImageWasserstein:
        return replace(self, radius=radius)
