"""Perturbed weights while the outer loss is taken: adversarial (AWP, 2004.05884) or random, around any objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from wassertight.training.base import Context, Crafted, Metrics, Objective, Outer, check_settings


class Shifted(nn.Module):
    """A module seen at `parameters + offsets`: gradients reach the parameters, which themselves never change.

    Args:
        module: any module.
        offsets: by parameter name; others stay.
        apart: run on copies of the buffers, so that running statistics do not move.
    """

    def __init__(self, module: nn.Module, offsets: Mapping[str, Tensor], *, apart: bool = False) -> None:
        super().__init__()
        self.module, self.offsets, self.apart = module, dict(offsets), apart

    def forward(self, x: Tensor) -> Tensor:
        """The module's answer at the shifted parameters."""
        prefix = "module." if isinstance(self.module, DistributedDataParallel) else ""
        values = {name: p for name, p in self.module.named_parameters() if name.removeprefix(prefix) in self.offsets}
        moved = {name: p + self.offsets[name.removeprefix(prefix)] for name, p in values.items()}
        if self.apart:
            moved |= {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        out: Tensor = functional_call(self.module, moved, (x,))
        return out


@dataclass(frozen=True, kw_only=True)
class AdversarialWeights(Objective):
    """AWP: the outer loss at `theta + v`, v one ascent step of that loss, `||v_l|| = gamma ||theta_l||` for every layer.

    The gradient at theta + v is applied to theta. Only weights of more than one dimension move.

    Args:
        base: any objective.
        gamma: relative size; 0.01 (PGD-AT), 0.005 after 10 epochs (TRADES). 0 is the base itself.
        warmup: epochs without.
        below: the ascent sees only samples of loss below this (robust weight perturbation, 2205.14826); None is all.

    Costs one more forward and backward pass. Differs from the released code: 1. weight decay acts on theta, not on
    theta + v; 2. running statistics do not see the ascent pass.
    """

    name: ClassVar[str] = "awp"

    base: Objective
    gamma: float = 0.005
    warmup: int = 0
    below: float | None = None

    def __post_init__(self) -> None:
        check_settings(self.name, at_least_zero={"gamma": self.gamma, "warmup": self.warmup}, positive={})

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> None:
        """The base's."""
        self.base.prepare(model, x, y, context)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> Crafted:
        """The base's, at the unshifted parameters."""
        return self.base.craft(model, x, y, context)

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """The base's loss at the shifted parameters."""
        if self.gamma == 0 or context.epoch < self.warmup:
            return self.base.outer(model, crafted, context)
        return self.base.outer(Shifted(model, self.offsets(model, crafted, context)), crafted, context)

    def update(self, crafted: Crafted, outer: Outer, context: Context) -> Metrics:
        """The base's."""
        return self.base.update(crafted, outer, context)

    def offsets(self, model: nn.Module, crafted: Crafted, context: Context) -> dict[str, Tensor]:
        """v by parameter name."""
        bare = model.module if isinstance(model, DistributedDataParallel) else model
        weights = layers(bare)
        outer = self.base.outer(Shifted(bare, {}, apart=True), crafted, context)
        loss = outer.loss
        if self.below is not None:
            loss = (outer.each * (outer.each.detach() < self.below)).mean()
        slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        return {
            name: relative(slope, weight, self.gamma)
            for (name, weight), slope in zip(weights.items(), slopes, strict=True)
            if slope is not None
        }


@dataclass(frozen=True, kw_only=True)
class RandomWeights(Objective):
    """The outer loss at randomly shifted weights, `||shift_l|| = gamma ||theta_l||`, fresh at every step.

    Args:
        base: any objective.
        gamma: relative size (0.01 proposed). 0 is the base itself.
        average: take the mean of the losses at theta and at theta + shift (2404.00357), one more pass.
    """

    name: ClassVar[str] = "weight-noise"

    base: Objective
    gamma: float = 0.01
    average: bool = False

    def __post_init__(self) -> None:
        check_settings(self.name, at_least_zero={"gamma": self.gamma}, positive={})

    def prepare(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> None:
        """The base's."""
        self.base.prepare(model, x, y, context)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> Crafted:
        """The base's, at the unshifted parameters."""
        return self.base.craft(model, x, y, context)

    def outer(self, model: nn.Module, crafted: Crafted, context: Context) -> Outer:
        """The base's loss at the shifted parameters."""
        if self.gamma == 0:
            return self.base.outer(model, crafted, context)
        bare = model.module if isinstance(model, DistributedDataParallel) else model
        offsets = {name: relative(_draw(w, context), w, self.gamma) for name, w in layers(bare).items()}
        outer = self.base.outer(Shifted(model, offsets), crafted, context)
        if not self.average:
            return outer
        plain = self.base.outer(model, crafted, context)
        return dataclasses.replace(outer, loss=(outer.loss + plain.loss) / 2)

    def update(self, crafted: Crafted, outer: Outer, context: Context) -> Metrics:
        """The base's."""
        return self.base.update(crafted, outer, context)


def layers(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that perturbations move: named `weight`, more than one dimension."""
    named = module.named_parameters()
    return {name: p for name, p in named if name.rpartition(".")[2] == "weight" and p.ndim > 1 and p.requires_grad}


def relative(direction: Tensor, weight: Tensor, gamma: float) -> Tensor:
    """The direction scaled to `gamma` times the weight's norm.

    >>> relative(torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 4.0]]), 0.1).tolist()
    [[0.0, 0.5]]
    """
    size = direction.norm()
    scale = torch.where(size > 0, gamma * weight.detach().norm() / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0)
    return (direction * scale).detach()


def _draw(weight: Tensor, context: Context) -> Tensor:
    return torch.randn(weight.shape, generator=context.generator).to(weight)
