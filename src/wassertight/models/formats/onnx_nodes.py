"""A node of an ONNX graph as its readers see it, and the modules that are not already in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wassertight.types import ModelError


class Unreadable(ModelError):
    """A node that cannot be read; names it."""


@dataclass(kw_only=True)
class Node:
    """One node, with what is known about its inputs.

    Attributes:
        word, name, opset: its operation, its name, the version of the operator set.
        attributes: as the file gives them.
        names: of its inputs; "" where one is left out.
        constants: values of inputs that do not depend on the network's input, None for those that do.
        followers: the same for another number of samples, where that changes them.
        examples: values of the inputs that depend on the network's input, (batch[0], *features).
        batch: the two numbers of samples.
        outputs: how many it has.
        producers: nodes that gave the inputs, None for constants.
        replaced: set by a reader that found a longer pattern: the one value its module is applied to.
    """

    word: str
    name: str
    opset: int
    attributes: Mapping[str, Any]
    names: list[str]
    constants: list[Any]
    followers: list[Any]
    examples: list[Tensor | None]
    batch: tuple[int, int]
    outputs: int = 1
    producers: list[Node | None] = field(default_factory=list)
    replaced: str | None = None

    def refuse(self, why: str) -> Unreadable:
        return Unreadable(f"node {self.name!r} ({self.word}) cannot be read: {why}")

    @property
    def example(self) -> Tensor:
        """The first input, which must depend on the network's input."""
        if not self.examples or self.examples[0] is None:
            raise self.refuse("its first input is a constant and another one is not")
        return self.examples[0]

    def given(self, position: int) -> bool:
        return position < len(self.names) and bool(self.names[position])

    def constant(self, position: int) -> Tensor:
        """A constant input; floating-point ones in float32, one row where it repeats itself for every sample."""
        if not self.given(position) or self.constants[position] is None:
            raise self.refuse(f"input {position} must be a constant")
        value, other = np.asarray(self.constants[position]), self.followers[position]
        if other is not None:
            same = value.ndim > 0 and value.shape[0] == self.batch[0] and value.shape[1:] == np.shape(other)[1:]
            if not same or (value != value[:1]).any() or (np.asarray(other) != value[:1]).any():
                raise self.refuse(f"input {position} depends on the number of samples")
            value = value[:1]
        tensor = torch.from_numpy(np.array(value))
        return tensor.float() if tensor.is_floating_point() else tensor

    def numbers(self, position: int) -> list[int]:
        """A constant input as whole numbers."""
        return [int(value) for value in self.constant(position).reshape(-1)]

    def setting(self, name: str, position: int | None = None, default: Any = None) -> Any:
        """An attribute, or the constant input that newer operator sets have in its place."""
        if name in self.attributes:
            return self.attributes[name]
        if position is None or not self.given(position):
            return default
        value = self.constant(position)
        return value.tolist()

    def axis(self, axis: int, dims: int | None = None) -> int:
        """An axis counted from the start; the batch's is refused."""
        dims = self.example.ndim if dims is None else dims
        if axis % dims == 0:
            raise self.refuse("it works across the batch dimension")
        return axis % dims


class Applied(nn.Module):
    """A function of values and constants, the constants at given positions."""

    def __init__(self, word: str, function: Callable[..., Tensor], fixed: Mapping[int, Tensor] | None = None) -> None:
        super().__init__()
        self.word, self.function, self.positions = word, function, sorted(fixed or {})
        for position, value in (fixed or {}).items():
            self.register_buffer(f"fixed_{position}", value)

    def forward(self, *values: Tensor) -> Tensor:
        arguments = list(values)
        for position in self.positions:
            arguments.insert(position, getattr(self, f"fixed_{position}"))
        return self.function(*arguments)

    def extra_repr(self) -> str:
        return self.word


class Reshape(nn.Module):
    """Values of another feature shape, (n, *source) to (n, *target)."""

    def __init__(self, target: tuple[int, ...]) -> None:
        super().__init__()
        self.target = target

    def forward(self, z: Tensor) -> Tensor:
        return z.reshape(len(z), *self.target)

    def extra_repr(self) -> str:
        return str(self.target)


class Concat(nn.Module):
    """Values and constants side by side along an axis; constants are repeated for every sample."""

    def __init__(self, axis: int, fixed: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.axis, self.positions = axis, sorted(fixed)
        for position, value in fixed.items():
            self.register_buffer(f"fixed_{position}", value)

    def forward(self, *values: Tensor) -> Tensor:
        parts = list(values)
        for position in self.positions:
            row = getattr(self, f"fixed_{position}")
            parts.insert(position, row.expand(len(values[0]), *row.shape[1:]))
        return torch.cat(parts, self.axis)

    def extra_repr(self) -> str:
        return f"axis={self.axis}"
