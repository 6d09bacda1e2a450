"""Every objective by its command-line name: what it is, where it comes from, and how it is built."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from wassertight.errors import InputError, nearest

_ALL = (1.0, 2.0, float("inf"))
_INNER = "base."
_ABOVE_ONE, _POINTWISE, _FINITE = "p > 1", "p = inf", "p < inf"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One objective.

    Attributes:
        name: as given on the command line.
        target: `file:Class` in `training/objectives/`, imported only when built.
        preset: settings the name stands for.
        base: name of the objective it wraps, or None.
        description, reference: one line; arXiv id of the paper.
        norms, orders: threats it takes.
        needs_threat: False for objectives without a ball.
    """

    name: str
    target: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None
    description: str
    reference: str
    norms: tuple[float, ...] = _ALL
    orders: str = _ABOVE_ONE
    needs_threat: bool = True
    kind: Literal["objective"] = "objective"


def _plain(name: str, target: str, reference: str, description: str, **rest: Any) -> Entry:
    return Entry(name=name, target=target, reference=reference, description=description, **rest)


_PLAIN = (
    _plain("standard", "standard:Standard", "-", "cross-entropy of the samples as they are", needs_threat=False,
           orders="any p >= 1"),
    _plain("pgd", "pgd:PGDTraining", "1706.06083", "adversarial training: cross-entropy at PGD points; W-PGD under W_p"),
    _plain("fgsm-rs", "pgd:fgsm_rs", "2001.03994", "one step of 1.25 radius from a random start; cheap, may collapse"),
    _plain("trades", "trades:TRADES", "1901.08573", "clean cross-entropy plus divergence between answers at x and z"),
    _plain("mart", "mart:MART", "ICLR 2020 (Wang et al.)", "boosted cross-entropy at z, divergence where x is unsure"),
    _plain("wrm", "wrm:WRM", "1710.10571", "Lagrangian training, squared Euclidean transport", norms=(2.0,),
           orders="p = 2"),
    _plain("w-dro", "wdro:WDRO", "2502.09352", "TRADES whose adversary couples samples: W-PGD with a budget per batch"),
    _plain("knapsack", "knapsack:Knapsack", "ours", "gradient of the exact worst-case W_p accuracy's dual",
           orders=_FINITE),
    _plain("noise", "noise:NoiseTraining", "1910.10783", "cross-entropy under the noise of Wasserstein smoothing",
           needs_threat=False, orders="any p >= 1"),
)  # fmt: skip
_SOFT = tuple(
    _plain(f"udr-{base}", "udr:UDR", "2202.13437", f"{base} whose ball has a soft edge and a price", base=base,
           orders=_POINTWISE)
    for base in ("pgd", "trades", "mart")
)  # fmt: skip
_ARMOR = "armor:ARMOR"
_DIVERGENCES = {"kl": "KL", "alpha": "alpha6", "renyi": "renyi1.25"}
_WEIGHTED = tuple(
    _plain(f"armor-{key}-{entry.name}", _ARMOR, "2309.03791",
           f"{entry.name} against adversaries who also re-weight ({divergence})", base=entry.name,
           preset={"divergence": divergence}, norms=entry.norms,
           orders=entry.orders if entry.name == "wrm" else _POINTWISE)
    for key, divergence in _DIVERGENCES.items()
    for entry in (*(e for e in _PLAIN if e.name in ("pgd", "trades", "mart", "wrm")), *_SOFT)
)  # fmt: skip
_BOTH = tuple(
    _plain(f"knapsack-{base}", "knapsack:Knapsack", "ours", f"{base} in the pointwise ball plus the knapsack dual", base=base,
           orders=_FINITE)
    for base in ("pgd", "trades", "mart")
)  # fmt: skip
_WRAPPERS = (
    _plain("awp", "weight_perturbation:AdversarialWeights", "2004.05884", "written <objective>+awp: adversarial weights",
           base="any", orders="any p >= 1"),
    _plain("weight-noise", "weight_perturbation:RandomWeights", "2404.00357", "written <objective>+weight-noise",
           base="any", orders="any p >= 1"),
    _plain("shuffled", _ARMOR, "-", "written armor-...+shuffled: the control, weights shuffled in the batch",
           base="any", orders="any p >= 1"),
)  # fmt: skip


def objective_entries() -> tuple[Entry, ...]:
    """All objectives and wrappers.

    >>> [entry.name for entry in objective_entries()][:4]
    ['standard', 'pgd', 'fgsm-rs', 'trades']
    """
    return (*_PLAIN, *_BOTH, *_SOFT, *_WEIGHTED, *_WRAPPERS)


def find_objective(name: str) -> Entry:
    """The entry of a name; of its first part where wrappers follow, as in "trades+awp".

    Raises:
        InputError: for an unknown name, with the nearest one.

    >>> find_objective("trades+awp").reference
    '1901.08573'
    """
    known = {entry.name: entry for entry in (*_PLAIN, *_BOTH, *_SOFT, *_WEIGHTED)}
    first = name.partition("+")[0]
    if first not in known:
        near = nearest(first, known)
        raise InputError(
            f"unknown objective {first!r}; did you mean {near!r}? Allowed: {', '.join(known)}; each with +awp, "
            "+weight-noise or (armor) +shuffled behind it"
        )
    return known[first]


def make_objective(name: str, threat: Any = None, settings: Mapping[str, Any] | None = None) -> Any:
    """The objective of a name, for example "trades", "armor-kl-udr-trades" or "trades+awp".

    Args:
        name: see `objective_entries`.
        threat: the ball, a threat object; not needed by "standard" and "noise".
        settings: of the objective, of what it wraps and of its wrappers, by field name; the outermost that has it takes it,
            "base.beta" goes one further in.

    Raises:
        InputError: unknown names and settings, or a missing threat.
    """
    entry, wrappers = find_objective(name), name.split("+")[1:]
    left = dict(settings or {})
    if entry.needs_threat and threat is None:
        raise InputError(f"objective {name!r} needs a threat, for example Linf@8/255 or W2-Linf@8/255")
    if "shuffled" in wrappers:
        if not entry.name.startswith("armor"):
            raise InputError(f"+shuffled shuffles the weights of armor-... objectives; {entry.name!r} has none")
        left["weights"] = "shuffled"
    outside = [_class(_wrapper(wrapper)) for wrapper in wrappers if wrapper != "shuffled"]
    taken = [_take(made, left) for made in reversed(outside)][::-1]
    built = _build(entry, threat, left)
    if left:
        names = ", ".join(_names(entry))
        raise InputError(f"objective {name!r} has no setting {', '.join(map(repr, left))}; it has: {names}")
    for made, own in zip(outside, taken, strict=True):
        built = made(base=built, **own)
    return built


def _wrapper(name: str) -> Entry:
    known = {entry.name: entry for entry in _WRAPPERS}
    if name not in known:
        raise InputError(f"unknown wrapper +{name}; allowed: {', '.join('+' + key for key in known)}")
    return known[name]


def _build(entry: Entry, threat: Any, left: dict[str, Any]) -> Any:
    made = _class(entry)
    own = {**entry.preset, **_take(made, left)}
    with_threat = "threat" in _fields(made)
    if entry.base is not None:
        left |= {key.removeprefix(_INNER): left.pop(key) for key in list(left) if key.startswith(_INNER)}
        if entry.base == "mart" and entry.target == _ARMOR:
            left.setdefault("inner", "full")
        inside = getattr(threat, "pointwise", threat) if with_threat else threat
        own["base"] = _build(find_objective(entry.base), inside, left)
    if with_threat:
        own["threat"] = threat
    return made(**own)


def _take(made: Any, left: dict[str, Any]) -> dict[str, Any]:
    names = _fields(made) - {"base", "threat"}
    return {key: _plain_value(left.pop(key)) for key in list(left) if key in names}


def _fields(made: Any) -> set[str]:
    return {item.name for item in fields(made)} if isinstance(made, type) else {"threat", "step_factor"}


def _names(entry: Entry) -> list[str]:
    own = sorted(_fields(_class(entry)) - {"base", "threat"})
    if entry.base is None:
        return own
    return [*own, *(_INNER + name if name in own else name for name in _names(find_objective(entry.base)))]


def _class(entry: Entry) -> Any:
    module, _, attribute = entry.target.partition(":")
    return getattr(importlib.import_module(f"wassertight.training.objectives.{module}"), attribute)


def _plain_value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
