"""One entry of the catalogue: how a method is built from a name, and which threats it takes; loads no torch."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from wassertight.errors import InputError, ThreatError

_ALL = (1.0, 2.0, math.inf)
_ANY_ORDER = "any p >= 1"
REWEIGHTED = "re-weighting"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One entry of the catalogue.

    Attributes:
        name: as given on the command line.
        kind: "attack", "certificate", or "study" (a command of its own: `wassertight loss`, `wassertight supports`).
        target: `module:Class` that implements it, imported only when it is built.
        preset: settings that the name stands for.
        description: one line.
        reference: arXiv id of the paper it implements or starts from.
        norms: orders r of the ground norm it takes.
        orders: which Wasserstein orders p it takes: "any p >= 1", "p = inf", "p > 1", or
            "re-weighting": threats such as KL+Linf@0.1,8/255 only (all others take those too).
        images: whether it is for light moving inside images (image-W1@0.1) instead of balls of a norm.
        smoothed: whether it attacks smoothed classifiers, whose noise it has to be given.
        foreign: whether it is an attack of another library, which checks the settings it is handed.
    """

    name: str
    kind: Literal["attack", "certificate", "study"]
    target: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    description: str
    reference: str
    norms: tuple[float, ...] = _ALL
    orders: str = _ANY_ORDER
    images: bool = False
    smoothed: bool = False
    foreign: bool = False

    def build(self, options: Mapping[str, Any] | None = None) -> Any:
        """The method with its preset and the caller's settings.

        Raises:
            InputError: for a setting the method does not have, naming those it has.
        """
        module, _, attribute = self.target.partition(":")
        built = getattr(importlib.import_module(module), attribute)
        allowed = [item.name for item in fields(built)]
        if self.foreign:
            rest = dict(options or {})
            own = {key: rest.pop(key) for key in ("rounds", "halvings") if key in rest}
            return built(**self.preset, **own, settings=rest)
        for key in options or {}:
            if key not in allowed:
                raise InputError(
                    f"{self.kind} {self.name!r} has no setting {key!r}; it has: {', '.join(allowed) or 'none'}"
                )
        try:
            return built(**{**self.preset, **(options or {})})
        except TypeError as error:
            raise InputError(
                f"{self.kind} {self.name!r} does not take the settings {dict(options or {})}: {error}"
            ) from error

    def check(self, threat: Any) -> None:
        """Refuse a threat the method does not take before any work is done.

        Raises:
            ThreatError: naming a method that takes it.
        """
        if self.images != threat.ground.startswith("image"):
            fitting = (
                "image-space threats such as image-W1@0.01" if self.images else "balls of a norm such as W1-Linf@8/255"
            )
            raise ThreatError(f"{self.kind} {self.name!r} is for {fitting}; got {threat.name}")
        if self.images:
            return
        if threat.r not in self.norms:
            names = ", ".join("Linf" if math.isinf(r) else f"L{r:g}" for r in self.norms)
            raise ThreatError(f"{self.kind} {self.name!r} takes the ground norms {names}; got {threat.name}")
        reweighted = hasattr(threat, "divergence")
        if self.orders == REWEIGHTED and not reweighted:
            raise ThreatError(
                f"{self.kind} {self.name!r} is for re-weighting threats such as KL+Linf@0.1,8/255; got {threat.name}. "
                "For others use 'wda++'"
            )
        if self.orders == "p = inf" and not math.isinf(threat.p):
            raise ThreatError(
                f"{self.kind} {self.name!r} is for pointwise threats such as Linf@8/255; got {threat.name}. "
                "For a Wasserstein threat use 'wda++', or 'w-pgd' where p > 1"
            )
        if self.orders == "p > 1" and threat.p == 1:
            raise ThreatError(
                f"{self.kind} {self.name!r} needs p > 1: at p = 1 its step puts the whole budget on one sample; "
                f"got {threat.name}. Use 'wda++' there"
            )
