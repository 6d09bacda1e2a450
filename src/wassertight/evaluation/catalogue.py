"""Every method by its command-line name: what it is, where it comes from, which threats it takes, how it is built."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from wassertight.errors import InputError, ThreatError

_ALL = (1.0, 2.0, math.inf)
_ANY_ORDER = "any p >= 1"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One entry of the catalogue.

    Attributes:
        name: as given on the command line.
        kind: "attack" or "certificate".
        target: `module:Class` that implements it, imported only when it is built.
        preset: settings that the name stands for.
        description: one line.
        reference: arXiv id of the paper it implements or starts from.
        norms: orders r of the ground norm it takes.
        orders: which Wasserstein orders p it takes: "any p >= 1", "p = inf" or "p > 1".
    """

    name: str
    kind: Literal["attack", "certificate"]
    target: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    description: str
    reference: str
    norms: tuple[float, ...] = _ALL
    orders: str = _ANY_ORDER

    def build(self, options: Mapping[str, Any] | None = None) -> Any:
        """The method with its preset and the caller's settings.

        Raises:
            InputError: for a setting the method does not have, naming those it has.
        """
        module, _, attribute = self.target.partition(":")
        built = getattr(importlib.import_module(module), attribute)
        allowed = [item.name for item in fields(built)]
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
        if threat.r not in self.norms:
            names = ", ".join("Linf" if math.isinf(r) else f"L{r:g}" for r in self.norms)
            raise ThreatError(f"{self.kind} {self.name!r} takes the ground norms {names}; got {threat.name}")
        if self.orders == "p = inf" and not math.isinf(threat.p):
            raise ThreatError(
                f"{self.kind} {self.name!r} is for pointwise threats such as Linf@8/255; got {threat.name}. "
                f"For a Wasserstein threat use 'w-{self.name}' or 'wda++'"
            )
        if self.orders == "p > 1" and threat.p == 1:
            raise ThreatError(
                f"{self.kind} {self.name!r} needs p > 1: at p = 1 its step puts the whole budget on one sample; "
                f"got {threat.name}. Use 'wda++' there"
            )


_ATTACKS = (
    Method(
        name="wda++",
        kind="attack",
        target="wassertight.attacks:WDAPlusPlus",
        description="nearest flips by our minimum-norm search, bought by the exact knapsack (default)",
        reference="2510.10000",
    ),
    Method(
        name="wda++-reference",
        kind="attack",
        target="wassertight.attacks:WDAPlusPlus",
        preset={"mode": "reference"},
        description="WDA++ as released, step by step; the yardstick for wda++",
        reference="2510.10000",
    ),
    Method(
        name="min-norm",
        kind="attack",
        target="wassertight.attacks:MinimumNorm",
        description="nearest misclassified points along the decision boundary",
        reference="2102.12827, 1907.02044",
    ),
    Method(
        name="fgsm",
        kind="attack",
        target="wassertight.attacks:FGSM",
        description="one signed step of the whole radius",
        reference="1412.6572",
        orders="p = inf",
    ),
    Method(
        name="pgd",
        kind="attack",
        target="wassertight.attacks:PGD",
        description="projected gradient ascent on the loss",
        reference="1706.06083",
        orders="p = inf",
    ),
    Method(
        name="w-fgsm",
        kind="attack",
        target="wassertight.attacks:FGSM",
        description="one first-order optimal step of the whole batch under a shared budget",
        reference="2306.09844",
        orders="p > 1",
    ),
    Method(
        name="w-pgd",
        kind="attack",
        target="wassertight.attacks:PGD",
        description="projected ascent of the whole batch, then pull-back and exact allocation",
        reference="2306.09844",
        orders="p > 1",
    ),
    Method(
        name="w-pgd-reference",
        kind="attack",
        target="wassertight.attacks:PGD",
        preset={"mode": "reference"},
        description="W-PGD as published: scaling projection, best common iterate",
        reference="2306.09844",
        orders="p > 1",
    ),
)
_CERTIFICATES = (
    Method(
        name="crown",
        kind="certificate",
        target="wassertight.certificates:LinearPropagation",
        description="backward linear bounds over ball and box, bisected for every sample's radius (default)",
        reference="1811.00866",
    ),
    Method(
        name="interval",
        kind="certificate",
        target="wassertight.certificates:IntervalPropagation",
        description="interval bounds: cheap, tight only for networks trained for them",
        reference="1810.12715",
    ),
)


def attack_methods() -> tuple[Method, ...]:
    """All attacks, the default first.

    >>> attack_methods()[0].name
    'wda++'
    """
    return _ATTACKS


def certificate_methods() -> tuple[Method, ...]:
    """All certificates, the default first.

    >>> [method.name for method in certificate_methods()]
    ['crown', 'interval']
    """
    return _CERTIFICATES


def find_method(kind: Literal["attack", "certificate"], name: str) -> Method:
    """The catalogue entry of a name.

    Raises:
        InputError: for an unknown name, with the nearest one.

    >>> find_method("attack", "w-pgd").reference
    '2306.09844'
    """
    known = {method.name: method for method in (_ATTACKS if kind == "attack" else _CERTIFICATES)}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise InputError(f"unknown {kind} {name!r}; did you mean {near!r}? Allowed: {', '.join(known)}")
    return known[name]
