"""A ReLU MLP as float64 matrices, regions around a sample, neuron bounds over a region and the triangle relaxation.

Everything after `Network.around` is in units of the search radius u: z = x + u d, pre-activations divided by u, so that
solver tolerances are relative to the distance sought.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
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

    def margin(self, target: int, label: int, biases: list[Array]) -> tuple[Array, float]:
        """Row and offset of f_target - f_label over the last activations."""
        w = self.weights[-1]
        return w[target] - w[label], float(biases[-1][target] - biases[-1][label])


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


def _backward(g: Array, c: Array, weights: list[Array], biases: list[Array], bounds: Bounds, region: Region) -> Array:
    """Upper bounds of `g @ a + c`, a the activations behind the last of `bounds` (the input if there are none)."""
    for k in range(len(bounds) - 1, -1, -1):
        low, high = bounds[k]
        slope, intercept = upper_line(low, high)
        flat = np.where((high > -low) | (low >= 0), 1.0, 0.0) * (high > 0)
        positive, negative = np.maximum(g, 0), np.minimum(g, 0)
        g, c = positive * slope + negative * flat, c + positive @ intercept
        g, c = g @ weights[k], c + g @ biases[k]
    return region.support(g) + c


@dataclass
class System:
    """`row_low <= A v <= row_high`, `low <= v <= high`, with the places of its parts."""

    matrix: sparse.csr_matrix
    row_low: Array
    row_high: Array
    low: Array
    high: Array
    inputs: sparse.csr_matrix
    """d = inputs @ v."""
    s: list[slice]
    a: list[slice]
    triangle: list[slice]
    """Rows `a - slope s <= intercept`."""
    above: list[slice]
    """Rows `a - s >= 0`."""
    row: int
    """Row of the margin, without its offset."""
    norm: int
    """Column of t, or -1."""

    def margin(self) -> Array:
        """Coefficients of the target's margin."""
        out: Array = self.matrix[self.row].toarray()[0]
        return out

    @classmethod
    def build(
        cls, weights: list[Array], biases: list[Array], region: Region, bounds: Bounds, margin: tuple[Array, float],
        *, objective: bool,
    ) -> System:  # fmt: skip
        """With the target's `margin[0] @ a + margin[1] >= 0` over the last activations; `objective` adds t."""
        r, n = region.r, len(region.low)
        if r == 1:
            plus, minus = np.flatnonzero(region.high > 0), np.flatnonzero(region.low < 0)
            inputs = sparse.hstack(
                [sparse.identity(n, format="csc")[:, plus], -sparse.identity(n, format="csc")[:, minus]]
            )
            low, high = [np.zeros(len(plus) + len(minus))], [np.concatenate([region.high[plus], -region.low[minus]])]
        else:
            inputs = sparse.identity(n, format="csc")
            low, high = [region.low], [region.high]
        d = inputs.shape[1]
        sizes = [len(b) for b in biases[:-1]]
        total = d + 2 * sum(sizes) + (r != 2)
        norm = total - 1 if r != 2 else -1
        s, a, triangle, above = [], [], [], []
        blocks: list[sparse.spmatrix] = []
        row_low, row_high = [], []

        def put(parts: list[tuple[int, sparse.spmatrix]], lows: Array, highs: Array) -> slice:
            rows = parts[0][1].shape[0]
            block = sparse.hstack([
                piece for k, (start, part) in enumerate(parts) for piece in (
                    sparse.csr_matrix((rows, start - (parts[k - 1][0] + parts[k - 1][1].shape[1] if k else 0))), part)
            ] + [sparse.csr_matrix((rows, total - parts[-1][0] - parts[-1][1].shape[1]))])  # fmt: skip
            begin = sum(b.shape[0] for b in blocks)
            blocks.append(block)
            row_low.append(np.broadcast_to(lows, rows).astype(float))
            row_high.append(np.broadcast_to(highs, rows).astype(float))
            return slice(begin, begin + rows)

        before, place = inputs, 0
        for k, size in enumerate(sizes):
            column = d + 2 * sum(sizes[:k])
            s.append(slice(column, column + size))
            a.append(slice(column + size, column + 2 * size))
            eye = sparse.identity(size, format="csr")
            put([(place, -sparse.csr_matrix(weights[k] @ before)), (column, eye)], biases[k], biases[k])
            slope, intercept = upper_line(*bounds[k])
            above.append(put([(column, -eye), (column + size, eye)], 0.0, math.inf))
            triangle.append(put([(column, -sparse.diags(slope)), (column + size, eye)], -math.inf, intercept))
            low += [bounds[k][0], np.maximum(bounds[k][0], 0)]
            high += [bounds[k][1], np.maximum(bounds[k][1], 0)]
            before, place = sparse.identity(size, format="csr"), column + size
        row = put([(place, sparse.csr_matrix(margin[0][None] @ before))], -margin[1], math.inf).start
        if r != 2:
            one = sparse.csr_matrix(np.ones((d, 1)))
            if r == 1:
                put([(0, sparse.csr_matrix(np.ones((1, d)))), (norm, sparse.csr_matrix([[-1.0]]))], -math.inf, 0.0)
            elif objective:
                put([(0, sparse.identity(d)), (norm, -one)], -math.inf, 0.0)
                put([(0, sparse.identity(d)), (norm, one)], 0.0, math.inf)
            low.append(np.zeros(1))
            high.append(np.full(1, region.radius))
        return cls(
            sparse.vstack(blocks, format="csr"), np.concatenate(row_low), np.concatenate(row_high),
            np.concatenate(low), np.concatenate(high), inputs.tocsr(), s, a, triangle, above, row, norm,
        )  # fmt: skip
