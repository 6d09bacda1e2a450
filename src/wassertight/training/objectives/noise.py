"""Noise training for Wasserstein smoothing (1910.10783): cross-entropy under the noise that the certificate samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wassertight.losses import cross_entropy
from wassertight.training.base import Context, Crafted, Objective, Outer, check_settings
from wassertight.transport.flow_noise import (
    GaussianFlow,
    GaussianPixels,
    LaplaceFlow,
    LaplacePixels,
    UniformPixels,
    light,
)
from wassertight.types import InputError

LAWS: dict[str, Callable[..., Any]] = {
    "gaussian-flow": GaussianFlow,
    "laplace-flow": LaplaceFlow,
    "gaussian-pixels": GaussianPixels,
    "laplace-pixels": LaplacePixels,
    "uniform-pixels": UniformPixels,
}


@dataclass(frozen=True, kw_only=True)
class NoiseTraining(Objective):
    """`min E CE(x + noise)`; the light of an image is kept, nothing is clipped.

    Args:
        sigma: standard deviation on an edge (flows) or a pixel, in shares of the image's light. Published sweep:
            0.005 to 0.5 on MNIST, 5e-5 to 1e-3 on CIFAR-10. 0 is standard training.
        law: "laplace-flow" (published) or "gaussian-flow" and others; the one the certificate will use.
        noise: "own" draws for every image (ours) or one draw "shared" by the batch, as the released code does.

    Reference: 1910.10783 section 6; SGD 0.001, momentum 0.9, weight decay 5e-4, batch 128, 200 epochs.
    """

    name: ClassVar[str] = "noise"

    sigma: float = 0.05
    law: str = "laplace-flow"
    noise: Literal["own", "shared"] = "own"

    def __post_init__(self) -> None:
        check_settings(self.name, at_least_zero={"sigma": self.sigma}, positive={})
        if self.law not in LAWS or self.noise not in ("own", "shared"):
            raise InputError(
                f"law must be one of {', '.join(LAWS)} and noise own or shared, got {self.law!r} and {self.noise!r}"
            )

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> Crafted:
        """Noisy images."""
        if self.sigma == 0:
            return Crafted(x=x, y=y, z=x)
        add, generator = LAWS[self.law](sigma=self.sigma), context.generator
        if x.device.type != "cpu":
            seed = int(torch.randint(2**62, (1,), generator=generator))
            generator = torch.Generator(x.device).manual_seed(seed)
        if self.noise == "own":
            return Crafted(x=x, y=y, z=add(x, 1, generator)[0])
        flat = torch.full_like(x[:1], 1 / x[0].numel())
        return Crafted(x=x, y=y, z=x + light(x) * (add(flat, 1, generator)[0] - flat))

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """Mean cross-entropy of the noisy images."""
        logits = model(crafted.z)
        return Outer.mean(cross_entropy(logits, crafted.y), moved=logits)
