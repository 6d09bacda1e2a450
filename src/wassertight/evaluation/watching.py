"""Progress of long work: nothing, the caller's own function, or bars with the time left on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from wassertight.evaluation.store import Watch


@contextmanager
def watching(progress: bool | Watch) -> Iterator[Watch]:
    """A function that shows progress: nothing, the caller's own, or bars with the time left on standard error."""
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield lambda stage, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def watch(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage.replace("-", " ", 1), total=total)
            bars.update(tasks[stage], completed=done)

        yield watch
