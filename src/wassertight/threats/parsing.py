"""Threat strings: `Linf@8/255`, `W1-Linf@8/255`, `W2-L2@0.25,0.5`, `image-W1@0.1`, `image-W1-L1-free@0.1`."""

from __future__ import annotations

import difflib
import math
import re
from typing import TypeAlias

from wassertight.threats.image import ImageWasserstein
from wassertight.threats.pointwise import PointwiseBall
from wassertight.threats.wasserstein import WassersteinBall
from wassertight.types import Bounds, ThreatError

_PATTERN = re.compile(r"(?:W(?P<p>inf|\d+(?:\.\d+)?)-)?L(?P<r>inf|\d+(?:\.\d+)?)@(?P<radii>.+)", re.IGNORECASE)
_IMAGE = re.compile(
    r"(?:W(?P<order>inf|\d+(?:\.\d+)?)-)?image-W(?P<p>\d+(?:\.\d+)?)(?:-L(?P<r>inf|\d+(?:\.\d+)?))?"
    r"(?:-k(?P<window>\d+))?(?P<cap>-free|-cap\d+(?:\.\d+)?)?@(?P<radii>.+)",
    re.IGNORECASE,
)
_KNOWN = (
    "Linf@8/255",
    "L2@0.5",
    "L1@12",
    "W1-Linf@8/255",
    "W2-Linf@8/255",
    "W1-L2@0.5",
    "W2-L2@0.5",
    "W1-L1@12",
    "image-W1@0.1",
    "image-W1-L1@0.1",
)


Threat: TypeAlias = PointwiseBall | WassersteinBall | ImageWasserstein


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

    >>> [ball.name for ball in parse("W2-L2@1/4,0.5")]
    ['W2-L2@0.25', 'W2-L2@0.5']
    """
    image = _IMAGE.fullmatch(text.strip())
    if image is not None:
        return _images(image, text)
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        near = difflib.get_close_matches(text.strip(), _KNOWN, n=1, cutoff=0.0)[0]
        raise ThreatError(
            f"unknown threat {text!r}; did you mean {near!r}? The form is [W<p>-]L<r>@<radius>[,<radius>...], "
            "for example Linf@8/255 (pointwise), W1-Linf@8/255, W2-L2@0.5; for light moving between pixels "
            "[W<order>-]image-W<p>[-L<r>][-k<window>][-free]@<radius>, for example image-W1@0.1"
        )
    p = _order(match["p"]) if match["p"] else math.inf
    r = _order(match["r"])
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
