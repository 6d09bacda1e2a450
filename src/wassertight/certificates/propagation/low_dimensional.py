"""Certificates for inputs of few coordinates: forward linear bounds, and branch and bound over the input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from wassertight.certificates.base import CertificateMethod, Proved, Task
from wassertight.certificates.propagation.forward import Forward
from wassertight.certificates.propagation.growing import Effort
from wassertight.certificates.propagation.methods import LinearPropagation, bracketed, check_settings, searched
from wassertight.certificates.propagation.propagation import Propagation
from wassertight.certificates.propagation.radii import Reading
from wassertight.certificates.propagation.splitting import InputSearch
from wassertight.types import InputError

_SHALLOW = 2
"""Most hidden layers for which forward bounds of cells pay: they loosen faster with depth than backward ones."""
_WIDE = 4
"""Least number of units a coordinate of the input for which they do."""


@dataclass(frozen=True, kw_only=True)
class ForwardPropagation(CertificateMethod):
    """Certified radii by linear forms of the input pushed forward through the network (2002.12920, section 3.1).

    Problem: that of LinearPropagation, where inner bounds by CROWN are too slow. A pass costs as much as 1 + d
    evaluations of the network, d coordinates of the input, whatever the number of units: it pays for d in the tens and
    layers of hundreds of units, and is slower than CROWN on images. Radii are a little smaller than CROWN's.

    Args:
        margins: "backward": the logits' margins are pulled back through the enclosures the forms gave (tighter, and
            no slower); "forward": they are read off the forms.
        tolerance, steps, precision: as for LinearPropagation.

    Raises:
        UnsupportedLayerError: names the first operation that cannot be bounded, and its place.
    """

    name: ClassVar[str] = "forward"

    margins: str = "backward"
    tolerance: float = 1e-3
    steps: int = 14
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_settings(self.tolerance, self.steps, self.precision)
        if self.margins not in ("backward", "forward"):
            raise InputError(f"margins must be 'backward' or 'forward', got {self.margins!r}")

    def prove(self, task: Task) -> Proved:
        """Radii by forward bounds."""
        return bracketed(self, task, "forward" if self.margins == "forward" else "forward-backward")


@dataclass(frozen=True, kw_only=True)
class InputSplit(CertificateMethod):
    """Certified radii by CROWN, then by dividing the region around every sample along coordinates of the input.

    Problem: the largest radius provable where CROWN's own is too small and the input has few coordinates (up to ten
    or so; beyond, gains are small). Needs no hinges, so it is what there is for smooth activations. Every sample whose
    bracket between certificate and attack is open is searched for `seconds`; the radius proved last is returned, so
    more time never gives less. It is infinite where the whole box is proved.

    Args:
        seconds: wall time a sample.
        tolerance: relative width of the bracket at which a sample is done.
        leaves: most cells of a sample.
        batch: cells divided at once.
        precision: as for LinearPropagation.

    Raises:
        UnsupportedLayerError: names the first operation that cannot be bounded, and its place.
    """

    name: ClassVar[str] = "input-split"

    seconds: float = 10.0
    tolerance: float = 1e-3
    leaves: int = 20_000
    batch: int = 64
    precision: str = "auto"

    def __post_init__(self) -> None:
        check_settings(self.tolerance, self.leaves, self.precision)
        if not self.seconds > 0:
            raise InputError(f"seconds must be positive, got {self.seconds}")
        if self.batch < 1:
            raise InputError(f"batch must be at least 1, got {self.batch}")

    def prove(self, task: Task) -> Proved:
        """CROWN's radii first, then the search of every open sample."""
        if len(task.x) == 0:
            return LinearPropagation().prove(task)
        reading = Reading.of(task, self.precision)
        first = bracketed(LinearPropagation(precision=self.precision), task, "crown", reading)
        effort = Effort(seconds=self.seconds, tolerance=self.tolerance, leaves=self.leaves, batch=self.batch)
        search = InputSearch(_inner(reading, task.threat.r), task.threat.bounds, effort, reading.dtype)
        return searched(first, task, search, self.tolerance)


def _inner(reading: Reading, r: float) -> Propagation:
    """Bounds of cells: forward where the network is shallow and wide, else CROWN."""
    graph = reading.graph
    hidden = [math.prod(graph.nodes[index].shape) for index in set(graph.bent) - graph.settled]
    few = len(hidden) <= _SHALLOW and max(hidden, default=0) >= _WIDE * (1 + math.prod(graph.source))
    return (Forward if few else Propagation)(graph, r, rounding=reading.rounding)
