"""The threats of a run: from strings to objects, what tells two apart, and what stands in for all of a norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from wassertight.threats import DivergenceBall, PointwiseBall, ThreatModel, parse
from wassertight.types import Bounds, InputError


def identity(threat: ThreatModel) -> tuple[Any, ...]:
    """What makes two threats of a run the same."""
    same = (threat.p, threat.r, threat.radius)
    return (*same, threat.text) if isinstance(threat, DivergenceBall) else same


def resolve_threats(
    threat: str | ThreatModel | Sequence[str | ThreatModel], bounds: Bounds = (0.0, 1.0)
) -> tuple[ThreatModel, ...]:
    """Threats from strings, objects, or a list of both; duplicates once, order kept.

    >>> [ball.name for ball in resolve_threats(["W1-L2@0.1,0.2", "L2@0.1"])]
    ['W1-L2@0.1', 'W1-L2@0.2', 'L2@0.1']
    """
    entries: list[Any] = [threat] if isinstance(threat, str) or not isinstance(threat, Sequence) else list(threat)
    found: list[ThreatModel] = []
    for entry in entries:
        if isinstance(entry, str):
            found.extend(parse(entry, bounds))
        elif all(hasattr(entry, name) for name in ("radius", "p", "r", "bounds", "cost")):
            found.append(entry)
        else:
            raise InputError(f"a threat is a string such as 'W1-Linf@8/255' or a threat object, got {entry!r}")
    if not found:
        raise InputError("no threat given; an example: 'W1-Linf@8/255'")
    if any(one.bounds != found[0].bounds for one in found):
        raise InputError(f"all threats of a run need the same bounds, got {sorted({str(one.bounds) for one in found})}")
    return tuple({identity(one): one for one in found}.values())


def shared_threat(threats: Sequence[ThreatModel], r: float) -> ThreatModel:
    """A stand-in for all threats of a norm, for methods that look only at norm and box."""
    return PointwiseBall(radius=1.0, r=r, bounds=threats[0].bounds)


def norm_label(r: float) -> str:
    """Name of a ground norm: L1, L2, Linf.

    >>> norm_label(float("inf"))
    'Linf'
    """
    return "Linf" if math.isinf(r) else f"L{r:g}"
