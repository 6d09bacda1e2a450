"""Reads a model into a graph of operations that bounds can be pushed through, by `torch.export`.

Whatever the model's forward does - modules, functions, residual sums, attention - is recorded as ATen operations on
example inputs; parameters and everything that does not depend on the input are constants.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wassertight.certificates.propagation.graph import Graph, Node, Operation, pruned
from wassertight.certificates.propagation.operations import Shape
from wassertight.certificates.propagation.recording import held_constants, objection, place_of, record_model, word_of
from wassertight.types import Model, UnsupportedLayerError, logits_of

COMPARISONS = ("gt", "ge", "lt", "le")
"""Operations whose values, true or false, are read as 1 or 0."""
_BATCH = 3
"""Examples the model is recorded on; their number marks the batch dimension."""


@dataclass(frozen=True)
class Ref:
    """A value that depends on the input: a node of the graph."""

    index: int


Handler = Callable[["Reader", list[Any], dict[str, Any]], "Ref | list[Ref]"]


@dataclass(kw_only=True)
class Reader:
    """Collects nodes while the recorded operations are gone through.

    Attributes:
        dtype, device: of every constant in the graph.
        name: the operation being read and its place, for messages.
        target: shape of the value the recorded operation gives, without the batch dimension.
        coarsest: the least precise floating-point type among the values read.
    """

    dtype: torch.dtype
    device: torch.device
    nodes: list[Node] = field(default_factory=list)
    name: str = "input"
    target: Any = ()
    coarsest: torch.dtype = torch.float64

    def shape(self, ref: Ref) -> Shape:
        return self.nodes[ref.index].shape

    def add(self, operation: Operation | None, parents: tuple[Ref, ...], shape: Shape) -> Ref:
        """A new node."""
        node = Node(
            name=self.name, operation=operation, parents=tuple(ref.index for ref in parents), shape=tuple(shape)
        )
        self.nodes.append(node)
        return Ref(len(self.nodes) - 1)

    def constant(self, value: Any) -> Tensor:
        """A number or tensor in the graph's dtype."""
        if isinstance(value, Tensor):
            return value.detach().to(device=self.device, dtype=self.dtype)
        return torch.tensor(value, dtype=self.dtype, device=self.device)

    def features(self, value: Any, shape: Shape) -> Tensor:
        """A constant operand broadcast to a feature shape; its batch dimension, if it has one, must be trivial."""
        tensor = self.constant(value)
        if tensor.ndim == len(shape) + 1:
            if len(tensor) > 1 and not bool((tensor == tensor[:1]).all()):
                raise self.refuse("a constant that differs from sample to sample")
            tensor = tensor[0]
        return tensor.expand(shape).contiguous()

    def axis(self, dim: int, ref: Ref) -> int:
        """A dimension counted from the end; the batch dimension is refused."""
        dims = len(self.shape(ref)) + 1
        dim = dim % dims
        if dim == 0:
            raise self.refuse("an operation across the batch dimension")
        return dim - dims

    def refuse(self, why: str) -> UnsupportedLayerError:
        return UnsupportedLayerError(
            f"{self.name} cannot be bounded: {why}. Replace the operation by one that can, or run without "
            "a certificate (--certificate none) to attack the model only"
        )


def read_graph(model: Model, x: Tensor, *, dtype: torch.dtype, device: torch.device) -> Graph:
    """Read a model, and check that what was read gives the model's own logits on x.

    Args:
        model: in evaluation mode; any nn.Module or callable that `torch.export` can record.
        x: examples (n, *features) on the model's device.

    Raises:
        UnsupportedLayerError: naming the first operation that cannot be bounded and its place.
    """
    return assemble(record(model, x), model, x, dtype=dtype, device=device)


def record(model: Model, x: Tensor) -> Any:
    """The operations of a model, from which graphs of any dtype can be assembled."""
    return record_model(model, x[:1].expand(_BATCH, *x.shape[1:]).contiguous())


def assemble(program: Any, model: Model, x: Tensor, *, dtype: torch.dtype, device: torch.device) -> Graph:
    """The graph of a recorded model with constants of one dtype, checked against the model."""
    from wassertight.certificates.propagation.vocabulary import HANDLERS

    reader = Reader(dtype=dtype, device=device)
    held = held_constants(program)
    known = dict(held)
    result: Any = None
    places = {recorded: place for place, recorded in enumerate(program.graph.nodes)}
    for recorded in program.graph.nodes:
        if recorded.op == "placeholder":
            if recorded.name not in known:
                known[recorded.name] = reader.add(None, (), tuple(x.shape[1:]))
            continue
        if recorded.op == "get_attr":
            known[recorded.name] = getattr(program.graph_module, recorded.target)
            continue
        arguments = torch.fx.node.map_arg(recorded.args, lambda n: known[n.name])
        keywords = torch.fx.node.map_arg(recorded.kwargs, lambda n: known[n.name])
        if recorded.op == "output":
            result = arguments[0][0]
            continue
        reader.name = place_of(recorded)
        if recorded.target is operator.getitem:
            known[recorded.name] = arguments[0][arguments[1]]
            continue
        if word_of(recorded.target).startswith("_assert"):
            continue
        against = objection(recorded, places, held)
        if against is not None:
            raise reader.refuse(against)
        if not _depends((*arguments, *keywords.values())):
            known[recorded.name] = _evaluated(recorded, arguments, keywords, reader)
            continue
        reader.target = _target(recorded, reader)
        word = word_of(recorded.target)
        if word not in HANDLERS:
            raise reader.refuse(f"the operation '{word}' has no bounds here")
        known[recorded.name] = HANDLERS[word](reader, list(arguments), dict(keywords))
    return _checked(model, x, reader, result)


def _depends(values: Any) -> bool:
    if isinstance(values, Ref):
        return True
    return isinstance(values, (list, tuple)) and any(_depends(value) for value in values)


def _evaluated(recorded: Any, arguments: Any, keywords: Any, reader: Reader) -> Any:
    """An operation on constants; random numbers are none."""
    random = torch.Tag.nondeterministic_seeded in getattr(recorded.target, "tags", ())
    if random and "dropout" not in word_of(recorded.target):
        raise reader.refuse("a random number, so the model is not one function")
    with torch.no_grad():
        return recorded.target(*arguments, **keywords)


def _target(recorded: Any, reader: Reader) -> Any:
    value = recorded.meta.get("val")
    parts = value if isinstance(value, (list, tuple)) else [value]
    for part in parts:
        if not isinstance(part, Tensor) or part.ndim == 0 or part.shape[0] != _BATCH:
            raise reader.refuse("its value is not one entry a sample (an operation across the batch dimension?)")
        if part.dtype not in (torch.float32, torch.float64) and word_of(recorded.target) not in COMPARISONS:
            raise reader.refuse(f"its values are of {str(part.dtype).removeprefix('torch.')}, not float32 or float64")
        if part.dtype == torch.float32:
            reader.coarsest = torch.float32
    shapes = [tuple(part.shape[1:]) for part in parts]
    return shapes if isinstance(value, (list, tuple)) else shapes[0]


def _checked(model: Model, x: Tensor, reader: Reader, result: Any) -> Graph:
    if not isinstance(result, Ref):
        raise UnsupportedLayerError("the model's output does not depend on its input, so there is nothing to bound")
    shape = reader.shape(result)
    if len(shape) != 1:
        raise UnsupportedLayerError(f"the network ends in features of shape {shape}, not in one row of logits")
    graph = pruned(reader.nodes, result.index)
    points = torch.cat((x, _between(x)))
    with torch.no_grad():
        there, here = logits_of(model(points)), graph.logits(points.to(device=reader.device, dtype=reader.dtype))
    if reader.coarsest == torch.float32 and there.dtype == torch.float64:
        raise UnsupportedLayerError(
            "the model computes in float32 inside and answers in float64: convert it to float32"
        )
    single = there.dtype != torch.float64 or reader.dtype != torch.float64
    gap, allowed = float((there.to(here) - here).abs().max()), (1e-3 if single else 1e-8)
    if not gap <= allowed * (1 + float(here.abs().max())):
        raise UnsupportedLayerError(f"the operations read do not reproduce the model's logits (off by {gap:.2e})")
    return graph


def _between(x: Tensor) -> Tensor:
    """Other points within the data's range: entries mixed at random with other entries of the same sample."""
    share = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x)
    moved = x.flatten(1).roll(1, 1).view_as(x)
    return x + share * (moved - x)
