"""Report: what `benchmark` returns - the record, its arrays, and ways to show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from wassertight.evaluation.store import write_whole
from wassertight.records import Record, Result


@dataclass(frozen=True, kw_only=True)
class Report:
    """The bracket of one run; unpacks as `clean, attacked = report`, the values of the first threat.

    Attributes:
        record: everything that was measured, as stored in `record.json`.
        arrays: per-sample tensors, as stored in `arrays.safetensors`.
        run_dir: where it is stored, or None.
    """

    record: Record
    arrays: Mapping[str, Tensor] = field(repr=False)
    run_dir: Path | None = None

    @property
    def results(self) -> list[Result]:
        """One bracket a threat."""
        return self.record.results

    @property
    def clean(self) -> float:
        """Accuracy on the unmoved samples."""
        return self.results[0].clean

    @property
    def attacked(self) -> float | None:
        """Upper bound on the worst-case accuracy under the first threat."""
        return self.results[0].attacked

    @property
    def certified(self) -> float | None:
        """Proved lower bound on the worst-case accuracy under the first threat."""
        return self.results[0].certified

    @property
    def ok(self) -> bool:
        """Whether the audit found nothing wrong."""
        return self.record.audit.ok

    def __iter__(self) -> Iterator[float | None]:
        return iter((self.clean, self.attacked))

    def __str__(self) -> str:
        rows = [f"{'threat':<20} {'certified':>9} {'attacked':>9} {'clean':>7}"]
        for result in self.results:
            low, high = (
                "-" if value is None else f"{100 * value:.1f}%" for value in (result.certified, result.attacked)
            )
            rows.append(f"{result.threat:<20} {low:>9} {high:>9} {100 * result.clean:>6.1f}%")
        return "\n".join(rows)

    def to_json(self, path: str | Path | None = None) -> str:
        """The record as one JSON object, also written to `path` where given."""
        text = self.record.to_json()
        if path is not None:
            write_whole(Path(path), text.encode())
        return text

    def figure(self) -> Any:
        """The bracket as a matplotlib figure."""
        from wassertight.report import bracket_figure

        return bracket_figure(self.record)

    def save_figure(self, stem: str | Path) -> list[Path]:
        """The figure as `<stem>.pdf`, `.svg` and `.png`; returns the paths."""
        from wassertight.report import save_figure

        return [Path(path) for path in save_figure(self.record, Path(stem))]

    def to_html(self, path: str | Path) -> Path:
        """One self-contained page with the table and the figure."""
        from wassertight.report import write_page

        write_page(self.record, Path(path))
        return Path(path)
