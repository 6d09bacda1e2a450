"""The leaderboard's rows: one for each threat of each run, gathered from run directories and earlier leaderboards."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wassertight.errors import DataError
from wassertight.records import Flag, Order, PassCount, Record, Result

_ROUNDING = 1e-9
_NOTHING = -math.inf


class LeaderboardRow(BaseModel):
    """One threat of one run; null where a side was not run.

    Attributes:
        threat: as it is typed; `p`, `r` and `radius` say the same with every digit.
        attack, certificate: names of the methods; their settings beside them, and the preset.
        passes: forward and backward passes spent for this row, in samples.
        violations: what the audit found wrong; 0 is a passed audit.
        run: name of the run's directory.
        date: when its record was written, UTC.
        report: the run's own page, relative to the leaderboard.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    model_sha256: str | None = None
    data: str
    data_sha256: str | None = None
    n: int = Field(ge=1)
    seed: int
    threat: str
    p: Order
    r: Order
    radius: float = Field(ge=0)
    clean: float = Field(ge=0, le=1)
    certified: float | None = Field(default=None, ge=0, le=1)
    attacked: float | None = Field(default=None, ge=0, le=1)
    attack: str | None = None
    attack_settings: dict[str, Any] = Field(default_factory=dict)
    certificate: str | None = None
    certificate_settings: dict[str, Any] = Field(default_factory=dict)
    preset: str | None = None
    passes: PassCount = Field(default_factory=PassCount)
    violations: int = Field(default=0, ge=0)
    flags: list[Flag] = Field(default_factory=list)
    version: str | None = None
    date: str | None = None
    run: str = ""
    report: str | None = Field(default=None, pattern=r"^reports/[A-Za-z0-9_-][A-Za-z0-9._-]*\.html$")

    @model_validator(mode="after")
    def _ordered(self) -> LeaderboardRow:
        known = [value for value in (self.certified, self.attacked, self.clean) if value is not None]
        if self.audited and any(low > high + _ROUNDING for low, high in pairwise(known)):
            raise ValueError(f"{self.model}, {self.threat}: not certified <= attacked <= clean, yet audited")
        return self

    @property
    def audited(self) -> bool:
        """Whether the run's audit found nothing wrong."""
        return self.violations == 0

    @property
    def width(self) -> float | None:
        """Attacked less certified accuracy: what is not known about the worst case."""
        if self.attacked is None or self.certified is None:
            return None
        return self.attacked - self.certified

    @property
    def key(self) -> str:
        """Which question was put, to which network, and by what means: of two rows that agree the later one stands."""
        parts = self.model_dump(
            mode="json",
            include={"model", "model_sha256", "data", "data_sha256", "n", "seed", "threat", "p", "r", "radius",
                     "attack", "attack_settings", "certificate", "certificate_settings", "preset"},
        )  # fmt: skip
        return json.dumps(parts, sort_keys=True)

    @property
    def contest(self) -> tuple[Any, ...]:
        """What rows must share to be ranked against each other: the samples and the threat."""
        return (self.data_sha256 or f"{self.data}, {self.n}", *self.place)

    @property
    def place(self) -> tuple[Any, ...]:
        """Where the threat stands among others."""
        kind = self.threat.rpartition("@")[0]
        return (-self.r, self.p, kind, self.radius, self.threat)

    @property
    def merit(self) -> tuple[float, float, float]:
        """What is proved counts first: an attacked accuracy is high also where the attack is weak."""
        return (_known(self.certified), _known(self.attacked), self.clean)


class Leaderboard(BaseModel):
    """Rows in order: by data and threat, within these the best first, rows that failed their audit last of all."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Literal["wassertight leaderboard"] = "wassertight leaderboard"
    rows: list[LeaderboardRow]

    @property
    def ranks(self) -> list[int | None]:
        """Of every row, its place among the audited rows on the same samples under the same threat; None: not audited."""
        groups: dict[tuple[Any, ...], list[tuple[float, ...]]] = {}
        for row in self.rows:
            if row.audited:
                groups.setdefault(row.contest, []).append(row.merit)
        return [
            1 + sum(other > row.merit for other in groups[row.contest]) if row.audited else None for row in self.rows
        ]

    def to_json(self) -> str:
        """The leaderboard as one JSON object, to be read again."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Leaderboard:
        """Read `leaderboard.json`.

        Raises:
            DataError: not readable, or not a leaderboard.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise DataError(f"{path} is not a readable leaderboard: {error}") from error


def read_leaderboard(sources: Sequence[str | Path]) -> Leaderboard:
    """Gather the rows of runs and of earlier leaderboards.

    Args:
        sources: run directories, folders searched for them, records, and `leaderboard.json` files. Of rows with the
            same model, data, n, seed, threat, methods and settings the one named later stands; within a folder, the one
            written later.

    Raises:
        DataError: nothing there, or something that is neither a record nor a leaderboard.
    """
    return Leaderboard(rows=[row for row, _ in gather(sources)])


def gather(sources: Sequence[str | Path]) -> list[tuple[LeaderboardRow, Path | None]]:
    """The rows in order, each with the page of its run where there is one."""
    found: dict[str, tuple[LeaderboardRow, Path | None]] = {}
    for source in sources:
        for row, page in _rows(Path(source)):
            found[row.key] = (row, page)
    if not found:
        names = ", ".join(str(source) for source in sources)
        raise DataError(f"no finished run in {names}: a run directory holds record.json (unfinished: run it again)")
    return sorted(found.values(), key=lambda entry: _standing(entry[0]))


def _standing(row: LeaderboardRow) -> tuple[Any, ...]:
    return (not row.audited, row.data, row.n, *row.place, *(-value for value in row.merit), row.model, row.run)


def _rows(source: Path) -> Iterator[tuple[LeaderboardRow, Path | None]]:
    if source.is_file() and source.name != "record.json":
        for row in Leaderboard.read(source).rows:
            page = source.parent / row.report if row.report else None
            yield row, page if page is not None and page.is_file() else None
        return
    records = sorted(source.rglob("record.json"), key=_written) if source.is_dir() else [source]
    for file in records:
        record = Record.read(file)
        page = file.parent / "report.html"
        for result in record.results:
            yield _row(record, result, file), page if page.is_file() else None


def _written(file: Path) -> tuple[float, str]:
    return file.stat().st_mtime, str(file)


def _row(record: Record, result: Result, file: Path) -> LeaderboardRow:
    attack, certificate = (record.methods.get(side) for side in ("attack", "certificate"))
    try:
        return LeaderboardRow(
            model=record.model,
            model_sha256=record.settings.get("model_sha256"),
            data=record.data,
            data_sha256=record.settings.get("data_sha256"),
            n=record.n,
            seed=record.seed,
            threat=result.reweighting.text if result.reweighting is not None else result.threat,
            p=result.p,
            r=result.r,
            radius=result.radius,
            clean=result.clean,
            certified=result.certified,
            attacked=result.attacked,
            attack=attack,
            attack_settings=_settings(record, "attack") if attack else {},
            certificate=certificate,
            certificate_settings=_settings(record, "certificate") if certificate else {},
            preset=record.settings.get("preset"),
            passes=result.passes,
            violations=0 if record.audit.ok else max(1, record.audit.violations),
            flags=record.flags,
            version=record.versions.get("wassertight"),
            date=datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds"),
            run=_name(file.parent),
        )
    except ValidationError as error:
        raise DataError(f"{file} cannot stand on a leaderboard: {error}") from error


def _settings(record: Record, side: str) -> dict[str, Any]:
    return {key: value for key, value in (record.settings.get(side) or {}).items() if key != "name"}


def _name(directory: Path) -> str:
    """A run's name; the evaluations of a training run go by the name of that run too."""
    name = directory.resolve().name
    return f"{directory.resolve().parent.name}/{name}" if name.startswith("evaluation-") else name


def _known(value: float | None) -> float:
    return _NOTHING if value is None else value


def page_name(row: LeaderboardRow, content: bytes) -> str:
    """Where a run's page goes beside the leaderboard: the same page always to the same place."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", row.run).strip("-") or "run"
    return f"reports/{stem}-{sha256(content).hexdigest()[:8]}.html"
