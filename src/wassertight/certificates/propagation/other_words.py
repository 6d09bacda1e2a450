"""Recorded operations that are not affine in the input: activations, products, maxima, normalisation, attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from wassertight.certificates.propagation import activations as act
from wassertight.certificates.propagation import smooth
from wassertight.certificates.propagation.affine_words import (
    added,
    broadcast,
    matrix,
    permuted,
    scaled,
    total,
)
from wassertight.certificates.propagation.log_softmax import LogSoftmax
from wassertight.certificates.propagation.operations import Add, Maximum, Product
from wassertight.certificates.propagation.reading import COMPARISONS, Handler, Reader, Ref
from wassertight.certificates.propagation.steps import Step

_ALMOST = 0.99
"""Share of a sum's least value that rounding cannot take away."""
_SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def activated(reader: Reader, ref: Ref, activation: act.Activation) -> Ref:
    """An elementwise function of one value."""
    return reader.add(activation, (ref,), reader.shape(ref))


def multiplied(reader: Reader, left: Any, right: Any) -> Ref:
    """Elementwise product; a square where both factors are the same value."""
    if not isinstance(right, Ref):
        return scaled(reader, broadcast(reader, left, reader.target), right)
    if not isinstance(left, Ref):
        return scaled(reader, broadcast(reader, right, reader.target), left)
    if left == right:
        return activated(reader, left, smooth.square())
    parents = (broadcast(reader, left, reader.target), broadcast(reader, right, reader.target))
    return reader.add(Product(matrices=False, target=reader.target), parents, reader.target)


def softmax(reader: Reader, ref: Ref, dim: int, *, logarithm: bool = False) -> Ref:
    """exp of log-softmax, or that itself, of the entries centred first: a common shift of all of them costs nothing."""
    dims = len(reader.shape(ref))
    order = [k for k in range(dims + 1) if k != dims + 1 + dim] + [dims + 1 + dim]
    moved = permuted(reader, ref, order)
    shape = reader.shape(moved)
    eye = torch.eye(shape[-1], dtype=reader.dtype, device=reader.device)
    out = reader.add(LogSoftmax(source=shape), (matrix(reader, moved, eye - 1 / shape[-1]),), shape)
    if not logarithm:
        out = activated(reader, out, smooth.exponential())
    return permuted(reader, out, [order.index(k) for k in range(dims + 1)])


def product(reader: Reader, left: Any, right: Any) -> Ref:
    """Product of matrices over the last two axes."""
    if not isinstance(right, Ref):
        weight = reader.constant(right)
        if weight.ndim != 2:
            raise reader.refuse("a product with a constant batch of matrices")
        return matrix(reader, left, weight.transpose(0, 1).contiguous())
    if not isinstance(left, Ref):
        weight = reader.constant(left)
        if weight.ndim != 2:
            raise reader.refuse("a product with a constant batch of matrices")
        dims = len(reader.shape(right)) + 1
        order = [*range(dims - 2), dims - 1, dims - 2]
        return permuted(reader, matrix(reader, permuted(reader, right, order), weight), order)
    x, y = reader.shape(left), reader.shape(right)
    if len(x) < 2 or len(y) < 2 or x[:-2] != y[:-2]:
        raise reader.refuse(f"a product of shapes {x} and {y}")
    return reader.add(Product(matrices=True, target=reader.target), (left, right), reader.target)


def _layer_norm(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    ref, normalised = a[0], list(a[1])
    weight, bias = (a[i] if len(a) > i else None for i in (2, 3))
    eps = a[4] if len(a) > 4 else k.get("eps", 1e-5)
    dims = list(range(-len(normalised), 0))
    shape = reader.shape(ref)
    mean = broadcast(reader, total(reader, ref, dims, True, mean=True), shape)
    centred = reader.add(Add(target=shape), (ref, scaled(reader, mean, -1.0)), shape)
    variance = total(reader, activated(reader, centred, smooth.square()), dims, True, mean=True)
    inverse = activated(reader, scaled(reader, variance, 1.0, eps), smooth.reciprocal_root(least=_ALMOST * eps))
    out = reader.add(Product(matrices=False, target=shape), (centred, broadcast(reader, inverse, shape)), shape)
    if weight is None:
        return out
    return scaled(reader, out, weight, 0.0 if bias is None else bias)


def _attention(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    given = dict(zip(("mask", "dropout", "causal"), a[3:], strict=False)) | k
    query, key, value = a[:3]
    mask = given.get("mask", given.get("attn_mask"))
    if given.get("dropout", given.get("dropout_p", 0.0)) or not all(isinstance(part, Ref) for part in a[:3]):
        raise reader.refuse("attention with dropout, or with a constant query, key or value")
    if mask is not None and not isinstance(mask, Ref) and mask.dtype == torch.bool and bool(mask.all()):
        mask = None  # it removes nothing
    if given.get("causal", given.get("is_causal")) or (mask is not None and mask.dtype == torch.bool):
        raise reader.refuse("attention with a mask that removes entries")
    width, dims = reader.shape(query)[-1], len(reader.shape(key)) + 1
    scale = given.get("scale") or width**-0.5
    swapped = permuted(reader, key, [*range(dims - 2), dims - 1, dims - 2])
    scores = (*reader.shape(query)[:-1], reader.shape(swapped)[-1])
    logits = scaled(reader, reader.add(Product(matrices=True, target=scores), (query, swapped), scores), scale)
    if mask is not None:
        logits = scaled(reader, logits, 1.0, mask)
    return product(reader, softmax(reader, logits, -1), value)


def _max_pool(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    given = dict(zip(("kernel", "stride", "padding", "dilation", "ceil"), a[1:], strict=False)) | k
    pairs: dict[str, tuple[int, int]] = {}
    for name, default in (("kernel", None), ("stride", None), ("padding", 0), ("dilation", 1)):
        value = given.get(name, default)
        value = [value] if isinstance(value, int) else list(value or [])
        pairs[name] = (value[0], value[-1]) if value else pairs["kernel"]
    if given.get("ceil", given.get("ceil_mode")):
        raise reader.refuse("max pooling with ceil_mode=True")
    return reader.add(Maximum(**pairs, source=reader.shape(a[0]), target=reader.target), (a[0],), reader.target)


def _power(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    known = {2: smooth.square, 0.5: smooth.square_root, -0.5: smooth.reciprocal_root, -1: smooth.reciprocal}
    if a[1] not in known:
        raise reader.refuse(f"a power of {a[1]}; known are {', '.join(str(p) for p in known)}")
    return activated(reader, a[0], known[a[1]]())


def _divided(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    if k.get("rounding_mode") is not None:
        raise reader.refuse(f"division rounded to integers (rounding_mode={k['rounding_mode']!r})")
    if isinstance(a[1], Ref):
        return multiplied(reader, a[0], activated(reader, a[1], smooth.reciprocal()))
    return scaled(reader, broadcast(reader, a[0], reader.target), 1 / reader.constant(a[1]))


def _subtracted(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    return added(reader, a[0], a[1], -_alpha(a, k))


def _alpha(a: list[Any], k: dict[str, Any]) -> float:
    return float(a[2] if len(a) > 2 else k.get("alpha", 1))


def _clamp(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    low: Any = a[1] if len(a) > 1 else k.get("min")
    high: Any = a[2] if len(a) > 2 else k.get("max")
    if not all(value is None or isinstance(value, (int, float)) for value in (low, high)):
        raise reader.refuse("a clamp between tensors")
    ref = a[0]
    if high is None:  # max(z, low) = low + relu(z - low)
        return scaled(reader, activated(reader, scaled(reader, ref, 1.0, -low), act.relu()), 1.0, low)
    if low is None:  # min(z, high) = high - relu(high - z)
        return scaled(reader, activated(reader, scaled(reader, ref, -1.0, high), act.relu()), -1.0, high)
    return activated(reader, ref, act.clamp(float(low), float(high)))


def _filled(value: float) -> Callable[[Reader, list[Any], dict[str, Any]], Any]:
    """A constant of a value's shape."""
    return lambda reader, a, k: reader.constant(value).expand(1, *reader.target)


def _plain(build: Callable[..., act.Activation]) -> Handler:
    return lambda reader, a, k: activated(reader, a[0], build())


def _elu(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    given = dict(zip(("alpha", "scale", "input_scale"), a[1:], strict=False)) | k
    if given.get("input_scale", 1) != 1:
        raise reader.refuse("an ELU with an input scale")
    return activated(reader, a[0], smooth.elu(float(given.get("alpha", 1.0)), float(given.get("scale", 1.0))))


def _softplus(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    given = dict(zip(("beta", "threshold"), a[1:], strict=False)) | k
    return activated(reader, a[0], smooth.softplus(float(given.get("beta", 1)), float(given.get("threshold", 20))))


def _prelu(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    weight = reader.constant(a[1])
    form = (-1,) + (1,) * (len(reader.shape(a[0])) - 1)
    return activated(reader, a[0], act.prelu(weight.view(form) if weight.numel() > 1 else weight))


def _compared(word: str) -> Handler:
    """A comparison with a number: 1 where it holds, 0 elsewhere; z < c is 1 - (z >= c)."""

    def handle(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
        if not isinstance(a[0], Ref) or not isinstance(a[1], (int, float)):
            raise reader.refuse("a comparison of two values that are not one value and one number")
        step = activated(reader, a[0], Step(name=word, threshold=float(a[1]), closed=word in ("ge", "lt")))
        return step if word in ("gt", "ge") else scaled(reader, step, -1.0, 1.0)

    return handle


_PIECEWISE: dict[str, Handler] = {
    **dict.fromkeys(("relu", "relu_"), _plain(act.relu)),
    **dict.fromkeys(
        ("leaky_relu", "leaky_relu_"),
        lambda reader, a, k: activated(
            reader, a[0], act.leaky_relu(float(a[1] if len(a) > 1 else k.get("negative_slope", 0.01)))
        ),
    ),
    **{word: _compared(word) for word in COMPARISONS},
    "abs": _plain(act.absolute),
    **dict.fromkeys(("clamp", "clamp_", "clip"), _clamp),
    "clamp_min": lambda reader, a, k: _clamp(reader, [a[0], a[1], None], {}),
    "clamp_max": lambda reader, a, k: _clamp(reader, [a[0], None, a[1]], {}),
    **dict.fromkeys(
        ("hardtanh", "hardtanh_"), lambda reader, a, k: _clamp(reader, [a[0], *(a[1:3] or (-1.0, 1.0))], k)
    ),
    **dict.fromkeys(("relu6", "relu6_"), lambda reader, a, k: _clamp(reader, [a[0], 0.0, 6.0], {})),
    **dict.fromkeys(("hardsigmoid", "hardsigmoid_"), _plain(act.hard_sigmoid)),
    **dict.fromkeys(("hardswish", "hardswish_"), _plain(smooth.hard_swish)),
    "prelu": _prelu,
}

_SMOOTH: dict[str, Handler] = {
    **dict.fromkeys(("sigmoid", "sigmoid_"), _plain(smooth.sigmoid)),
    **dict.fromkeys(("tanh", "tanh_"), _plain(smooth.tanh)),
    **dict.fromkeys(("silu", "silu_"), _plain(smooth.silu)),
    "gelu": lambda reader, a, k: activated(
        reader, a[0], smooth.gelu(str(a[1] if len(a) > 1 else k.get("approximate", "none")))
    ),
    **dict.fromkeys(("elu", "elu_"), _elu),
    **dict.fromkeys(("selu", "selu_"), _plain(lambda: smooth.elu(_SELU[0], _SELU[1]))),
    "softplus": _softplus,
    **dict.fromkeys(("mish", "mish_"), _plain(smooth.mish)),
    "erf": _plain(smooth.erf),
    "log": _plain(smooth.logarithm),
    "exp": _plain(smooth.exponential),
    "sqrt": _plain(smooth.square_root),
    "rsqrt": _plain(smooth.reciprocal_root),
    "reciprocal": _plain(smooth.reciprocal),
    "square": _plain(smooth.square),
}

OTHERS: dict[str, Handler] = {
    **_PIECEWISE,
    **_SMOOTH,
    "add": lambda reader, a, k: added(reader, a[0], a[1], _alpha(a, k)),
    "sub": _subtracted,
    "rsub": lambda reader, a, k: added(reader, a[1], a[0], -_alpha(a, k)),
    "neg": lambda reader, a, k: scaled(reader, a[0], -1.0),
    **dict.fromkeys(("zeros_like", "new_zeros"), _filled(0.0)),
    **dict.fromkeys(("ones_like", "new_ones"), _filled(1.0)),
    "mul": lambda reader, a, k: multiplied(reader, a[0], a[1]),
    "div": _divided,
    "pow": _power,
    **dict.fromkeys(("matmul", "bmm", "mm"), lambda reader, a, k: product(reader, a[0], a[1])),
    "softmax": lambda reader, a, k: softmax(reader, a[0], reader.axis(a[1], a[0])),
    "_softmax": lambda reader, a, k: softmax(reader, a[0], reader.axis(a[1], a[0])),
    "log_softmax": lambda reader, a, k: softmax(reader, a[0], reader.axis(a[1], a[0]), logarithm=True),
    "_log_softmax": lambda reader, a, k: softmax(reader, a[0], reader.axis(a[1], a[0]), logarithm=True),
    "layer_norm": _layer_norm,
    "scaled_dot_product_attention": _attention,
    "max_pool2d": _max_pool,
}
for _in_place in ("add", "sub", "mul", "div"):
    OTHERS[f"{_in_place}_"] = OTHERS[_in_place]
