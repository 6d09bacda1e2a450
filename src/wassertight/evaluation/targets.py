"""The threats of a run: from strings to objects, what tells two apart, and what stands in for all of a norm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from wassertight.certificates.smoothing import Smoother
from wassertight.evaluation.catalogue import certificate_methods
from wassertight.threats import DivergenceBall, ImageWasserstein, PointwiseBall, ThreatModel, parse
from wassertight.types import Bounds, InputError

_SMOOTHING = {method.name for method in certificate_methods() if method.images}


def identity(threat: ThreatModel) -> tuple[Any, ...]:
    """What makes two threats of a run the same."""
    same = (threat.ground, threat.order, threat.radius)
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
    images = {one.ground for one in found if isinstance(one, ImageWasserstein)}
    if (images and {one.ground for one in found} != images) or len(images) > 1:
        raise InputError(
            f"a run of image threats takes one distance between images, got {', '.join(sorted({one.ground for one in found}))}"
        )
    return tuple({identity(one): one for one in found}.values())


def defaults_for_images(threats: Sequence[ThreatModel], attack: Any, certificate: Any) -> tuple[Any, Any]:
    """The defaults for moving light in place of those for balls of a norm; without an attack they are left to fail."""
    if isinstance(attack, str) and attack == "wda++":
        if isinstance(certificate, Smoother) or certificate in _SMOOTHING:
            attack = "smoothed-frank-wolfe-distance"
        else:
            attack = "frank-wolfe" if all(math.isinf(one.order) for one in threats) else "frank-wolfe-distance"
    if attack is not None and isinstance(certificate, str) and certificate == "crown":
        certificate = None
    return attack, certificate


def shared_threat(threats: Sequence[ThreatModel], r: float) -> ThreatModel:
    """A stand-in for all threats of a norm, for methods that look only at norm and box (or at how light moves)."""
    if isinstance(threats[0], ImageWasserstein):
        return dataclasses.replace(threats[0], radius=1.0, order=math.inf)
    return PointwiseBall(radius=1.0, r=r, bounds=threats[0].bounds)
