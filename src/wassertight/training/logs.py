"""What a run writes down: means of an epoch's metrics, a CSV file, TensorBoard where installed, live progress."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from wassertight.files import write_whole
from wassertight.types import Passes

Watch: TypeAlias = Callable[[str, int, int], None]
"""Called as watch(text, steps_done, steps_total)."""


class Meter:
    """Means over an epoch, weighted by samples; kept as tensors so that a GPU is not made to wait."""

    def __init__(self, sums: Mapping[str, Sequence[float]] | None = None) -> None:
        self.sums: dict[str, list[Any]] = {name: list(pair) for name, pair in (sums or {}).items()}

    def add(self, metrics: Mapping[str, Any], samples: int) -> None:
        """Take one step's numbers."""
        for name, value in metrics.items():
            number = value.detach().double().cpu() if isinstance(value, Tensor) else float(value)
            pair = self.sums.setdefault(name, [0.0, 0])
            pair[0], pair[1] = pair[0] + number * samples, pair[1] + samples

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: float(total) / count for name, (total, count) in self.sums.items() if count}

    def plain(self) -> dict[str, list[float]]:
        """The sums as plain numbers, for a checkpoint."""
        return {name: [float(total), count] for name, (total, count) in self.sums.items()}


class PassCounter:
    """Counts samples through a module: passes with gradient (a backward follows each) and without."""

    def __init__(self, module: nn.Module, forward: int = 0, backward: int = 0) -> None:
        self.forward, self.backward, self.paused = forward, backward, False
        self._handle = module.register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self.paused:
            return
        self.forward += len(inputs[0])
        self.backward += len(inputs[0]) if torch.is_grad_enabled() else 0

    def close(self) -> None:
        """Stop counting."""
        self._handle.remove()

    @property
    def passes(self) -> Passes:
        """Passes in samples."""
        return Passes(forward=self.forward, backward=self.backward)


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All epochs so far, one a line; the file is replaced whole."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, buffer.getvalue().encode())


def board(directory: Path | None) -> Any | None:
    """A TensorBoard writer, or None without a directory or where TensorBoard is not installed."""
    if directory is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory / "tensorboard"))


@contextmanager
def watching(progress: bool | Watch) -> Iterator[Watch]:
    """Nothing, the caller's own function, or a bar with live numbers and the time left on standard error."""
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield lambda text, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True)) as bars:
        task = bars.add_task("training")
        yield lambda text, done, total: bars.update(task, description=text, completed=done, total=total)


def line(row: Mapping[str, Any]) -> str:
    """A row of numbers for one line of a screen.

    >>> line({"loss": 0.12345, "validated robust": 0.5})
    'loss 0.123  validated robust 0.500'
    """
    return "  ".join(f"{name} {value:.3f}" for name, value in row.items() if isinstance(value, float))
