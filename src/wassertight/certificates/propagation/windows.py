"""Backward linear bounds of feature maps with coefficients kept on receptive fields, one window a unit.

The coefficients of unit (c, i, j) with respect to an earlier map are zero outside a window whose size, stride and
padding compose from layer to layer; where paths meet, the smaller window is embedded in the larger. Only units that
are asked for are pulled back, over all samples in one list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from wassertight.certificates.propagation.activations import Activation
from wassertight.certificates.propagation.graph import Graph
from wassertight.certificates.propagation.layout import channels_last, flat_rows, raised_rows
from wassertight.certificates.propagation.operations import Add, Convolution, Maximum
from wassertight.certificates.propagation.operations import Elementwise as Scaling
from wassertight.certificates.propagation.region import Region
from wassertight.certificates.propagation.relaxations import Elementwise, Largest, Relaxation, between, dot
from wassertight.certificates.propagation.transposed import unrolled
from wassertight.geometry import conjugate

_MEMORY = {"cpu": 10**6}
"""Coefficients of one map held at once; 4 million on other devices (see `backward.CACHED`)."""
_SHARE = 0.7
"""Largest share of the input a receptive field may cover for windows to pay."""
_TOGETHER = 0.7
"""Share of the units that are wanted from which on all channels of a place are bounded together."""


@dataclass(frozen=True)
class _Geometry:
    """A window begins at `position * stride - padding` and has `size` rows and columns."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def through(self, op: Convolution | Maximum) -> _Geometry:
        return _Geometry(
            tuple((self.size[k] - 1) * op.stride[k] + op.dilation[k] * (op.kernel[k] - 1) + 1 for k in (0, 1)),  # type: ignore[arg-type]
            tuple(self.stride[k] * op.stride[k] for k in (0, 1)),  # type: ignore[arg-type]
            tuple(self.padding[k] * op.stride[k] + op.padding[k] for k in (0, 1)),  # type: ignore[arg-type]
        )

    def joined(self, other: _Geometry) -> _Geometry:
        before = tuple(max(self.padding[k], other.padding[k]) for k in (0, 1))
        after = tuple(max(self.size[k] - self.padding[k], other.size[k] - other.padding[k]) for k in (0, 1))
        return _Geometry((before[0] + after[0], before[1] + after[1]), self.stride, before)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Fields:
    """The window of a unit on every map below it, and the transposed convolutions that are matrices on such windows."""

    windows: Mapping[int, _Geometry]
    matrices: Mapping[int, Tensor]


def paying_fields(graph: Graph, start: int, share: float = _SHARE) -> Fields | None:
    """The windows of a node where all below is convolutional and units see at most a share of the input, else None."""
    fields = _fields(graph, start)
    if fields is None or math.prod(fields[0].size) > share * math.prod(graph.source[1:]):
        return None
    matrices = {}
    for index, field in fields.items():
        op = graph.nodes[index].operation
        if index not in (0, start) and isinstance(op, Convolution) and op.groups == 1:
            matrix = unrolled(op.weight, field.size, op.stride, op.dilation)
            if matrix is not None:
                matrices[index] = matrix
    return Fields(fields, matrices)


def _fields(graph: Graph, start: int) -> dict[int, _Geometry] | None:
    """The window of a unit of `start` on every map below, or None where windows cannot be followed."""
    found = {start: _Geometry((1, 1), (1, 1), (0, 0))}
    if len(graph.nodes[start].shape) != 3:
        return None
    for index in range(start, 0, -1):
        if index not in found:
            continue
        node = graph.nodes[index]
        if not isinstance(node.operation, (Convolution, Maximum, Scaling, Add, Activation)) or len(node.shape) != 3:
            return None
        here = found[index]
        for parent in node.parents:
            there = here.through(node.operation) if isinstance(node.operation, (Convolution, Maximum)) else here
            if parent in found and found[parent].stride != there.stride:
                return None
            found[parent] = found[parent].joined(there) if parent in found else there
    return found if 0 in found and len(graph.source) == 3 else None


def window_bounds(
    graph: Graph, start: int, wanted: Tensor, region: Region, relaxations: Mapping[int, Relaxation], fields: Fields
) -> tuple[Tensor, Tensor]:
    """Proved bounds, below and above, of the wanted units (n, *shape) of a node, in the order of `wanted.nonzero()`."""
    together = bool(wanted.float().mean() > _TOGETHER)
    if together:  # every channel of a place, whose windows are the same
        places = torch.ones_like(wanted[:, 0]).nonzero()
        channels = torch.arange(wanted.shape[1], device=wanted.device).expand(len(places), -1)
    else:
        sample, channel, row, column = wanted.nonzero().T
        places, channels = torch.stack((sample, row, column), 1), channel[:, None]
    widest = max(math.prod(field.size) * graph.nodes[index].shape[0] for index, field in fields.windows.items())
    step = max(1, _MEMORY.get(wanted.device.type, 4 * 10**6) // (widest * channels.shape[1]))
    parts = [
        _Pull(graph, start, *part, region, relaxations, fields).bounds()
        for part in zip(torch.split(places, step), torch.split(channels, step), strict=True)
    ]
    lower, upper = torch.cat(parts).chunk(2, 1)
    if together:
        lower, upper = (v.view(len(wanted), *wanted.shape[2:], -1).movedim(-1, 1)[wanted] for v in (lower, upper))
        return lower, -upper
    return lower.squeeze(1), -upper.squeeze(1)


class _Pull:
    """Rows (places, 2 m, channels, height, width): for m units of a place, and for their negatives."""

    def __init__(
        self,
        graph: Graph,
        start: int,
        places: Tensor,
        channels: Tensor,
        region: Region,
        relaxations: Mapping[int, Relaxation],
        fields: Fields,
    ) -> None:
        self.graph, self.start, self.region, self.relaxations = graph, start, region, relaxations
        self.fields, self.matrices = fields.windows, fields.matrices
        (self.sample, self.row, self.column), self.channels = places.T, channels
        self.constant = region.x.new_zeros(len(channels), 2 * channels.shape[1])

    def bounds(self) -> Tensor:
        """(places, 2 m): lower bounds of all rows."""
        rows: dict[int, Tensor] = {self.start: self._first()}
        for index in range(self.start, 0, -1):
            if index not in rows:
                continue
            a, node = rows.pop(index), self.graph.nodes[index]
            operation, here = node.operation, self.fields[index]
            if isinstance(operation, Convolution):
                a = self._convolve(a, operation, index)
            elif isinstance(operation, Scaling):
                self.constant = self.constant + dot(a, self._gather(operation.shift[None], here, one=True))
                a = a * self._gather(operation.scale[None], here, one=True)
            elif isinstance(operation, Activation):
                a = self._relax(a, index)
            elif isinstance(operation, Maximum):
                a = self._largest(a, operation, index)
            for parent in node.parents:
                place = here.through(operation) if isinstance(operation, (Convolution, Maximum)) else here
                part = _embedded(a, place, self.fields[parent])
                rows[parent] = rows[parent] + part if parent in rows else part
        return self.constant + self._minimum(rows[0])

    def _first(self) -> Tensor:
        channels = self.graph.nodes[self.start].shape[0]
        return _both(functional.one_hot(self.channels, channels).to(self.region.x.dtype)[..., None, None])

    def _convolve(self, a: Tensor, op: Convolution, index: int) -> Tensor:
        here = self.fields[index]
        if index == self.start and op.groups == 1 and op.dilation == (1, 1):
            self.constant = self.constant + _both(op.bias[self.channels])
            return _both(op.weight[self.channels])
        if any(here.padding):
            a = a * self._inside(here, op.target)
        self.constant = self.constant + a.sum((3, 4)) @ op.bias
        matrix = self.matrices.get(index)
        if matrix is not None:
            size = here.through(op).size
            return raised_rows(flat_rows(a) @ matrix, (-1, *size))
        flat = functional.conv_transpose2d(
            channels_last(a.flatten(0, 1)), op.weight, None, op.stride, 0, 0, op.groups, op.dilation
        )
        return flat.view(*a.shape[:2], *flat.shape[1:])

    def _relax(self, a: Tensor, index: int) -> Tensor:
        relaxation, here = self.relaxations[index], self.fields[index]
        assert isinstance(relaxation, Elementwise)
        row, constant = between(a, *(self._gather(v[:, 0], here) for v in relaxation.gaps()))
        self.constant = self.constant + constant
        return row

    def _largest(self, a: Tensor, op: Maximum, index: int) -> Tensor:
        largest = self.relaxations[index]
        assert isinstance(largest, Largest)
        here, count = self.fields[index], op.kernel[0] * op.kernel[1]

        def entries(v: Tensor) -> Tensor:
            """Every place's windows of a map (n, 1, channels, height, width, entries)."""
            flat = self._gather(v[:, 0].permute(0, 1, 4, 2, 3).flatten(1, 2), here)
            return flat.reshape(len(flat), 1, -1, count, *flat.shape[3:]).movedim(3, -1)

        pick, slope, error = entries(largest.pick), entries(largest.slope), largest.error
        raised = self._gather((largest.shift + (largest.slope * error).sum(-1))[:, 0], here)
        lowered = self._gather((largest.pick * error).sum(-1)[:, 0], here)
        below = a.clamp_max(0)
        above = a - below
        self.constant = self.constant + dot(below, raised) - dot(above, lowered)
        rows = above[..., None] * pick + below[..., None] * slope
        spread = op.spread(rows.flatten(0, 1))
        return spread.view(*rows.shape[:2], *spread.shape[1:])

    def _gather(self, v: Tensor, field: _Geometry, *, one: bool = False) -> Tensor:
        """Every place's window of a map (n, channels, H, W), zero outside: (places, 1, channels, *size)."""
        _, height, width = self.graph.nodes[self.start].shape
        ends = [
            max(0, (count - 1) * field.stride[k] - field.padding[k] + field.size[k] - v.shape[2 + k])
            for k, count in ((0, height), (1, width))
        ]
        padded = functional.pad(v, (field.padding[1], ends[1], field.padding[0], ends[0]))
        padded = channels_last(padded)
        view = padded.unfold(2, field.size[0], field.stride[0]).unfold(3, field.size[1], field.stride[1])
        sample = torch.zeros_like(self.sample) if one else self.sample
        found: Tensor = view.permute(0, 2, 3, 4, 5, 1)[sample, self.row, self.column]
        return found.movedim(-1, 1)[:, None]

    def _inside(self, field: _Geometry, shape: tuple[int, ...]) -> Tensor:
        """1 where a window's entry lies on the map: (places, 1, 1, *size)."""
        masks = []
        for k, place in ((0, self.row), (1, self.column)):
            at = (place * field.stride[k] - field.padding[k])[:, None] + torch.arange(
                field.size[k], device=place.device
            )
            masks.append(((at >= 0) & (at < shape[1 + k])).to(self.constant.dtype))
        inside: Tensor = masks[0][:, :, None] * masks[1][:, None, :]
        return inside[:, None, None]

    def _minimum(self, a: Tensor) -> Tensor:
        region, field = self.region, self.fields[0]
        low, high = self._gather(region.low, field), self._gather(region.high, field)
        below = a.clamp_max(0)
        box = dot(a, low) + dot(below, high - low)
        if math.isinf(region.r):
            return box
        a = a * self._inside(field, self.graph.source)
        size = torch.linalg.vector_norm(a.flatten(2), ord=conjugate(region.r), dim=2)
        centre = dot(a, self._gather(region.x, field))
        return torch.maximum(box, centre - region.t[self.sample, None] * size)


def _both(a: Tensor) -> Tensor:
    return torch.cat((a, -a), 1)


def _embedded(a: Tensor, small: _Geometry, large: _Geometry) -> Tensor:
    if small == large:
        return a
    before = [large.padding[k] - small.padding[k] for k in (0, 1)]
    after = [large.size[k] - before[k] - small.size[k] for k in (0, 1)]
    return functional.pad(a, (before[1], after[1], before[0], after[0]))
