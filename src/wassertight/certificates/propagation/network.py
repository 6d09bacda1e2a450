"""Reads a feed-forward model into a chain of affine operators and ReLUs that bounds can be pushed through."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wassertight.certificates.propagation.operators import Affine, Convolution, Dense, Elementwise, Reshape
from wassertight.types import Model, UnsupportedLayerError

SUPPORTED = (
    "Linear, Conv2d (zero padding), Flatten, BatchNorm1d/2d in eval mode, AvgPool2d, AdaptiveAvgPool2d(1), ReLU, "
    "Identity, Dropout, and elementwise affine modules with a method as_affine(), in nn.Sequential"
)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Blocks of affine operators with a ReLU between consecutive blocks: affine, ReLU, affine, ..., affine.

    Attributes:
        blocks: each a tuple of operators; the last block ends in the logits.
        source: shape of one input.
    """

    blocks: tuple[tuple[Affine, ...], ...]
    source: tuple[int, ...]

    def logits(self, z: Tensor) -> Tensor:
        """The network as read, in the chain's own dtype."""
        for index, block in enumerate(self.blocks):
            z = z.relu() if index else z
            for op in block:
                z = op.apply(z)
        return z


def read_chain(model: Model, x: Tensor, *, dtype: torch.dtype, device: torch.device) -> Chain:
    """Read a model, and check that what was read gives the model's own logits on x.

    Raises:
        UnsupportedLayerError: naming the first layer that cannot be bounded and its position.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedLayerError(
            f"a certificate reads the network's layers; got {type(model).__name__}, which has none. "
            "Pass an nn.Sequential, or run without a certificate"
        )
    shape = tuple(x.shape[1:])
    blocks: list[list[Affine]] = [[]]
    for position, layer in _flat(model, ""):
        shape = _read_layer(position, layer, shape, blocks, dtype, device)
    if len(shape) != 1:
        raise UnsupportedLayerError(f"the network ends in features of shape {shape}, not in one row of logits")
    chain = Chain(blocks=tuple(tuple(block) for block in blocks), source=tuple(x.shape[1:]))
    with torch.no_grad():
        there, here = model(x), chain.logits(x.to(device=device, dtype=dtype))
    gap = float((there.to(here) - here).abs().max())
    allowed = (
        1e-3 * (1 + float(here.abs().max())) if there.dtype != torch.float64 else 1e-8 * (1 + float(here.abs().max()))
    )
    if not gap <= allowed:
        raise UnsupportedLayerError(f"the layers read do not reproduce the model's logits (off by {gap:.2e})")
    return chain


def _flat(module: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    if type(module) is nn.Sequential:
        return [pair for name, child in module.named_children() for pair in _flat(child, f"{prefix}{name}.")]
    return [(prefix.rstrip(".") or "the model", module)]


def _read_layer(
    position: str,
    layer: nn.Module,
    shape: tuple[int, ...],
    blocks: list[list[Affine]],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[int, ...]:
    kind = type(layer)
    if isinstance(layer, nn.ReLU) and kind is nn.ReLU:
        blocks.append([])
        return shape
    if kind in (nn.Identity, nn.Dropout, nn.Dropout2d):
        return shape
    op = _affine(position, layer, shape, dtype, device)
    blocks[-1].append(op)
    return op.target


def _affine(
    position: str, layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Affine:
    kind = type(layer)
    if hasattr(layer, "as_affine"):
        scale, shift = layer.as_affine()  # type: ignore[operator]
        return _elementwise(scale, shift, shape, dtype, device)
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d):
        return _batch_norm(position, layer, shape, dtype, device)
    if isinstance(layer, nn.Linear) and kind is nn.Linear and len(shape) == 1:
        weight = layer.weight.detach().to(device=device, dtype=dtype)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().to(weight)
        return Dense(weight=weight, bias=bias, source=shape, target=(len(weight),))
    if isinstance(layer, nn.Flatten) and kind is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
        return Reshape(source=shape, target=(math.prod(shape),))
    if isinstance(layer, nn.Conv2d) and kind is nn.Conv2d and layer.padding_mode == "zeros" and len(shape) == 3:
        weight = layer.weight.detach().to(device=device, dtype=dtype)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().to(weight)
        return _convolution(
            weight, bias, _pair(layer.stride), _padding(layer), _pair(layer.dilation), layer.groups, shape
        )
    if isinstance(layer, nn.AvgPool2d) and kind is nn.AvgPool2d and len(shape) == 3 and not layer.ceil_mode:
        kernel, padding = _pair(layer.kernel_size), _pair(layer.padding)
        if padding == (0, 0) or layer.count_include_pad:
            return _pool(kernel, _pair(layer.stride), padding, shape, layer.divisor_override, dtype, device)
    if kind is nn.AdaptiveAvgPool2d and len(shape) == 3 and _pair(layer.output_size) == (1, 1):  # type: ignore[arg-type]
        return _pool((shape[1], shape[2]), (1, 1), (0, 0), shape, None, dtype, device)
    raise UnsupportedLayerError(
        f"layer {position} ({kind.__name__}, input shape {shape}) cannot be bounded; supported: {SUPPORTED}. "
        "Run without a certificate (certificate=None, --certificate none) to attack this model"
    )


def _elementwise(
    scale: Tensor, shift: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Affine:
    like = torch.zeros(shape, dtype=dtype, device=device)
    scale, shift = scale.detach().to(like), shift.detach().to(like)
    return Elementwise(
        scale=scale.expand(shape).contiguous(), shift=shift.expand(shape).contiguous(), source=shape, target=shape
    )


def _batch_norm(
    position: str, layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Affine:
    mean, variance, eps = layer.running_mean, layer.running_var, float(layer.eps)  # type: ignore[arg-type]
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        raise UnsupportedLayerError(
            f"layer {position} ({type(layer).__name__}) has no running statistics to bound with"
        )
    scale = (variance.detach().to(dtype) + eps).rsqrt()
    if isinstance(layer.weight, Tensor):
        scale = scale * layer.weight.detach().to(dtype)
    shift = -mean.detach().to(dtype) * scale
    if isinstance(layer.bias, Tensor):
        shift = shift + layer.bias.detach().to(dtype)
    form = (-1,) + (1,) * (len(shape) - 1)
    return _elementwise(scale.view(form), shift.view(form), shape, dtype, device)


def _convolution(
    weight: Tensor,
    bias: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    shape: tuple[int, ...],
) -> Affine:
    size = [
        (shape[1 + k] + 2 * padding[k] - dilation[k] * (weight.shape[2 + k] - 1) - 1) // stride[k] + 1 for k in (0, 1)
    ]
    return Convolution(
        weight=weight,
        bias=bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        source=shape,
        target=(len(weight), size[0], size[1]),
    )


def _pool(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    shape: tuple[int, ...],
    divisor: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Affine:
    channels = shape[0]
    share = 1 / (divisor or kernel[0] * kernel[1])
    weight = torch.full((channels, 1, *kernel), share, dtype=dtype, device=device)
    return _convolution(weight, weight.new_zeros(channels), stride, padding, (1, 1), channels, shape)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    if layer.padding == "valid":
        return (0, 0)
    if layer.padding == "same":
        sizes = [layer.dilation[k] * (layer.kernel_size[k] - 1) for k in (0, 1)]
        if sizes[0] % 2 or sizes[1] % 2:
            raise UnsupportedLayerError("Conv2d with padding='same' needs an odd effective kernel size to be bounded")
        return (sizes[0] // 2, sizes[1] // 2)
    return _pair(layer.padding)  # type: ignore[arg-type]
