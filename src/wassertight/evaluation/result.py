"""Report: what `benchmark` returns - the record, its arrays, and ways to show them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from wassertight.certificates import AccuracyCurve, Bracket, Population, accuracy_curves
from wassertight.evaluation.claims import Side, make_claim, stored_distances
from wassertight.files import write_whole
from wassertight.records import Record, Result
from wassertight.transport import FlipDistances
from wassertight.types import InputError


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

    def curve(
        self,
        p: float,
        radii: Sequence[float] | Tensor,
        *,
        side: Side = "certified",
        r: float | None = None,
        label_cost: float = math.inf,
        confidence: float | None = None,
    ) -> AccuracyCurve:
        """One side of the worst-case accuracy at any order and radii, from the distances of this run.

        Args:
            p: Wasserstein order, >= 1 or inf.
            radii: budgets >= 0 in the inputs' units.
            side: "certified" or "attacked".
            r: order of the ground norm; that of the first threat by default.
            label_cost: cost of changing a label; inf: labels never move.
            confidence: around the true law, with this confidence; None: around the law of the samples.

        Raises:
            InputError: for a side that was not run, or values that cannot be used.
        """
        population = None if confidence is None else Population(confidence=confidence)
        known = self._known(side, r)
        return accuracy_curves(known, (p,), radii, label_cost=label_cost, population=population)[0]

    def bracket(self, r: float | None = None) -> Bracket:
        """Both sides of one ground norm (that of the first threat by default): widths, tightness, where it closes.

        Raises:
            InputError: where a side was not run.
        """
        return Bracket(certified=self._known("certified", r), attacked=self._known("attacked", r))

    def with_claim(self, *, confidence: float | None = None, label_cost: float = math.inf) -> Report:
        """The same report with `record.claim`: its brackets around the true law, with movable labels, or both.

        The record in the run directory, where there is one, is written again with it.
        """
        claim = make_claim(self.record, self.arrays, confidence=confidence, label_cost=label_cost)
        record = self.record.model_copy(update={"claim": claim})
        if self.run_dir is not None:
            write_whole(self.run_dir / "record.json", record.to_json().encode())
        return replace(self, record=record)

    def _known(self, side: Side, r: float | None) -> FlipDistances:
        known = stored_distances(self.record, self.arrays, side, self.results[0].r if r is None else r)
        if known is None:
            raise InputError(
                f"this run has no {side} side; run it with {'an attack' if side == 'attacked' else 'a certificate'}"
            )
        return known

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
        """One self-contained page on which order, radius and norm of the bracket can be moved."""
        from wassertight.report import write_page

        write_page(self.record, Path(path), {name: tensor.cpu().numpy() for name, tensor in self.arrays.items()})
        return Path(path)
