"""Small networks grown at random from every kind of layer that can be bounded, and points of their input regions."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from wassertight.certificates.propagation.bounds import Bounds
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.region import Region
from wassertight.geometry import norm

Step = Callable[[Tensor], Tensor]
PRECISIONS = [(torch.float64, torch.float64), (torch.float32, torch.float64), (torch.float32, torch.float32)]
"""Of the model and of its bounds."""
SHAPES = [(2, 2, 2), (1, 3, 3), (1, 2, 5), (3, 3), (4, 2), (6,), (9,)]
POINTWISE: list[Callable[[], Step]] = [
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.GELU, lambda: nn.GELU("tanh"), nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU,
    lambda: nn.ELU(1.7), nn.SELU, nn.Softplus, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.ReLU6,
    lambda: torch.abs, lambda: torch.erf, lambda: torch.exp, lambda: torch.square, lambda: lambda z: z.clamp(-0.3, 0.6),
    lambda: lambda z: z.clamp_min(0.1), lambda: lambda z: z.clamp_max(0.1), lambda: lambda z: (z.abs() + 0.5).sqrt(),
    lambda: lambda z: (z.square() + 0.5).log(), lambda: lambda z: 1 / (z.exp() + 0.5), lambda: lambda z: -z,
    lambda: lambda z: (z.square() + 0.3).rsqrt(), lambda: lambda z: z**2 - 0.5, lambda: lambda z: 2.0 - z,
]  # fmt: skip


class Grown(nn.Module):
    """A chain of `depth` random steps, each of which may branch and join again; logits of `classes` classes.

    Attributes:
        kinds: names of the steps taken.
    """

    def __init__(self, seed: int, depth: int = 5, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.dice = random.Random(seed)
        self.source = self.dice.choice(SHAPES)
        self.kinds: list[str] = []
        self.held = nn.ModuleList()
        self.steps: list[Step] = []
        z = torch.rand(2, *self.source)
        for _ in range(depth):
            z = self._grow(z)
        self.steps.append(self._keep(nn.Sequential(nn.Flatten(), nn.Linear(z[0].numel(), classes))))
        self.eval()

    def forward(self, z: Tensor) -> Tensor:
        for step in self.steps:
            z = step(z)
        return z

    def _grow(self, z: Tensor) -> Tensor:
        options = {1: self._vector, 2: self._tokens, 3: self._image}[z.ndim - 1](z)
        name = self.dice.choice(sorted(options))
        step = options[name]()
        with torch.no_grad():
            value = step(z)
        if value[0].numel() > 60 or value[0].numel() < 2 or float(value.abs().max()) > 30:
            return self._grow(z)
        self.kinds.append(name)
        self.steps.append(step)
        return value

    def _keep(self, module: Step) -> Step:
        if isinstance(module, nn.Module):
            for part in module.modules():
                if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    part.running_mean.uniform_(-0.5, 0.5)
                    part.running_var.uniform_(0.3, 2)
                if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
                    nn.init.uniform_(part.weight, -1.5, 1.5)
                    nn.init.uniform_(part.bias, -0.5, 0.5)
            self.held.append(module.eval())
        return module

    def _shared(self, z: Tensor) -> dict[str, Callable[[], Step]]:
        """Steps for values of any shape."""
        width = z.shape[-1]

        def linear() -> Step:
            return self._keep(nn.Linear(width, self.dice.randint(2, 6)))

        def pair(join: Callable[[Tensor, Tensor], Tensor]) -> Step:
            first, second = self._keep(nn.Linear(width, width)), self._keep(nn.Linear(width, width))
            bend = self._keep(self.dice.choice(POINTWISE)())
            return lambda z: join(bend(first(z)), second(z))

        def denominator(z: Tensor) -> Tensor:
            return functional.softplus(z) + 0.5

        return {
            "pointwise": lambda: self._keep(self.dice.choice(POINTWISE)()),
            "bend": lambda: self._keep(self.dice.choice(POINTWISE)()),
            "linear": linear,
            "residual": lambda: pair(lambda a, b: a + b),
            "skip": lambda: (lambda f: lambda z: z + f(z))(self._keep(nn.Sequential(nn.Linear(width, width), nn.ReLU()))),
            "difference": lambda: pair(lambda a, b: a - 0.5 * b),
            "product": lambda: pair(lambda a, b: a * b),
            "quotient": lambda: pair(lambda a, b: a / denominator(b)),
            "gate": lambda: lambda z: z * z.sigmoid(),
            "concatenated": lambda: pair(lambda a, b: torch.cat((a, b, torch.ones_like(a[..., :1])), -1)),
            "split": lambda: lambda z: (lambda p: torch.cat((p[-1], p[0]), -1))(z.split([1, width - 1], -1)) if width > 1 else z,
            "softmax": lambda: lambda z: z.softmax(-1),
            "padded": lambda: lambda z: functional.pad(z, (1, 0), value=0.3),
            "sliced": lambda: lambda z: z[..., 1:] - z[..., :-1] if width > 1 else z,
            "centred": lambda: lambda z: z - z.mean(-1, keepdim=True),
            "expanded": lambda: lambda z: z.sum(-1, keepdim=True).expand_as(z) * 0.5 - z,
            "layer norm": lambda: self._keep(nn.LayerNorm(width)) if width > 1 else lambda z: z,
            "reshaped": lambda: lambda z: z.flatten(1),
        }  # fmt: skip

    def _vector(self, z: Tensor) -> dict[str, Callable[[], Step]]:
        width = z.shape[1]
        return {
            **self._shared(z),
            "batch norm": lambda: self._keep(nn.BatchNorm1d(width)),
            "tokens": lambda: lambda z: z.view(len(z), -1, 2) if width % 2 == 0 else z,
            "stacked": lambda: lambda z: torch.stack((z, z.tanh()), 1),
        }

    def _tokens(self, z: Tensor) -> dict[str, Callable[[], Step]]:
        width = z.shape[2]

        def attention() -> Step:
            if width % 2:
                return self._keep(nn.Linear(width, 4))
            attend = self._keep(nn.MultiheadAttention(width, 2, batch_first=True))
            return lambda z: attend(z, z, z, need_weights=False)[0]

        def encoder() -> Step:
            if width % 2:
                return self._keep(nn.Linear(width, 2))
            return self._keep(
                nn.TransformerEncoderLayer(
                    width, 2, 4, batch_first=True, norm_first=self.dice.random() < 0.5, activation=self.dice.choice(["relu", "gelu"])
                )
            )  # fmt: skip

        return {
            **self._shared(z),
            "attention": attention,
            "encoder": encoder,
            "scores": lambda: lambda z: z @ z.transpose(1, 2) / width,
            "self product": lambda: lambda z: functional.scaled_dot_product_attention(z, z.tanh(), z),
            "mean": lambda: lambda z: z.mean(1),
            "sum": lambda: lambda z: z.sum(1),
            "permuted": lambda: lambda z: z.permute(0, 2, 1),
            "picked": lambda: lambda z: z[:, 0] + z.select(1, z.shape[1] - 1),
        }

    def _image(self, z: Tensor) -> dict[str, Callable[[], Step]]:
        channels, height, width = z.shape[1:]
        large = min(height, width) > 1

        def convolution() -> Step:
            groups = 2 if channels % 2 == 0 and self.dice.random() < 0.4 else 1
            size = self.dice.choice([1, 2, 3])
            return self._keep(
                nn.Conv2d(channels, 4, size, self.dice.choice([1, 2]), self.dice.choice([1, 2]), groups=groups, bias=self.dice.random() < 0.7)
            )  # fmt: skip

        def dilated() -> Step:
            return self._keep(nn.Conv2d(channels, 2, 2, padding=1, dilation=2))

        def block() -> Step:
            body = self._keep(
                nn.Sequential(nn.Conv2d(channels, 3, 3, 2, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3, 1, 1))
            )
            skip = self._keep(nn.Sequential(nn.Conv2d(channels, 3, 1, 2, 0, bias=False), nn.BatchNorm2d(3)))
            return lambda z: torch.relu(body(z) + skip(z))

        def pooled() -> Step:
            kind = self.dice.choice([nn.MaxPool2d, nn.AvgPool2d])
            return self._keep(kind(2, self.dice.choice([1, 2]), self.dice.choice([0, 1]))) if large else lambda z: z

        return {
            **self._shared(z),
            "convolution": convolution,
            "dilated": dilated,
            "block": block,
            "pooling": pooled,
            "max pooling": lambda: self._keep(nn.MaxPool2d(3, 2, 1)) if large else lambda z: z,
            "dilated pooling": lambda: self._keep(nn.MaxPool2d(2, 1, 1, dilation=2)) if large else lambda z: z,
            "global pooling": lambda: self._keep(nn.AdaptiveAvgPool2d(1)),
            "channel batch norm": lambda: self._keep(nn.BatchNorm2d(channels)),
            "channel prelu": lambda: self._keep(nn.PReLU(channels)),
            "flattened": lambda: lambda z: z.flatten(2).transpose(1, 2),
            "channels joined": lambda: lambda z: torch.cat((z, z.relu()), 1),
            "reflected": lambda: lambda z: functional.pad(z, (1, 0, 0, 1), mode="reflect") if large else z,
        }


def region_points(x: Tensor, t: Tensor, r: float, bounds: tuple[float, float] | None, n: int = 200) -> Tensor:
    """Points of every sample's region in float64, (points, n, *features): corners or vertices, boundary, inside."""
    x, t = x.double(), t.double()
    size = x[0].numel()
    generator = torch.Generator().manual_seed(1)
    if math.isinf(r) and size <= 10:
        ends = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=size)), dtype=torch.float64)
    else:
        ends = torch.cat((torch.eye(size), -torch.eye(size))).double()
    away = torch.randn(n, size, generator=generator, dtype=torch.float64)
    away = torch.cat(
        (away.sign() if math.isinf(r) else away, away * (torch.rand(away.shape, generator=generator) < 0.3))
    )
    away = away / norm(away, r)[:, None].clamp_min(1e-12)
    inside = away * torch.rand(len(away), 1, generator=generator, dtype=torch.float64)
    steps = torch.cat((ends, away, inside)).view(-1, 1, *x.shape[1:]) * (1 - 1e-12)
    points = x + steps * t.view(-1, *(1,) * (x.ndim - 1))
    return points if bounds is None else points.clamp(*bounds)


def exact_points(x: Tensor, t: Tensor, r: float, bounds: tuple[float, float] | None) -> Tensor:
    """Points of the regions in the model's precision, exactly inside."""
    points = region_points(x, t, r, bounds).to(x.dtype)
    inside = norm((points.double() - x.double()).flatten(0, 1), r).view(points.shape[:2]) <= t.double()
    return torch.where(inside.view(*inside.shape, *(1,) * (x.ndim - 1)), points, x)


def check_nodes(propagation: Propagation, region: Region, points: Tensor) -> tuple[Tensor, list[Tensor], Bounds]:
    """Holds the bounds of every node against its values at points (k, n, *features); the points as entered, values, bounds."""
    graph, region = propagation.graph, propagation.enter(region)
    found = propagation.bounds(region)
    entered = points.flatten(0, 1).to(region.x)
    for scaling in propagation.entry:
        entered = scaling.apply(entered)
    values = graph.values(entered)
    known = ~found.lost
    for index, node in enumerate(graph.nodes):
        value = values[index].reshape(*points.shape[:2], *node.shape)[:, known]
        low, high, error = (v[known] for v in found.triple(index))
        assert (error >= 0).all(), node.name
        assert (low - error <= value).all(), node.name
        assert (value <= high + error).all(), node.name
    return entered.reshape(*points.shape[:2], *region.x.shape[1:]), values, found
