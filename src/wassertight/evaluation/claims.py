"""Claims beyond the samples as they are: around the true law, with labels that may move, from the distances of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from wassertight.certificates import Population, accuracy_curves, population_accuracy
from wassertight.certificates.curves import curve_assumptions
from wassertight.geometry import norm_name
from wassertight.records import Claim, ClaimedBracket, Record, Result
from wassertight.threats import DivergenceBall, threat
from wassertight.transport import FlipDistances
from wassertight.types import InputError

Side = Literal["attacked", "certified"]


def check_claim(confidence: float | None, label_cost: float) -> None:
    """Refuse a claim that cannot be made, before any work.

    Raises:
        InputError: for a confidence outside [0.5, 1) or a label cost that is not > 0.
    """
    if confidence is not None:
        Population(confidence=confidence)
    if not label_cost > 0:
        raise InputError(f"a label cost must be > 0 (inf = labels never move), got {label_cost}")


def stored_distances(record: Record, arrays: Mapping[str, Tensor], side: Side, r: float) -> FlipDistances | None:
    """One side's distances under one ground norm as a run keeps them; None where the side was not run.

    Proved radii are read as open balls: a radius equal to the budget does not count at p = inf.

    Raises:
        InputError: for a norm the run does not know.
    """
    norms = [norm_name(result.r) for result in record.results]
    names = list(dict.fromkeys(norms))
    if norm_name(r) not in names:
        raise InputError(f"the run knows the ground norms {', '.join(names)}, not {norm_name(r)}")
    index = names.index(norm_name(r))
    values = arrays.get(f"{side}_distance" + (f".{norm_name(r)}" if index else ""))
    if values is None:
        return None
    make = FlipDistances.attacked if side == "attacked" else FlipDistances.certified
    return make(values, arrays.get("weight"))


def make_claim(
    record: Record, arrays: Mapping[str, Tensor], *, confidence: float | None = None, label_cost: float = math.inf
) -> Claim:
    """The brackets of a finished run under other conditions.

    Where labels stay, the audited numbers of the run move by the margin; where they may move, both sides are
    computed afresh from the same distances. With both sides each bound gets half of the error.

    Args:
        confidence: around the true law, with this confidence; None: around the law of the samples.
        label_cost: cost of changing a label; inf: labels never move.
    """
    check_claim(confidence, label_cost)
    if math.isfinite(label_cost) and any(result.reweighting is not None for result in record.results):
        raise InputError("labels do not move under re-weighting threats; leave out the label cost, or those threats")
    first = record.results[0]
    both = first.certified is not None and first.attacked is not None
    population = None if confidence is None else Population(confidence=confidence, sides=2 if both else 1)
    margin = 0.0 if population is None else population.margin(record.n)
    results = []
    for result in record.results:
        if result.reweighting is not None:
            results.append(_reweighted(record, arrays, result, population))
            continue
        values: dict[str, float | None] = {"certified": result.certified, "attacked": result.attacked}
        if math.isfinite(label_cost):
            sides: tuple[Side, ...] = ("certified", "attacked")
            for side in sides:
                known = stored_distances(record, arrays, side, result.r)
                if known is None and values[side] is not None:
                    raise InputError(f"the {side} side of this run has no distances, which a label cost needs")
                if known is not None:
                    (curve,) = accuracy_curves(known, (result.p,), [result.radius], label_cost=label_cost)
                    values[side] = float(curve.accuracy[0])
        low, high = values["certified"], values["attacked"]
        results.append(
            ClaimedBracket(
                threat=result.threat,
                p=result.p,
                r=result.r,
                radius=result.radius,
                certified=None if low is None else max(0.0, low - margin),
                attacked=None if high is None else min(1.0, high + margin),
            )
        )
    return Claim(
        population=population is not None,
        confidence=1.0 if confidence is None else confidence,
        margin=margin,
        label_cost=label_cost,
        assumptions=_assumptions(record, both, label_cost, population),
        results=results,
    )


def _reweighted(
    record: Record, arrays: Mapping[str, Tensor], result: Result, population: Population | None
) -> ClaimedBracket:
    """The bracket of a re-weighting threat; around the true law from flip costs, not by a shift of accuracies."""
    values: dict[Side, float | None] = {"certified": result.certified, "attacked": result.attacked}
    if population is not None and result.reweighting is not None:
        box = record.settings.get("bounds")
        ball = threat(result.reweighting.text, None if box is None else (float(box[0]), float(box[1])))
        assert isinstance(ball, DivergenceBall)
        norms = list(dict.fromkeys(norm_name(one.r) for one in record.results))
        points = arrays.get("z" + (f".{norm_name(result.r)}" if norms.index(norm_name(result.r)) else ""))
        for side in values:
            known = stored_distances(record, arrays, side, result.r)
            if known is not None and values[side] is not None:
                costs = ball.flip_costs(known, points, arrays["x"])
                values[side] = population_accuracy(costs, ball, population, side)
    return ClaimedBracket(
        threat=result.threat, p=result.p, r=result.r, radius=result.radius,
        certified=values["certified"], attacked=values["attacked"],
    )  # fmt: skip


def _assumptions(record: Record, both: bool, label_cost: float, population: Population | None) -> list[str]:
    sides: tuple[Side, ...] = ("certified", "attacked") if both else ("certified",)
    if record.results[0].certified is None:
        sides = ("attacked",)
    texts = [text for side in sides for text in curve_assumptions(side, record.n, label_cost, population)]
    if population is not None and len({result.r for result in record.results}) > 1:
        texts.append("the confidence is that of each ground norm by itself, not of all norms together")
    if population is not None and any(result.reweighting is not None for result in record.results):
        texts.append(
            "under re-weighting threats the margin moves the distribution of flip costs, and the bound follows it"
        )
    return list(dict.fromkeys(texts))
