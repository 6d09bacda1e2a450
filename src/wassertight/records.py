"""The record of a run: the JSON object that programs, reports and resumed runs rely on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from wassertight.errors import DataError

_TOLERANCE = 1e-9


def _read_extended(value: Any) -> Any:
    return math.inf if value == "inf" else value


def _write_extended(value: float) -> float | int | str:
    if math.isinf(value):
        return "inf"
    return int(value) if value == int(value) and abs(value) < 2**53 else value


def _write_float(value: float) -> float | str:
    return "inf" if math.isinf(value) else value


Order = Annotated[float, BeforeValidator(_read_extended), PlainSerializer(_write_extended, when_used="json")]
"""An order p or r: 1, 2 or "inf" in JSON."""
Extended = Annotated[float, BeforeValidator(_read_extended), PlainSerializer(_write_float, when_used="json")]
"""A number that may be infinite: the string "inf" in JSON."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=True)


class PassCount(_Part):
    """Forward and backward passes in samples, attack and certificate together."""

    forward: int = 0
    backward: int = 0

    @classmethod
    def total(cls, *counts: PassCount) -> PassCount:
        """Their sum."""
        return cls(forward=sum(c.forward for c in counts), backward=sum(c.backward for c in counts))


class Seconds(_Part):
    """Wall time of each side; null where that side was not run."""

    attack: float | None = None
    certificate: float | None = None


class Freedoms(_Part):
    """Worst-case accuracies of one side with neither, either or both of re-weighting and moving, at the same radius."""

    nominal: float
    reweighting: float
    transport: float
    joint: float


class HeavySample(_Part):
    """A sample the worst law leans on: its mass over its own before, how far its mass moved on average, who it is."""

    sample: int
    label: int
    weight: float
    moved: float


class Reweighted(_Part):
    """How a re-weighting threat's budget is spent; null where the attack, or the certificate, was not run.

    Attributes:
        text: the threat with every digit, as it is typed.
        divergence: name of what prices re-weighting.
        family: name of the curve over budgets the threat lies on.
        spent_divergence, spent_transport: the two parts of the budget under the law found.
        lam: price of the budget, "inf" at radius 0; null where the law came from no dual.
        effective: effective number of samples under the law found.
        attacked, certified: what each freedom does alone.
        heaviest: the samples whose mass grew most.
    """

    text: str
    divergence: str
    family: str
    spent_divergence: float | None = None
    spent_transport: float | None = None
    lam: Extended | None = None
    effective: float | None = None
    attacked: Freedoms | None = None
    certified: Freedoms | None = None
    heaviest: list[HeavySample] = Field(default_factory=list)


class Result(_Part):
    """One threat's bracket: certified <= worst case <= attacked <= clean."""

    threat: str
    p: Order
    r: Order
    radius: float
    clean: float
    attacked: float | None = None
    certified: float | None = None
    spent: Extended | None = None
    passes: PassCount = Field(default_factory=PassCount)
    seconds: Seconds = Field(default_factory=Seconds)
    reweighting: Reweighted | None = None


class Summary(_Part):
    """Mean and median of per-sample distances over the correctly classified samples; "inf" where not finite."""

    mean: Extended
    median: Extended


class DistanceSummary(_Part):
    """Distances of both sides under one ground norm; null where a side was not run.

    `closed` says that the proved balls include their boundary: at p = inf a proved radius equal to the budget stands.
    """

    attacked: Summary | None = None
    certified: Summary | None = None
    closed: bool = False


class Audit(_Part):
    """Verdict of the audit over everything the run returned."""

    ok: bool = True
    violations: int = 0
    details: list[str] = Field(default_factory=list)


class Flag(_Part):
    """A health finding with its remedy."""

    name: str
    message: str
    remedy: str


class Curve(_Part):
    """Accuracy against radius for one (p, r), on one radius grid; null where a side was not run.

    Of a re-weighting threat: against its budget, prices fixed; `family` says which, and is null otherwise.
    """

    p: Order
    r: Order
    radii: list[float]
    attacked: list[float] | None = None
    certified: list[float] | None = None
    family: str | None = None


class BracketSummary(_Part):
    """How far apart both sides are at one (p, r), over all radii; accuracies in [0, 1], radii in the inputs' units.

    Attributes:
        tightness: mean proved radius over mean attack distance; null where it is not defined.
        widest, widest_at: largest width and the radius of it.
        mean_width: mean of the width over the radii up to the one from which on neither curve changes.
        closes_at: radius from which on both sides are equal; "inf" where they never are.
        closed: intervals of radii in which the width is at most `closed_to`.
    """

    p: Order
    r: Order
    tightness: float | None = None
    widest: float
    widest_at: float
    mean_width: float
    closes_at: Extended
    closed_to: float
    closed: list[tuple[Extended, Extended]] = Field(default_factory=list)


class ClaimedBracket(_Part):
    """One threat's bracket under the conditions of a claim; null where a side was not run."""

    threat: str
    p: Order
    r: Order
    radius: float
    certified: float | None = None
    attacked: float | None = None


class Claim(_Part):
    """The brackets once more, around the true law, with labels that may move, or both; and what that assumes."""

    population: bool
    confidence: float
    margin: float
    label_cost: Extended
    assumptions: list[str]
    results: list[ClaimedBracket]


class Record(_Part):
    """One run: what was evaluated, with what, and what came out."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    command: str
    model: str
    data: str
    n: int
    seed: int
    versions: dict[str, str] = Field(default_factory=dict)
    results: list[Result] = Field(default_factory=list)
    distances: DistanceSummary = Field(default_factory=DistanceSummary)
    distances_by_norm: dict[str, DistanceSummary] = Field(default_factory=dict)
    audit: Audit = Field(default_factory=Audit)
    flags: list[Flag] = Field(default_factory=list)
    device: str = "cpu"
    settings: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, str | None] = Field(default_factory=dict)
    assumptions: list[str] = Field(default_factory=list)
    passes: PassCount = Field(default_factory=PassCount)
    seconds: Seconds = Field(default_factory=Seconds)
    arrays: str | None = None
    curves: list[Curve] = Field(default_factory=list)
    brackets: list[BracketSummary] = Field(default_factory=list)
    claim: Claim | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Record:
        """Refuse an unordered bracket unless the audit already says that something is wrong."""
        if not self.audit.ok:
            return self
        for result in self.results:
            upper = result.clean
            for name in ("attacked", "certified"):
                value = getattr(result, name)
                if value is None:
                    continue
                if not -_TOLERANCE <= value <= upper + _TOLERANCE:
                    raise ValueError(
                        f"{result.threat}: {name} accuracy {value} is above {upper}; the order must be "
                        "certified <= attacked <= clean"
                    )
                upper = value
        return self

    def to_json(self) -> str:
        """The record as one JSON object, keys in the order of the contract."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=1, allow_nan=False)

    @classmethod
    def read(cls, path: str | Path) -> Record:
        """Read a record from `record.json`, or from the run directory that holds it."""
        path = Path(path)
        file = path / "record.json" if path.is_dir() else path
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(
                f"no record at {file}; a finished run holds record.json (an unfinished one: give its command again)"
            ) from error
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise DataError(f"{file} is not a readable wassertight record: {error}") from error
