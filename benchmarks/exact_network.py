"""A ReLU MLP as float64 matrices, norm-ball-and-box regions around a sample, and neuron bounds over such a region.

Everything after `Network.around` is in units of the search radius u: z = x + u d, pre-activations divided by u, so that
solver tolerances are relative to the distance sought.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from wassertight.models.architecture import Normalise

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """Layers `weights[k] @ a + biases[k]` with a ReLU between two, in float64."""

    weights: list[Array]
    biases: list[Array]

    @classmethod
    def read(cls, model: nn.Module, shape: tuple[int, ...]) -> Network:
        """From Sequentials of Linear, ReLU, Flatten, Identity, Dropout and an input normalisation in front."""
        weights: list[Array] = []
        biases: list[Array] = []
        scale, shift = np.ones(math.prod(shape)), np.zeros(math.prod(shape))
        after_linear = False
        for layer in _leaves(model):
            if isinstance(layer, Normalise):
                assert not weights, "normalisation only in front"
                factor, offset = (t.double().expand(shape).numpy().ravel() for t in layer.as_affine())
                scale, shift = factor * scale, factor * shift + offset
            elif isinstance(layer, nn.Linear):
                w = layer.weight.detach().double().numpy()
                b = np.zeros(len(w)) if layer.bias is None else layer.bias.detach().double().numpy()
                if not weights:
                    w, b = w * scale, b + w @ shift
                if after_linear:
                    w, b = w @ weights.pop(), w @ biases.pop() + b
                weights.append(w)
                biases.append(b)
                after_linear = True
            elif isinstance(layer, nn.ReLU):
                assert after_linear, "a ReLU follows a Linear layer"
                after_linear = False
            elif not isinstance(layer, (nn.Flatten, nn.Identity, nn.Dropout)):
                raise TypeError(f"exact distances are for ReLU MLPs, not {type(layer).__name__}")
        return cls(weights, biases)

    def pre_activations(self, z: Array) -> list[Array]:
        """All pre-activations, the logits last, of one input."""
        out = []
        for w, b in zip(self.weights, self.biases, strict=True):
            out.append(w @ z + b)
            z = np.maximum(out[-1], 0)
        return out

    def around(self, x: Array, u: float) -> list[Array]:
        """Biases of the network that sees d = (z - x) / u and whose pre-activations are divided by u."""
        return [(self.weights[0] @ x + self.biases[0]) / u, *(b / u for b in self.biases[1:])]


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _leaves(child)
    else:
        yield module


@dataclass(frozen=True)
class Region:
    """Displacements `low <= d <= high` with `||d||_r <= radius`."""

    low: Array
    high: Array
    r: float
    radius: float = 1.0

    @classmethod
    def of(cls, x: Array, u: float, r: float, radius: float = 1.0) -> Region:
        """The box [0, 1] around x in units of u, cut by the ball."""
        low, high = np.maximum(-x / u, -radius), np.minimum((1 - x) / u, radius)
        return cls(np.minimum(low, 0.0), np.maximum(high, 0.0), r, radius)

    def support(self, g: Array) -> Array:
        """Upper bound, exact up to rounding, of max g @ d for every row of g; weak duality makes it valid anyway."""
        caps = np.where(g > 0, self.high, -self.low)
        size = np.abs(g)
        if self.r == math.inf:
            return (size * caps).sum(1)
        if self.r == 1:
            order = np.argsort(-size, 1)
            caps, size = np.take_along_axis(caps, order, 1), np.take_along_axis(size, order, 1)
            before = np.cumsum(caps, 1) - caps
            return (size * np.clip(self.radius - before, 0, caps)).sum(1)
        full = (size * caps).sum(1)
        below = np.full(len(g), 1e-12)
        above = np.linalg.norm(size, axis=1) / self.radius + 1e-12
        for _ in range(40):
            middle = np.sqrt(below * above)
            outside = (np.minimum(size / middle[:, None], caps) ** 2).sum(1) > self.radius**2
            below, above = np.where(outside, middle, below), np.where(outside, above, middle)
        d = np.minimum(size / above[:, None], caps)
        dual = above * self.radius**2 / 2 + (size * d - above[:, None] * d * d / 2).sum(1)
        return np.minimum(full, dual)


Bounds = list[tuple[Array, Array]]


def upper_line(low: Array, high: Array) -> tuple[Array, Array]:
    """Slope and intercept of the smallest linear upper bound of the ReLU on [low, high]."""
    slope = np.clip((np.maximum(high, 0) - np.maximum(low, 0)) / np.maximum(high - low, 1e-300), 0, 1)
    slope = np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, slope))
    return slope, np.maximum(low, 0) - slope * np.where(low >= 0, low, np.where(high <= 0, 0.0, low))


def propagate(weights: list[Array], biases: list[Array], region: Region, known: Bounds | None = None) -> Bounds:
    """Bounds of all hidden pre-activations: linear bounds propagated backwards, cut with `known` (phases, tightenings)."""
    bounds: Bounds = []
    for k in range(len(weights) - 1):
        high = _backward(weights[k], biases[k], weights, biases, bounds, region)
        low = -_backward(-weights[k], -biases[k], weights, biases, bounds, region)
        if known is not None:
            low, high = np.maximum(low, known[k][0]), np.minimum(high, known[k][1])
        bounds.append((low, high))
    return bounds


def _backward(
    g: Array, c: Array, weights: list[Array], biases: list[Array], bounds: Bounds, region: Region
) -> Array:
    """Upper bounds of `g @ a + c`, a the activations behind the last of `bounds` (the input if there are none)."""
    for k in range(len(bounds) - 1, -1, -1):
        low, high = bounds[k]
        slope, intercept = upper_line(low, high)
        flat = np.where((high > -low) | (low >= 0), 1.0, 0.0) * (high > 0)
        positive, negative = np.maximum(g, 0), np.minimum(g, 0)
        g, c = positive * slope + negative * flat, c + positive @ intercept
        g, c = g @ weights[k], c + g @ biases[k]
    return region.support(g) + c
