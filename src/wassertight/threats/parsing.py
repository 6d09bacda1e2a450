"""Threat strings: `Linf@8/255`, `W1-Linf@8/255`, `W2-L2@0.25,0.5`, `KL+Linf@0.1,8/255`, `image-W1-L1-free@0.1`."""

from __future__ import annotations

import itertools
import math
import re
from typing import TypeAlias

from wassertight.errors import nearest
from wassertight.threats.divergence import DivergenceBall
from wassertight.threats.image import ImageWasserstein
from wassertight.threats.pointwise import PointwiseBall
from wassertight.threats.wasserstein import WassersteinBall
from wassertight.transport import HardBall, MoveCost, PowerCost, SoftBall, divergence_named
from wassertight.types import Bounds, InputError, ThreatError

Threat: TypeAlias = PointwiseBall | WassersteinBall | DivergenceBall | ImageWasserstein

_PATTERN = re.compile(
    r"(?:(?P<divergence>[A-Za-z]+-?[\d.]*(?:e-?\d+)?)\+)?(?:W(?P<p>inf|\d+(?:\.\d+)?)-|(?P<soft>soft)-)?"
    r"L(?P<r>inf|\d+(?:\.\d+)?)@(?P<radii>.+)",
    re.IGNORECASE,
)
_IMAGE = re.compile(
    r"(?:W(?P<order>inf|\d+(?:\.\d+)?)-)?image-W(?P<p>\d+(?:\.\d+)?)(?:-L(?P<r>inf|\d+(?:\.\d+)?))?"
    r"(?:-k(?P<window>\d+))?(?P<cap>-free|-cap\d+(?:\.\d+)?)?@(?P<radii>.+)",
    re.IGNORECASE,
)
_KNOWN = ("Linf@8/255", "L2@0.5", "L1@12", "W1-Linf@8/255", "W2-Linf@8/255", "W1-L2@0.5", "W2-L2@0.5", "W1-L1@12",
          "KL+Linf@0.1,8/255", "KL+W1-Linf@0.1,8/255", "alpha2+L2@0.1,0.5", "renyi1.5+Linf@0.1,8/255",
          "image-W1@0.1", "image-W1-L1@0.1")  # fmt: skip
_FORM = (
    "The form is [W<p>-]L<r>@<radius>[,<radius>...], for example Linf@8/255 (pointwise), W1-Linf@8/255, W2-L2@0.5; or, "
    "with re-weighting, <divergence>+[W<p>-]L<r>@<budget>[:<budget>...],<radius>[:<radius>...], for example "
    "KL+Linf@0.1,8/255; or, for light moving between pixels, [W<order>-]image-W<p>[-L<r>][-k<window>][-free]@<radius>, "
    "for example image-W1@0.1"
)


def threat(text: str, bounds: Bounds = (0.0, 1.0)) -> Threat:
    """The threat a string names; `Winf-Linf@8/255` and `Linf@8/255` are the same pointwise ball.

    Raises:
        ThreatError: for an unknown string (with the nearest valid one) or several radii.

    >>> threat("W1-Linf@8/255").name
    'W1-Linf@0.0314'
    """
    found = parse(text, bounds)
    if len(found) > 1:
        raise ThreatError(f"{text!r} names {len(found)} radii; parse it with wassertight.threats.parse")
    return found[0]


def parse(text: str, bounds: Bounds = (0.0, 1.0)) -> list[Threat]:
    """All threats a string names: one a radius, radii separated by commas, each a number or a fraction.

    With re-weighting, `<divergence>+L<r>@<budget>,<reach>`: moves of up to the reach are free, the budget is the
    divergence's. `<divergence>+W<p>-L<r>@<budget>,<radius>`: one budget for both, enough for the divergence ball of that
    budget or for the W_p ball of that radius. `<divergence>+soft-Linf@<budget>,<reach>,<tau>`: a soft ball. Each number may
    be a list separated by colons; all combinations are named. Divergences: KL, revKL, chi2, alpha<order>, renyi<order>.

    >>> [ball.name for ball in parse("W2-L2@1/4,0.5")]
    ['W2-L2@0.25', 'W2-L2@0.5']
    >>> [ball.name for ball in parse("KL+Linf@0.01:0.1,1/4")]
    ['KL+Linf@0.01,0.25', 'KL+Linf@0.1,0.25']
    """
    image = _IMAGE.fullmatch(text.strip())
    if image is not None:
        return _images(image, text)
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        near = nearest(text.strip(), _KNOWN)
        raise ThreatError(f"unknown threat {text!r}; did you mean {near!r}? {_FORM}")
    p = _order(match["p"]) if match["p"] else math.inf
    r = _order(match["r"])
    if match["divergence"]:
        return _reweighted(match, p, r, text, bounds)
    if match["soft"]:
        raise ThreatError(f"a soft ball goes with a divergence, for example KL+soft-Linf@0.1,8/255,0.01; got {text!r}")
    radii = [_number(part, text) for part in match["radii"].split(",")]
    if math.isinf(p):
        return [PointwiseBall(radius=radius, r=r, bounds=bounds) for radius in radii]
    return [WassersteinBall(radius=radius, p=p, r=r, bounds=bounds) for radius in radii]


def _images(match: re.Match[str], text: str) -> list[Threat]:
    cap = match["cap"] or "-cap1"
    shape = ImageWasserstein(
        radius=0.0,
        p=float(match["p"]),
        r=_order(match["r"] or "2"),
        window=int(match["window"] or 5),
        cap=None if cap.lower() == "-free" else float(cap[4:]),
        order=_order(match["order"] or "inf"),
    )
    return [shape.with_radius(_number(part, text)) for part in match["radii"].split(",")]


def _reweighted(match: re.Match[str], p: float, r: float, text: str, bounds: Bounds) -> list[Threat]:
    try:
        divergence = divergence_named(match["divergence"])
    except InputError as error:
        raise ThreatError(f"{error}; in {text!r}") from None
    lists = [[_number(part, text) for part in group.split(":")] for group in match["radii"].split(",")]
    if len(lists) != (3 if match["soft"] else 2):
        raise ThreatError(
            f"{text!r} needs {'budget,reach,tau' if match['soft'] else 'budget,radius'} after the @ (several of one kind "
            f"separated by colons), got {len(lists)} numbers. {_FORM}"
        )
    found: list[Threat] = []
    for budget, *rest in itertools.product(*lists):
        move: MoveCost
        if match["soft"]:
            if not math.isinf(r):
                raise ThreatError(f"soft balls are for Linf, got {text!r}")
            move = SoftBall(reach=rest[0], tau=rest[1])
        elif math.isinf(p):
            move = HardBall(reach=rest[0], r=r)
        elif not (budget > 0 and rest[0] > 0):
            raise ThreatError(f"{text!r} needs a budget and a W_p radius > 0; without re-weighting use W{p:g}-...")
        else:
            move = PowerCost(price=budget / rest[0] ** p, p=p, r=r)
        found.append(DivergenceBall(radius=budget, divergence=divergence, transport=move, bounds=bounds))
    return found


def _order(text: str) -> float:
    return math.inf if text.lower() == "inf" else float(text)


def _number(text: str, whole: str) -> float:
    try:
        numerator, _, denominator = text.strip().partition("/")
        return float(numerator) / (float(denominator) if denominator else 1.0)
    except (ValueError, ZeroDivisionError):
        raise ThreatError(
            f"radius {text.strip()!r} in {whole!r} is not a number; allowed: 0.03, 3e-2 or a fraction such as 8/255"
        ) from None
