"""ONNX operations that slide a window over an image: convolution and pooling, with padding as ONNX counts it."""

from __future__ import annotations

from torch import nn

from wassertight.models.formats.onnx_nodes import Node


def _window(node: Node, kernel: list[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, and padding before and after, one entry a spatial axis."""
    spatial = len(kernel)
    strides = list(node.attributes.get("strides", [1] * spatial))
    dilations = list(node.attributes.get("dilations", [1] * spatial))
    pads = list(node.attributes.get("pads", [0] * (2 * spatial)))
    automatic = node.attributes.get("auto_pad", "NOTSET")
    if automatic.startswith("SAME"):
        sizes = node.example.shape[2:]
        whole = [
            max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            for size, s, d, k in zip(sizes, strides, dilations, kernel, strict=True)
        ]
        less, more = [w // 2 for w in whole], [w - w // 2 for w in whole]
        pads = less + more if automatic == "SAME_UPPER" else more + less
    return strides, dilations, pads[:spatial], pads[spatial:]


def _padded(node: Node, before: list[int], after: list[int], layer: nn.Module) -> nn.Module:
    """The layer behind explicit zero padding."""
    widths = [width for pair in zip(before[::-1], after[::-1], strict=True) for width in pair]
    return nn.Sequential(nn.ConstantPad2d(widths, 0.0) if len(before) == 2 else nn.ConstantPad1d(widths, 0.0), layer)  # type: ignore[arg-type]


def convolution(node: Node) -> nn.Module:
    """Conv, of images or of rows."""
    weight = node.constant(1)
    kinds: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {3: nn.Conv1d, 4: nn.Conv2d}
    if weight.ndim not in kinds:
        raise node.refuse(f"convolutions over {weight.ndim - 2} axes are not read")
    strides, dilations, before, after = _window(node, list(weight.shape[2:]))
    even, groups = before == after, node.attributes.get("group", 1)
    layer = kinds[weight.ndim](
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        stride=tuple(strides),  # type: ignore[arg-type]
        padding=tuple(before) if even else 0,  # type: ignore[arg-type]
        dilation=tuple(dilations),  # type: ignore[arg-type]
        groups=groups,
        bias=node.given(2),
    )
    layer.weight = nn.Parameter(weight)
    if node.given(2):
        layer.bias = nn.Parameter(node.constant(2))
    return layer if even else _padded(node, before, after, layer)


def _ceiling(node: Node, kernel: list[int], strides: list[int], dilations: list[int], pads: list[int]) -> bool:
    """Whether rounding up adds a window."""
    return bool(node.attributes.get("ceil_mode", 0)) and any(
        (size + pad - d * (k - 1) - 1) % s
        for size, pad, d, k, s in zip(node.example.shape[2:], pads, dilations, kernel, strides, strict=True)
    )


def max_pool(node: Node) -> nn.Module:
    """MaxPool of images."""
    kernel = list(node.attributes["kernel_shape"])
    strides, dilations, before, after = _window(node, kernel)
    if len(kernel) != 2 or before != after or node.outputs > 1 or node.attributes.get("storage_order", 0):
        raise node.refuse("only pooling of images with the same padding on both sides and one output is read")
    ceiling = _ceiling(node, kernel, strides, dilations, [2 * pad for pad in before])
    return nn.MaxPool2d(tuple(kernel), tuple(strides), tuple(before), tuple(dilations), ceil_mode=ceiling)


def average_pool(node: Node) -> nn.Module:
    """AveragePool of images."""
    kernel = list(node.attributes["kernel_shape"])
    strides, dilations, before, after = _window(node, kernel)
    counted = bool(node.attributes.get("count_include_pad", 0)) or not any(before + after)
    if len(kernel) != 2 or max(dilations) > 1 or (before != after and not counted):
        raise node.refuse("only pooling of images with the same padding on both sides and without dilation is read")
    ceiling = _ceiling(node, kernel, strides, dilations, [b + a for b, a in zip(before, after, strict=True)])
    even = before == after
    padding = tuple(before) if even else 0
    layer = nn.AvgPool2d(tuple(kernel), tuple(strides), padding, ceil_mode=ceiling, count_include_pad=counted)  # type: ignore[arg-type]
    return layer if even else _padded(node, before, after, layer)


def global_average_pool(node: Node) -> nn.Module:
    """GlobalAveragePool of images."""
    if node.example.ndim != 4:
        raise node.refuse("only images are pooled")
    return nn.AdaptiveAvgPool2d(1)
