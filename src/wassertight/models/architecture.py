"""Builds networks from a declared architecture: a list of layers in the language of the shared manifests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wassertight.errors import nearest
from wassertight.types import ModelError


class Normalise(nn.Module):
    """Input normalisation `(x - mean) / std`, one mean and deviation a channel.

    >>> Normalise([0.5], [0.25])(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ModelError(f"mean and std must have one entry a channel and std > 0, got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def as_affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift with `forward(x) = scale * x + shift`; how certificates read any elementwise affine module."""
        return 1 / self.std, -self.mean / self.std

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


class Residual(nn.Module):
    """`main(x) + skip(x)`; an empty skip is the identity."""

    def __init__(self, main: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.main, self.skip = main, skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x) + self.skip(x)
        return out


class PadSubsample(nn.Module):
    """Parameter-free shortcut: every `stride`-th pixel, `pad` zero channels before and after."""

    def __init__(self, stride: int, pad: int) -> None:
        super().__init__()
        self.stride, self.pad = stride, pad

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))


class Binarize(nn.Module):
    """`1[x > threshold]`, with a straight-through gradient so that attacks see a slope. Not differentiable as such."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        hard = (x > self.threshold).to(x.dtype)
        return hard + (x - x.detach())


class _Block(nn.Module):
    """Pre-norm transformer block with batch-normalised tokens."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.bn1, self.bn2 = nn.BatchNorm1d(dim), nn.BatchNorm1d(dim)
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn1(x.transpose(1, 2)).transpose(1, 2)
        n, tokens, dim = h.shape
        q, k, v = (
            layer(h).view(n, tokens, self.heads, dim // self.heads).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        weights = (q @ k.transpose(2, 3) * self.scale).softmax(-1)
        x = x + self.o((weights @ v).transpose(1, 2).reshape(n, tokens, dim))
        h = self.bn2(x.transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.fc2(torch.relu(self.fc1(h)))
        return out


class VisionTransformer(nn.Module):
    """Small vision transformer with BatchNorm1d over token channels (the manifest's `vit_bn`)."""

    def __init__(
        self, *, channels: int, side: int, patch: int, dim: int, depth: int, heads: int, mlp: int, classes: int
    ) -> None:
        super().__init__()
        tokens = (side // patch) ** 2 + 1
        self.patch = nn.Conv2d(channels, dim, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(dim))
        self.pos = nn.Parameter(torch.zeros(tokens, dim))
        self.blocks = nn.ModuleList(_Block(dim, heads, mlp) for _ in range(depth))
        self.bn = nn.BatchNorm1d(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls.expand(len(x), 1, -1), tokens), 1) + self.pos
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.bn(x.mean(1)))
        return out


def _global_average_pool() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _conv(cin: int, cout: int, k: int, stride: int, pad: int, bias: bool = True) -> nn.Module:
    return nn.Conv2d(cin, cout, k, stride, pad, bias=bias)


_LAYERS: Mapping[str, Callable[..., nn.Module]] = {
    "conv": _conv,
    "linear": nn.Linear,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "flatten": nn.Flatten,
    "maxpool": nn.MaxPool2d,
    "avgpool": nn.AvgPool2d,
    "batchnorm2d": nn.BatchNorm2d,
    "batchnorm1d": nn.BatchNorm1d,
    "global_avg_pool": _global_average_pool,
    "pad_subsample": PadSubsample,
    "binarize": Binarize,
    "dropout": nn.Dropout,
    "identity": nn.Identity,
}


def build(
    architecture: Sequence[Sequence[Any]] | Mapping[str, Any],
    *,
    input_shape: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Sequential:
    """A network of standard torch layers from its declaration; weights are loaded separately.

    Args:
        architecture: list of `[word, arguments...]`, or `{"kind": "vit_bn", ...}`.
        input_shape: (channels, height, width), needed by `vit_bn`.
        mean, std: input normalisation, placed in front unless it is the identity.

    Raises:
        ModelError: for an unknown word (with the nearest one) or wrong arguments.

    >>> build([["flatten"], ["linear", 4, 2]])(torch.zeros(3, 1, 2, 2)).shape
    torch.Size([3, 2])
    """
    described = isinstance(architecture, Mapping)
    body: nn.Module = _transformer(architecture, input_shape) if described else _chain(architecture)  # type: ignore[arg-type]
    layers: list[nn.Module] = []
    if mean is not None and std is not None and (any(m != 0 for m in mean) or any(s != 1 for s in std)):
        layers.append(Normalise(mean, std))
    return nn.Sequential(*layers, body)


def _chain(architecture: Sequence[Sequence[Any]]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for position, entry in enumerate(architecture):
        word, arguments = str(entry[0]), list(entry[1:])
        if word == "residual":
            layers.append(Residual(_chain(arguments[0]), _chain(arguments[1])))
            continue
        if word not in _LAYERS:
            near = nearest(word, [*_LAYERS, "residual"])
            raise ModelError(f"unknown layer {word!r} at position {position}; did you mean {near!r}?")
        try:
            layers.append(_LAYERS[word](*arguments))
        except TypeError as error:
            raise ModelError(f"layer {position} ({word}) does not take the arguments {arguments}: {error}") from error
    return nn.Sequential(*layers)


def _transformer(description: Mapping[str, Any], input_shape: Sequence[int] | None) -> VisionTransformer:
    if description.get("kind") != "vit_bn" or input_shape is None:
        raise ModelError(f"only kind 'vit_bn' with an input_shape is known, got {dict(description)}")
    sizes = {key: int(description[key]) for key in ("patch", "dim", "depth", "heads", "mlp", "classes")}
    return VisionTransformer(channels=int(input_shape[0]), side=int(input_shape[1]), **sizes)
