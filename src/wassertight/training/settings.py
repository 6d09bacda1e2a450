"""How a network is trained besides the objective: length, optimiser, rates, averaging, precision, stopping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from wassertight.types import InputError

_CHOICES = {
    "optimiser": ("sgd", "adam", "adamw"),
    "schedule": ("constant", "triangle", "cosine", "steps"),
    "precision": ("fp32", "bf16"),
    "augment": ("none", "crop-flip"),
    "craft_mode": ("eval", "train"),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything of a run but model, data and objective.

    Attributes:
        epochs: passes over the training set; or `steps`, optimiser steps, which wins where given.
        batch_size: over all processes.
        optimiser, rate, momentum, nesterov, weight_decay: decay acts on every parameter, as published recipes do.
        schedule: "constant"; "triangle" (up to `rate` at `peak` of the run, down to 0); "cosine" to 0; "steps" (times
            `factor` at the start of each epoch in `milestones`).
        clip_norm: largest norm of the gradient, or None.
        ema: rate of the exponential average of weights (0.995), or None; the average is what is validated and kept.
        precision: "bf16" runs passes in bfloat16 where the device has it.
        augment: "crop-flip": pad by 4, crop, mirror.
        craft_mode: "eval" or "train": layers such as batch norm while crafting.
        validate_every: epochs between validations.
        patience: stop after so many validations without a better score, or None.
        collapse: stop when the validated robust accuracy falls by more than this between validations.
        keep: "best" by validation or "last": the weights the run ends with.
        checkpoint_seconds: between checkpoints inside an epoch; there is one at the end of every epoch.
        channels_last: memory layout for convolutions: twice as fast for a small ResNet on a CPU too; results differ in
            rounding.
        seed: of data order, augmentation and crafting.
    """

    epochs: int = 10
    steps: int | None = None
    batch_size: int = 128
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: Literal["constant", "triangle", "cosine", "steps"] = "triangle"
    peak: float = 0.5
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    clip_norm: float | None = None
    ema: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    augment: Literal["none", "crop-flip"] = "none"
    craft_mode: Literal["eval", "train"] = "eval"
    validate_every: int = 1
    patience: int | None = None
    collapse: float = 0.2
    keep: Literal["best", "last"] = "best"
    checkpoint_seconds: float = 60.0
    channels_last: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}")
        if not 0 < self.rate < math.inf or self.weight_decay < 0 or not 0 <= self.momentum < 1:
            raise InputError(
                "rate must be > 0, weight_decay >= 0 and momentum in [0, 1), "
                f"got {self.rate}, {self.weight_decay}, {self.momentum}"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"ema is a rate such as 0.995, between 0 and 1, or None; got {self.ema}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"clip_norm must be > 0 or None, got {self.clip_norm}")
        if bool(self.milestones) != (self.schedule == "steps"):
            raise InputError(
                f"schedule 'steps' and milestones go together, got {self.schedule!r} and {self.milestones}"
            )
        if not 0 < self.peak < 1 or not self.collapse > 0:
            raise InputError(f"peak must be in (0, 1) and collapse > 0, got {self.peak} and {self.collapse}")

    def length(self, batches: int) -> int:
        """Optimiser steps of the whole run, with so many batches an epoch."""
        return self.epochs * batches if self.steps is None else self.steps

    def rate_at(self, step: int, batches: int) -> float:
        """The learning rate of a step.

        >>> [round(Settings(epochs=2, rate=1.0).rate_at(step, 2), 3) for step in range(4)]
        [0.25, 0.75, 0.75, 0.25]
        """
        done = (step + 0.5) / self.length(batches)
        if self.schedule == "triangle":
            return self.rate * min(done / self.peak, (1 - done) / (1 - self.peak))
        if self.schedule == "cosine":
            return self.rate * (1 + math.cos(math.pi * done)) / 2
        passed = sum(step // batches >= epoch for epoch in self.milestones)
        return float(self.rate * self.factor**passed)

    def make_optimiser(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser, its rate to be set at every step."""
        if self.optimiser == "sgd":
            return torch.optim.SGD(
                parameters, self.rate, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
            )
        kind = torch.optim.Adam if self.optimiser == "adam" else torch.optim.AdamW
        return kind(parameters, self.rate, weight_decay=self.weight_decay)
