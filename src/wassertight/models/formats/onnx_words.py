"""Every ONNX operation that is read, by its name: how its node becomes a module of torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wassertight.models.formats.onnx_nodes import Applied, Concat, Node, Reshape
from wassertight.models.formats.onnx_windows import average_pool, convolution, global_average_pool, max_pool

Handler = Callable[[Node], "nn.Module | list[nn.Module]"]
Single = Callable[[Node], nn.Module]


def _gemm(node: Node) -> nn.Module:
    if node.attributes.get("transA", 0):
        raise node.refuse("transA would put the samples last")
    weight = node.constant(1) if node.attributes.get("transB", 0) else node.constant(1).T
    bias = node.constant(2) * node.attributes.get("beta", 1.0) if node.given(2) else None
    if node.example.ndim != 2:
        raise node.refuse("its input must have two dimensions")
    return _linear(weight * node.attributes.get("alpha", 1.0), bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.reshape(-1).expand(len(weight)).contiguous())
    return layer


def _matmul(node: Node) -> nn.Module:
    if node.constants[1] is not None and node.constant(1).ndim == 2:
        return _linear(node.constant(1).T, None)
    return _function(torch.matmul)(node)


def _function(function: Callable[..., Tensor]) -> Single:
    """A function of all inputs, constants among them."""

    def handler(node: Node) -> nn.Module:
        fixed = {i: node.constant(i) for i, value in enumerate(node.examples) if value is None}
        widest = max(value.ndim for value in node.examples if value is not None)
        if any(value.ndim > widest for value in fixed.values()):
            raise node.refuse("a constant has more dimensions than the value it is combined with")
        return Applied(node.word, function, fixed)

    return handler


def _product(node: Node) -> nn.Module:
    """A product; z sigmoid(z) and z (1 + erf(z / sqrt 2)) / 2 are SiLU and GELU, whose bounds are far tighter."""
    for here, there in ((0, 1), (1, 0)):
        producer = node.producers[here]
        if producer is not None and producer.word == "Sigmoid" and producer.names[0] == node.names[there]:
            node.replaced = node.names[there]
            return nn.SiLU()
    inside = _gelu(node)
    if inside is not None:
        node.replaced = inside
        return nn.GELU()
    return _function(torch.mul)(node)


def _gelu(node: Node) -> str | None:
    """The name of z if the product is z (1 + erf(z / sqrt 2)) / 2 with its factors in any order."""
    factors = _factors(node, 0)
    scale = math.prod(value for value in factors if isinstance(value, float))
    rest = [value for value in factors if not isinstance(value, float)]
    if len(rest) != 2 or abs(scale - 0.5) > 1e-6:
        return None
    for name, bracket in (rest, rest[::-1]):
        error = _other(bracket[1], "Add", 1.0)
        if error is None or error.word != "Erf" or error.producers[0] is None:
            continue
        argument = error.producers[0]
        share = _scalar(argument, 1)
        share = None if share is None else (1 / share if argument.word == "Div" else share)
        if argument.word in ("Div", "Mul") and share is not None and abs(share - math.sqrt(0.5)) < 1e-5:
            return name[0] if argument.names[0] == name[0] else None
    return None


def _factors(node: Node, depth: int) -> list[Any]:
    """Scalars as numbers, other factors as (name, producer); products inside products are opened twice at most."""
    found: list[Any] = []
    for i, producer in enumerate(node.producers):
        number = _scalar(node, i)
        if number is not None:
            found.append(number)
        elif producer is not None and producer.word == "Mul" and depth < 2 and producer.replaced is None:
            found += _factors(producer, depth + 1)
        else:
            found.append((node.names[i], producer))
    return found


def _scalar(node: Node | None, position: int) -> float | None:
    value = None if node is None or position >= len(node.constants) else node.constants[position]
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _other(node: Node | None, word: str, number: float) -> Node | None:
    """The producer of the other operand where one operand is this number."""
    if node is None or node.word != word:
        return None
    return next((node.producers[1 - i] for i in (0, 1) if _scalar(node, i) == number), None)


def _batch_normalisation(node: Node) -> nn.Module:
    if node.attributes.get("training_mode", 0) or node.attributes.get("spatial", 1) == 0:
        raise node.refuse("only batch normalisation by stored statistics of every channel is read")
    kind = nn.BatchNorm2d if node.example.ndim == 4 else nn.BatchNorm1d
    weight, bias, mean, variance = (node.constant(i) for i in range(1, 5))
    layer = kind(len(weight), eps=node.attributes.get("epsilon", 1e-5))
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    layer.running_mean, layer.running_var = mean, variance
    return layer


def _layer_normalisation(node: Node) -> nn.Module:
    axis = node.axis(node.attributes.get("axis", -1))
    layer = nn.LayerNorm(list(node.example.shape[axis:]), eps=node.attributes.get("epsilon", 1e-5), bias=node.given(2))
    layer.weight = nn.Parameter(node.constant(1).expand(node.example.shape[axis:]).contiguous())
    if node.given(2):
        layer.bias = nn.Parameter(node.constant(2).expand(node.example.shape[axis:]).contiguous())
    return layer


def _clip(node: Node) -> nn.Module:
    low, high = node.setting("min", 1), node.setting("max", 2)
    if low is None and high is None:
        return nn.Identity()
    return Applied(f"Clip {low} {high}", lambda z: torch.clamp(z, low, high))


def _power(node: Node) -> nn.Module:
    exponent = _scalar(node, 1)
    if exponent is None:
        raise node.refuse("its exponent must be one constant number")
    power = int(exponent) if exponent == int(exponent) else exponent
    return Applied(f"Pow {power}", lambda z: torch.pow(z, power))


def _flatten(node: Node) -> nn.Module:
    if node.attributes.get("axis", 1) % (node.example.ndim + 1) != 1:
        raise node.refuse("only axis=1 keeps the samples apart")
    return nn.Flatten()


def _reshape(node: Node) -> nn.Module:
    # Entries that follow the number of samples may stand in the first place only.
    sizes = [int(value) for value in (node.attributes["shape"] if "shape" in node.attributes else node.constants[1])]
    other = node.followers[1] if node.given(1) else None
    if other is not None and [int(v) for v in other[1:]] != sizes[1:]:
        raise node.refuse("it mixes the samples of the batch")
    old = tuple(node.example.shape)
    if not node.attributes.get("allowzero", 0):
        sizes = [old[i] if size == 0 else size for i, size in enumerate(sizes)]
    rest = tuple(sizes[1:])
    count = math.prod(old[1:])
    if -1 in rest:
        known = -math.prod(rest)
        rest = tuple(count // known if size == -1 else size for size in rest)
    if math.prod(rest) != count:
        raise node.refuse(f"{count} values a sample do not fit the shape {sizes}: it mixes the samples of the batch")
    return nn.Flatten() if len(rest) == 1 else Reshape(rest)


def _squeezed(node: Node) -> nn.Module:
    axes, old = node.setting("axes", 1), list(node.example.shape)
    axes = [i for i, size in enumerate(old) if size == 1] if axes is None else axes
    gone = {node.axis(axis) for axis in axes}
    return Reshape(tuple(size for i, size in enumerate(old) if i not in gone and i > 0))


def _unsqueezed(node: Node) -> nn.Module:
    shape = list(node.example.shape)
    axes = node.setting("axes", 1)
    for axis in sorted(node.axis(axis, len(shape) + len(axes)) for axis in axes):
        shape.insert(axis, 1)
    return Reshape(tuple(shape[1:]))


def _transpose(node: Node) -> nn.Module:
    order = list(node.attributes.get("perm", range(node.example.ndim)[::-1]))
    if order[0] != 0:
        raise node.refuse("it moves the batch dimension")
    return Applied(f"Transpose {order}", lambda z: z.permute(order))


def _concat(node: Node) -> nn.Module:
    dims = next(value.ndim for value in node.examples if value is not None)
    fixed = {i: node.constant(i) for i, value in enumerate(node.examples) if value is None}
    for position, value in fixed.items():
        if value.ndim != dims or (value != value[:1]).any():
            raise node.refuse("a constant part that differs from sample to sample")
        fixed[position] = value[:1]  # one row for every sample of a file with a fixed batch
    return Concat(node.axis(node.attributes["axis"], dims), fixed)


def _softmax(kind: Callable[[int], nn.Module]) -> Handler:
    def handler(node: Node) -> nn.Module:
        axis = node.axis(node.attributes.get("axis", 1 if node.opset < 13 else -1))
        if node.opset < 13 and axis != node.example.ndim - 1:
            raise node.refuse("before operator set 13 it runs over several axes at once")
        return kind(axis)

    return handler


def _mean(node: Node) -> nn.Module:
    axes, keep = node.setting("axes", 1), bool(node.attributes.get("keepdims", 1))
    if not axes:
        raise node.refuse("it works across the batch dimension")
    dims = [node.axis(axis) for axis in axes]
    return Applied(f"ReduceMean {dims}", lambda z: z.mean(dims, keepdim=keep))


def _gather(node: Node) -> nn.Module:
    axis, index = node.axis(node.attributes.get("axis", 0)), node.constant(1).long()
    size = node.example.shape[axis]
    if index.ndim == 0:
        chosen = int(index) % size
        return Applied(f"Gather {axis} {chosen}", lambda z: z.select(axis, chosen))
    if index.ndim > 1:
        raise node.refuse("an index of more than one dimension")
    return Applied("Gather", lambda z, chosen: z.index_select(axis, chosen), {1: index % size})


def _slice(node: Node) -> nn.Module:
    starts, ends = node.setting("starts", 1), node.setting("ends", 2)
    axes = [node.axis(axis) for axis in node.setting("axes", 3, list(range(len(starts))))]
    steps = node.setting("steps", 4, [1] * len(starts))
    if min(steps) < 1:
        raise node.refuse("it runs backwards")
    cuts = [slice(None)] * node.example.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cuts[axis] = slice(start, min(end, node.example.shape[axis]), step)
    return Applied(f"Slice {cuts}", lambda z: z[tuple(cuts)])


def _split(node: Node) -> list[nn.Module]:
    axis = node.axis(node.attributes.get("axis", 0))
    size, count = node.example.shape[axis], node.outputs
    each = -(-size // count)
    sizes = node.setting("split", 1) or [min(each, size - i * each) for i in range(count)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        Applied(f"Split {axis} {start} {width}", lambda z, start=start, width=width: z.narrow(axis, start, width))
        for start, width in zip(starts, sizes, strict=True)
    ]


def _pad(node: Node) -> nn.Module:
    pads, value = node.setting("pads", 1), node.setting("value", 2, 0.0)
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(
        node.attributes.get("mode", "constant")
    )
    axes = node.numbers(3) if node.given(3) else list(range(node.example.ndim))
    before, after = pads[: len(axes)], pads[len(axes) :]
    widths = {axis % node.example.ndim: (b, a) for axis, b, a in zip(axes, before, after, strict=True)}
    if mode is None or any(widths.get(0, (0, 0))):
        raise node.refuse("it pads the batch dimension, or in a mode that torch has not")
    order = [width for axis in range(node.example.ndim - 1, 0, -1) for width in widths.get(axis, (0, 0))]
    while len(order) > 2 and order[-2:] == [0, 0]:
        order = order[:-2]
    fill = {"value": float(value)} if mode == "constant" else {}
    return Applied(f"Pad {order} {mode} {value}", lambda z: functional.pad(z, order, mode=mode, **fill))


def _same(node: Node) -> nn.Module:
    if node.word == "Cast" and node.attributes["to"] not in (1, 11):  # float32, float64
        raise node.refuse("a value that depends on the input becomes something else than float32")
    if node.word == "Dropout" and node.given(2) and bool(node.constant(2)):
        raise node.refuse("dropout in training mode")
    return nn.Identity()


HANDLERS: dict[str, Handler] = {
    "Gemm": _gemm, "MatMul": _matmul, "Conv": convolution, "MaxPool": max_pool, "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool, "BatchNormalization": _batch_normalisation,
    "LayerNormalization": _layer_normalisation, "Add": _function(torch.add), "Sub": _function(torch.sub), "Mul": _product,
    "Div": _function(torch.div), "Neg": lambda node: Applied("Neg", torch.neg), "Pow": _power,
    "Sqrt": lambda node: Applied("Sqrt", torch.sqrt), "Erf": lambda node: Applied("Erf", torch.erf),
    "Relu": lambda node: nn.ReLU(), "Sigmoid": lambda node: nn.Sigmoid(), "Tanh": lambda node: nn.Tanh(),
    "LeakyRelu": lambda node: nn.LeakyReLU(node.attributes.get("alpha", 0.01)),
    "Elu": lambda node: nn.ELU(node.attributes.get("alpha", 1.0)),
    "Gelu": lambda node: nn.GELU(node.attributes.get("approximate", "none")), "Clip": _clip,
    "Softmax": _softmax(nn.Softmax), "LogSoftmax": _softmax(nn.LogSoftmax), "ReduceMean": _mean, "Flatten": _flatten,
    "Reshape": _reshape, "Squeeze": _squeezed, "Unsqueeze": _unsqueezed, "Transpose": _transpose, "Concat": _concat,
    "Gather": _gather, "Slice": _slice, "Split": _split, "Pad": _pad, "Identity": _same, "Dropout": _same, "Cast": _same,
}  # fmt: skip
