"""Recorded operations that are affine in the input: how each becomes a node."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from wassertight.certificates.propagation.layout import channels_last
from wassertight.certificates.propagation.operations import Add, Dense, Elementwise, Rearrangement, Shape
from wassertight.certificates.propagation.reading import Handler, Reader, Ref


def scaled(reader: Reader, ref: Ref, scale: Any, shift: Any = 0.0, *, heft: Any = None, terms: int = 2) -> Ref:
    """scale * z + shift with constants that broadcast to the value's shape."""
    shape = reader.shape(ref)
    operation = Elementwise(
        scale=channels_last(reader.features(scale, shape)[None])[0],
        shift=channels_last(reader.features(shift, shape)[None])[0],
        source=shape,
        target=shape,
        terms=terms,
        heft=None if heft is None else reader.features(heft, shape),
    )
    return reader.add(operation, (ref,), shape)


def rearranged(
    reader: Reader,
    ref: Ref,
    function: Callable[[Tensor], Tensor],
    target: Shape,
    inverse: Callable[[Tensor], Tensor] | None = None,
    terms: int = 1,
) -> Ref:
    """A non-negative linear map given as a function of batches."""
    source = reader.shape(ref)
    operation = Rearrangement(function=function, source=source, target=target, inverse=inverse, terms=terms)
    return reader.add(operation, (ref,), target)


def viewed(reader: Reader, ref: Ref, target: Shape) -> Ref:
    """The same entries in another shape."""
    source = reader.shape(ref)
    if source == target:
        return ref
    return rearranged(
        reader,
        ref,
        lambda z: z.reshape(len(z), *target),
        target,
        lambda a: a.reshape(len(a), *source),
    )


def broadcast(reader: Reader, ref: Ref, target: Shape) -> Ref:
    """A value repeated along axes where it has one entry; a new axis would stand before the batch's."""
    source = reader.shape(ref)
    if source == target:
        return ref
    if len(source) != len(target):
        raise reader.refuse("an operation across the batch dimension")
    return rearranged(reader, ref, lambda z: z.expand(len(z), *target), target)


def permuted(reader: Reader, ref: Ref, order: list[int]) -> Ref:
    """Axes in another order; `order` counts the batch dimension as 0 and leaves it there."""
    source = reader.shape(ref)
    if order[0] != 0:
        raise reader.refuse("an operation across the batch dimension")
    back = [order.index(k) for k in range(len(order))]
    target = tuple(source[k - 1] for k in order[1:])
    return rearranged(reader, ref, lambda z: z.permute(order), target, lambda a: a.permute(back))


def total(reader: Reader, ref: Ref, dims: list[int], keep: bool, *, mean: bool) -> Ref:
    """Sum or mean over axes counted from the end."""
    source = reader.shape(ref)
    count = math.prod(source[d] for d in dims)
    kept = tuple(1 if k - len(source) in dims else size for k, size in enumerate(source))
    target = kept if keep else tuple(size for k, size in enumerate(source) if k - len(source) not in dims)
    share = 1 / count if mean else 1.0
    return rearranged(
        reader,
        ref,
        lambda z: z.sum(dims, keepdim=keep) * share,
        target,
        lambda a: (a.reshape(len(a), *kept) * share).expand(len(a), *source),
        terms=count + 1,
    )


def added(reader: Reader, left: Any, right: Any, sign: float = 1.0) -> Ref:
    """left + sign * right, either of them possibly constant."""
    if not isinstance(right, Ref):
        return scaled(reader, broadcast(reader, left, reader.target), 1.0, sign * reader.constant(right))
    if not isinstance(left, Ref):
        return scaled(reader, broadcast(reader, right, reader.target), sign, left)
    left, right = broadcast(reader, left, reader.target), broadcast(reader, right, reader.target)
    if sign != 1.0:
        right = scaled(reader, right, sign)
    return reader.add(Add(target=reader.target), (left, right), reader.target)


def matrix(reader: Reader, ref: Ref, weight: Any, bias: Any = None) -> Ref:
    """W z + b over the last axis."""
    weight = reader.constant(weight)
    bias = weight.new_zeros(len(weight)) if bias is None else reader.constant(bias).expand(len(weight)).contiguous()
    source = reader.shape(ref)
    target = (*source[:-1], len(weight))
    return reader.add(Dense(weight=weight, bias=bias, source=source, target=target), (ref,), target)


def _linear(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    if not isinstance(a[0], Ref) or isinstance(a[1], Ref):
        raise reader.refuse("a weight that depends on the input")
    return matrix(reader, a[0], a[1], a[2] if len(a) > 2 else k.get("bias"))


def _addmm(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    if k or not isinstance(a[1], Ref) or isinstance(a[0], Ref) or isinstance(a[2], Ref):
        raise reader.refuse("a bias or weight that depends on the input, or factors beta and alpha")
    return matrix(reader, a[1], a[2].transpose(0, 1).contiguous(), a[0])


def _reduce(mean: bool) -> Handler:
    def handler(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
        if len(a) < 2 or a[1] is None:
            raise reader.refuse("an operation across the batch dimension")
        dims = [reader.axis(d, a[0]) for d in ([a[1]] if isinstance(a[1], int) else a[1])]
        return total(reader, a[0], dims, bool(a[2] if len(a) > 2 else k.get("keepdim", False)), mean=mean)

    return handler


def _transpose(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    dims = len(reader.shape(a[0])) + 1
    order = list(range(dims))
    first, second = (a[1] % dims, a[2] % dims) if len(a) > 2 else (dims - 2, dims - 1)
    order[first], order[second] = order[second], order[first]
    return permuted(reader, a[0], order)


def _permute(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    dims = len(a[1])
    return permuted(reader, a[0], [d % dims for d in a[1]])


def _replayed(function: Callable[..., Tensor]) -> Handler:
    """Selections and paddings: the recorded call itself, on axes other than the batch's."""

    def handler(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
        rest = a[1:]
        return rearranged(reader, a[0], lambda z: function(z, *rest, **k), reader.target)

    return handler


def _selected(name: str) -> Handler:
    call = _replayed(getattr(torch, name) if name != "slice" else torch.ops.aten.slice.Tensor)

    def handler(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
        reader.axis(a[1] if len(a) > 1 else k.get("dim", 0), a[0])
        if any(isinstance(value, Ref) for value in a[1:]):
            raise reader.refuse("a choice that depends on the input")
        return call(reader, a, k)  # type: ignore[return-value]

    return handler


def _pieces(name: str) -> Handler:
    function = getattr(torch, name)

    def handler(reader: Reader, a: list[Any], k: dict[str, Any]) -> list[Ref]:
        reader.axis((a[-1] if len(a) > (1 if name == "unbind" else 2) else k.get("dim", 0)), a[0])
        rest = a[1:]
        return [
            rearranged(reader, a[0], lambda z, i=i: function(z, *rest, **k)[i], target)  # type: ignore[misc]
            for i, target in enumerate(reader.target)
        ]

    return handler


def _pad(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    mode = a[2] if len(a) > 2 and isinstance(a[2], str) else k.get("mode", "constant")
    value = next((v for v in (*a[2:], k.get("value")) if isinstance(v, (int, float))), 0.0)
    widths = list(a[1])
    if len(widths) > 2 * len(reader.target):
        raise reader.refuse("an operation across the batch dimension")
    if mode != "constant" or (min(widths) < 0 and value):
        mode_given = functional.pad if mode in ("reflect", "replicate", "circular") else None
        if mode_given is None:
            raise reader.refuse(f"padding of mode {mode!r}")
        return rearranged(reader, a[0], lambda z: functional.pad(z, widths, mode=mode), reader.target)
    out = rearranged(reader, a[0], lambda z: functional.pad(z, widths), reader.target)
    if value:
        inside = torch.ones(1, *reader.shape(a[0]), dtype=reader.dtype, device=reader.device)
        out = scaled(reader, out, 1.0, value * (1 - functional.pad(inside, widths))[0])
    return out


def _concatenate(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    dim = (a[1] if len(a) > 1 else k.get("dim", 0)) % (len(reader.target) + 1)
    if dim == 0:
        raise reader.refuse("an operation across the batch dimension")
    axis, parts, shift, start = dim - 1, [], torch.zeros(reader.target, dtype=reader.dtype, device=reader.device), 0
    for part in a[0]:
        size = (reader.shape(part) if isinstance(part, Ref) else tuple(part.shape[1:]))[axis]
        before, after = start, reader.target[axis] - start - size
        if isinstance(part, Ref):
            widths = [0, 0] * (len(reader.target) - 1 - axis) + [before, after]
            parts.append(rearranged(reader, part, lambda z, w=tuple(widths): functional.pad(z, w), reader.target))  # type: ignore[misc]
        else:
            shape = (*reader.target[:axis], size, *reader.target[axis + 1 :])
            shift.narrow(axis, start, size).copy_(reader.features(part, shape))
        start += size
    out = parts[0] if len(parts) == 1 else reader.add(Add(target=reader.target), tuple(parts), reader.target)
    return scaled(reader, out, 1.0, shift) if bool((shift != 0).any()) else out


def _stack(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    dim = (a[1] if len(a) > 1 else k.get("dim", 0)) % (len(reader.target) + 1)
    one = (*reader.target[: dim - 1], 1, *reader.target[dim:])
    parts = [viewed(reader, p, one) if isinstance(p, Ref) else p.unsqueeze(dim) for p in a[0]]
    return _concatenate(reader, [parts, dim], {})


def _same(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    found: Ref = a[0]
    return found


def _dropout(reader: Reader, a: list[Any], k: dict[str, Any]) -> Ref:
    if a[2] if len(a) > 2 else k.get("train", False):
        raise reader.refuse("dropout in training mode (call model.eval())")
    return _same(reader, a, k)


AFFINE: dict[str, Handler] = {
    "linear": _linear,
    "addmm": _addmm,
    "mean": _reduce(True),
    "sum": _reduce(False),
    **dict.fromkeys(
        ("flatten", "view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "unflatten"),
        lambda reader, a, k: viewed(reader, a[0], reader.target),
    ),
    **dict.fromkeys(("transpose", "t", "mT", "swapaxes", "swapdims"), _transpose),
    "permute": _permute,
    **dict.fromkeys(("expand", "expand_as"), lambda reader, a, k: broadcast(reader, a[0], reader.target)),
    **{name: _selected(name) for name in ("slice", "select", "index_select", "narrow")},
    **{name: _pieces(name) for name in ("split", "split_with_sizes", "chunk", "unbind")},
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "cat": _concatenate,
    "stack": _stack,
    **dict.fromkeys(("clone", "contiguous", "detach", "alias", "to", "_to_copy", "lift_fresh_copy"), _same),
    **dict.fromkeys(("dropout", "feature_dropout"), _dropout),
}
