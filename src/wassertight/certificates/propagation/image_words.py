"""Recorded operations on feature maps that are affine in the input: convolution, batch normalisation, average pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wassertight.certificates.propagation.affine_words import scaled, viewed
from wassertight.certificates.propagation.operations import Convolution
from wassertight.certificates.propagation.reading import Handler, Reader, Ref

_NORMALISATION = 8
"""Roundings in one entry of a batch normalisation, its root and quotient among them."""
_Pair = tuple[int, int]


def convolution(
    reader: Reader,
    ref: Ref,
    weight: Tensor,
    bias: Tensor | None,
    stride: _Pair = (1, 1),
    padding: _Pair = (0, 0),
    dilation: _Pair = (1, 1),
    groups: int = 1,
) -> Ref:
    """2-d convolution with zero padding."""
    source = reader.shape(ref)
    size = [
        (source[1 + k] + 2 * padding[k] - dilation[k] * (weight.shape[2 + k] - 1) - 1) // stride[k] + 1 for k in (0, 1)
    ]
    target = (len(weight), size[0], size[1])
    operation = Convolution(
        weight=weight,
        bias=weight.new_zeros(len(weight)) if bias is None else bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        source=source,
        target=target,
    )
    return reader.add(operation, (ref,), target)


def _pair(value: Any) -> _Pair:
    values = [value] if isinstance(value, int) else list(value)
    return (int(values[0]), int(values[-1]))


def _convolve(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    names = ("weight", "bias", "stride", "padding", "dilation", "groups")
    given = dict(zip(names, a[1:], strict=False)) | k
    if any(isinstance(given.get(name), Ref) for name in names):
        raise reader.refuse("a kernel that depends on the input")
    weight, bias = reader.constant(given["weight"]), given.get("bias")
    flat = weight.ndim == 3
    stride, dilation = _pair(given.get("stride", 1)), _pair(given.get("dilation", 1))
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        reach = [d * (s - 1) if padding == "same" else 0 for d, s in zip(dilation, weight.shape[2:], strict=False)]
        if any(r % 2 for r in reach):
            raise reader.refuse("padding='same' with an even effective kernel")
        padding = [r // 2 for r in reach]
    padding = _pair(padding)
    ref = a[0]
    if flat:
        weight, stride, dilation, padding = weight[:, :, None], (1, stride[0]), (1, dilation[0]), (0, padding[0])
        ref = viewed(reader, ref, (reader.shape(ref)[0], 1, reader.shape(ref)[1]))
    bias = None if bias is None else reader.constant(bias)
    out = convolution(reader, ref, weight, bias, stride, padding, dilation, int(given.get("groups", 1)))
    return viewed(reader, out, reader.target)


def _batch_norm(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    ref, weight, bias, mean, variance, training, _, eps = a[:8]
    if training or mean is None or variance is None:
        raise reader.refuse("batch normalisation by the batch's own statistics (call model.eval(), keep running ones)")
    scale = (reader.constant(variance) + eps).rsqrt()
    scale = scale if weight is None else scale * reader.constant(weight)
    shift = -reader.constant(mean) * scale
    heft = shift.abs() if bias is None else shift.abs() + reader.constant(bias).abs()
    shift = shift if bias is None else shift + reader.constant(bias)
    form = (-1,) + (1,) * (len(reader.shape(ref)) - 1)
    return scaled(reader, ref, scale.view(form), shift.view(form), heft=heft.view(form), terms=_NORMALISATION)


def _average(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    given = dict(zip(("kernel", "stride", "padding", "ceil", "include", "divisor"), a[1:], strict=False)) | k
    kernel, padding = _pair(given["kernel"]), _pair(given.get("padding") or 0)
    include = given.get("include", given.get("count_include_pad", True))
    if given.get("ceil", given.get("ceil_mode")) or (padding != (0, 0) and not include):
        raise reader.refuse("average pooling whose windows differ in size (ceil_mode, count_include_pad=False)")
    divisor = given.get("divisor", given.get("divisor_override")) or kernel[0] * kernel[1]
    return _pooled(reader, a[0], kernel, _pair(given.get("stride") or kernel), padding, 1 / divisor)


def _adaptive(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    source, size = reader.shape(a[0]), _pair(a[1])
    if source[1] % size[0] or source[2] % size[1]:
        raise reader.refuse(f"adaptive pooling of {source[1:]} to {size}, whose windows differ in size")
    kernel = (source[1] // size[0], source[2] // size[1])
    return _pooled(reader, a[0], kernel, kernel, (0, 0), 1 / (kernel[0] * kernel[1]))


def _pooled(reader: Reader, ref: Ref, kernel: _Pair, stride: _Pair, padding: _Pair, share: float) -> Ref:
    channels = reader.shape(ref)[0]
    weight = torch.full((channels, 1, *kernel), share, dtype=reader.dtype, device=reader.device)
    return convolution(reader, ref, weight, None, stride, padding, groups=channels)


IMAGES: dict[str, Handler] = {
    **dict.fromkeys(("conv1d", "conv2d"), _convolve),
    "batch_norm": _batch_norm,
    "avg_pool2d": _average,
    "adaptive_avg_pool2d": _adaptive,
}
