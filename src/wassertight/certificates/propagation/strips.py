"""Matrices whose rows are zero but for a range of columns: of neighbouring rows only the range they share is kept.

Rows of convolutions see a window of the input. In the order of `layout.flat_rows` units come line by line, and so do
pixels: units of a line see a band of pixels, one range of columns, and products with such strips are products of small
dense matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_WORTH = 16_000
"""Entries that one strip more must save."""


@dataclass(frozen=True)
class Run:
    """Rows `first` to `last` and columns `begin` to `end`, the ends not included."""

    first: int
    last: int
    begin: int
    end: int

    @property
    def entries(self) -> int:
        return (self.last - self.first) * (self.end - self.begin)


class Strips:
    """A matrix (U, k).

    Args:
        flat: entries of one strip after the other, each row by row.
        runs: where the strips are; they cover every row once, in order.
        width: k.
    """

    def __init__(self, flat: Tensor, runs: Sequence[Run], width: int) -> None:
        self.flat, self.runs, self.width = flat, tuple(runs), width

    @classmethod
    def of(cls, dense: Tensor) -> Strips:
        """Of a dense matrix, strips where they save enough."""
        present = dense != 0
        begin = torch.where(present.any(1), present.byte().argmax(1), dense.shape[1])
        end = torch.where(present.any(1), dense.shape[1] - present.flip(1).byte().argmax(1), 0)
        return cls.fitted(dense, _runs(begin.cpu(), end.cpu(), 0))

    @classmethod
    def fitted(cls, dense: Tensor, runs: Sequence[Run]) -> Strips:
        """Entries of a dense matrix (U, k) at given strips."""
        blocks = [dense[r.first : r.last, r.begin : r.end].flatten() for r in runs]
        return cls(torch.cat([*blocks, dense.new_empty(0)]), runs, dense.shape[1])

    @classmethod
    def joined(cls, parts: Sequence[Strips]) -> Strips:
        """The rows of several matrices, one after the other."""
        runs, first = list[Run](), 0
        for part in parts:
            runs += [Run(r.first + first, r.last + first, r.begin, r.end) for r in part.runs]
            first += len(part)
        return cls(torch.cat([part.flat for part in parts]), runs, parts[0].width)

    def __len__(self) -> int:
        return self.runs[-1].last if self.runs else 0

    def like(self, flat: Tensor) -> Strips:
        """Other entries at the same strips."""
        return Strips(flat, self.runs, self.width)

    @cached_property
    def blocks(self) -> list[tuple[Run, Tensor]]:
        """Strips, and their entries (rows, columns)."""
        parts = torch.split(self.flat, [r.entries for r in self.runs])
        return [(r, p.view(r.last - r.first, r.end - r.begin)) for r, p in zip(self.runs, parts, strict=True)]

    def part(self, chosen: Tensor) -> Strips:
        """The rows where `chosen` (U,)."""
        runs, kept, first, marks = list[Run](), [self.flat[:0]], 0, chosen.tolist()
        for r, block in self.blocks:
            count = sum(marks[r.first : r.last])
            if count:
                runs.append(Run(first, first + count, r.begin, r.end))
                kept.append((block if count == len(block) else block[chosen[r.first : r.last]]).flatten())
                first += count
        return Strips(torch.cat(kept), runs, self.width)

    def dense(self, fill: float = 0.0) -> Tensor:
        """(U, k)."""
        found = self.flat.new_full((len(self), self.width), fill)
        for r, block in self.blocks:
            found[r.first : r.last, r.begin : r.end] = block
        return found

    def across(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """`x @ matrix`: (n, m, U) to (n, m, k); added to `onto` in place, if that is given."""
        found = x.new_zeros(*x.shape[:2], self.width) if onto is None else onto
        x, flat = x.flatten(0, 1), found.flatten(0, 1)
        for r, block in self.blocks:
            flat[:, r.begin : r.end].addmm_(x[:, r.first : r.last], block)
        return found

    def onto(self, y: Tensor) -> Tensor:
        """`y @ matrix.T`: (n, m, k) to (n, m, U)."""
        y, found = y.flatten(0, 1), y.new_empty(*y.shape[:2], len(self))
        flat = found.flatten(0, 1)
        for r, block in self.blocks:
            flat[:, r.first : r.last].addmm_(y[:, r.begin : r.end], block.T, beta=0)
        return found

    def outer(self, x: Tensor, y: Tensor) -> Strips:
        """`x.T @ y` at these strips, for x (n, m, U) and y (n, m, k)."""
        x, y, found = x.flatten(0, 1), y.flatten(0, 1), self.like(torch.empty_like(self.flat))
        for r, block in found.blocks:
            torch.mm(x[:, r.first : r.last].T, y[:, r.begin : r.end], out=block)
        return found

    def sums(self, weights: Tensor) -> Tensor:
        """`matrix @ weights`: (k,) to (U,)."""
        return self.onto(weights[None, None])[0, 0]

    def by_rows(self, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Every strip's entries with the values (U,) of its rows, as a column."""
        for r, block in self.blocks:
            yield block, values[r.first : r.last, None]


def _runs(begin: Tensor, end: Tensor, first: int) -> list[Run]:
    """Strips for rows with ranges of columns, halved where that saves enough."""
    count = len(begin)
    if count == 0:
        return []
    low, high = int(begin.min()), int(end.max())
    whole = Run(first, first + count, min(low, max(high - 1, 0)), max(high, 1))
    if count > 1 and whole.entries > _WORTH:
        before = end.cummax(0).values[:-1] - begin.cummin(0).values[:-1]
        after = (end.flip(0).cummax(0).values - begin.flip(0).cummin(0).values).flip(0)[1:]
        sizes = torch.arange(1, count)
        cost = before.clamp_min(0) * sizes + after.clamp_min(0) * (count - sizes)
        at = int(cost.argmin())
        if int(cost[at]) + _WORTH < whole.entries:
            return _runs(begin[: at + 1], end[: at + 1], first) + _runs(begin[at + 1 :], end[at + 1 :], first + at + 1)
    return [whole]
