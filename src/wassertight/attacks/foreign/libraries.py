"""How Foolbox, torchattacks and AutoAttack are called: an attack by its name, a batch in, moved images out.

All of them see inputs in [0, 1] and an `Answering` module; what they return is not trusted here (see `attack.py`).
"""

from __future__ import annotations

import contextlib
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wassertight.errors import nearest
from wassertight.geometry import norm_name
from wassertight.packages import optional_package
from wassertight.queries import ModelQueries
from wassertight.types import InputError

_ORDERS = (math.inf, 2.0, 1.0)
_OTHER_NORMS = {"PGDL2": 2.0, "PGDRSL2": 2.0, "CW": 2.0, "DeepFool": 2.0, "EADL1": 1.0, "EADEN": 1.0, "SparseFool": 1.0}
"""torchattacks' attacks for one norm that is not l_inf; those without `eps` that are not here are for no norm."""
_VERSIONS = ("standard", "plus", "rand", "custom")


@dataclass(frozen=True, kw_only=True)
class Called:
    """One attack of another library, found and its settings checked.

    Attributes:
        fixed: whether it searches a ball whose radius it has to be given.
        norms: orders r of the norm it is made for; empty where it minimises none.
        run: called as run(model, x, y, radius, r, seed), everything in [0, 1]; the images it moved.
    """

    fixed: bool
    norms: tuple[float, ...]
    run: Callable[[Answering, Tensor, Tensor, float, float, int], Tensor] = field(repr=False)


class Answering(nn.Module):
    """The counted model as other libraries want it: a module on inputs in [0, 1] whose parameter says the device.

    Its passes are those of the queries; a backward pass counts every time a gradient comes through the logits.
    """

    def __init__(self, queries: ModelQueries, bounds: tuple[float, float], like: Tensor) -> None:
        super().__init__()
        self.queries, self.bounds, self.classes = queries, bounds, queries.logits(like[:1]).shape[1]
        self.place = nn.Parameter(torch.empty(0, device=like.device), requires_grad=False)
        self.eval()

    def forward(self, z: Tensor) -> Tensor:
        """Logits (n, k)."""
        low, high = self.bounds
        logits = self.queries.answer(z if self.bounds == (0.0, 1.0) else low + (high - low) * z)
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call]
        return logits

    def _count(self, g: Tensor) -> None:
        self.queries.backward_passes += len(g) * self.queries.cost


def call_foolbox(name: str, settings: Mapping[str, Any]) -> Called:
    """An attack class of `foolbox.attacks`."""
    foolbox, attacks = (optional_package(part, f"attack 'foolbox:{name}'") for part in ("foolbox", "foolbox.attacks"))
    kind = _named("foolbox", attacks, name, attacks.base.AttackWithDistance)
    allowed = _check("foolbox", name, kind, settings)
    flexible = "distance" in allowed and "distance" not in settings
    fixed = issubclass(kind, attacks.base.FixedEpsilonAttack)

    def build(r: float) -> Any:
        extra = {"distance": foolbox.distances.LpDistance(r)} if flexible else {}
        return kind(**{**extra, **settings})

    def run(model: Answering, x: Tensor, y: Tensor, radius: float, r: float, seed: int) -> Tensor:
        seen = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        clipped: Tensor = build(r)(seen, x, y, epsilons=radius if fixed else None)[1]
        return clipped

    with _taught("foolbox", name, settings):
        own = getattr(build(math.inf).distance, "p", None)
    return Called(fixed=fixed, norms=() if flexible or own is None else (float(own),), run=run)


def call_torchattacks(name: str, settings: Mapping[str, Any]) -> Called:
    """An attack class of `torchattacks`; its step `alpha` keeps its default share of `eps` unless it is set."""
    library = optional_package("torchattacks", f"attack 'torchattacks:{name}'")
    kind = _named("torchattacks", library, name, library.attack.Attack)
    allowed = _check("torchattacks", name, kind, settings, given={"model", "eps"})
    fixed = "eps" in allowed
    share = allowed["alpha"].default / allowed["eps"].default if {"alpha", "eps"} <= allowed.keys() else None

    def run(model: Answering, x: Tensor, y: Tensor, radius: float, r: float, seed: int) -> Tensor:
        extra: dict[str, Any] = {"norm": norm_name(r), "seed": seed, "n_classes": model.classes, "eps": radius}
        if share is not None:
            extra["alpha"] = share * radius
        known = {key: value for key, value in extra.items() if key in allowed}
        moved: Tensor = kind(model, **{**known, **settings})(x, y)
        return moved

    norms: tuple[float, ...] = (_OTHER_NORMS.get(name, math.inf),) if fixed or name in _OTHER_NORMS else ()
    if "norm" in allowed:
        norms = tuple(r for r in _ORDERS if norm_name(r) == settings.get("norm", norm_name(r)))
    return Called(fixed=fixed, norms=norms, run=run)


def call_autoattack(name: str, settings: Mapping[str, Any]) -> Called:
    """The authors' AutoAttack in one of its versions; targets are as many as there are wrong classes, at most 9."""
    kind = optional_package("autoattack", f"attack 'autoattack:{name}'").AutoAttack
    if name not in _VERSIONS:
        raise InputError(f"autoattack has the versions {', '.join(_VERSIONS)}; got {name!r}")
    _check("autoattack", name, kind, settings, given={"model", "norm", "eps", "seed", "version", "device", "verbose"})

    def run(model: Answering, x: Tensor, y: Tensor, radius: float, r: float, seed: int) -> Tensor:
        attack = kind(
            model, norm=norm_name(r), eps=radius, seed=seed, version=name, device=x.device, verbose=False, **settings
        )
        for part in ("apgd_targeted", "fab"):
            if hasattr(attack, part):
                getattr(attack, part).n_target_classes = min(9, model.classes - 1)
        moved: Tensor = attack.run_standard_evaluation(x, y, bs=len(x))
        return moved

    return Called(fixed=True, norms=_ORDERS, run=run)


LIBRARIES: dict[str, Callable[[str, Mapping[str, Any]], Called]] = {
    "foolbox": call_foolbox, "torchattacks": call_torchattacks, "autoattack": call_autoattack
}  # fmt: skip


def called(attack: str, settings: Mapping[str, Any]) -> Called:
    """The attack of a name such as "foolbox:LinfPGD".

    Raises:
        InputError: a library, an attack or a setting that does not exist; says which there are.
        PackageError: the library is not installed.
    """
    library, _, name = attack.partition(":")
    if library not in LIBRARIES or not name:
        forms = ", ".join(f"{known}:<attack>" for known in LIBRARIES)
        raise InputError(f"attacks of other libraries are named {forms}; got {attack!r}")
    return LIBRARIES[library](name, settings)


@contextlib.contextmanager
def quietly(seed: int) -> Iterator[None]:
    """Their draws from our seed and numpy's generator left as it was, what they print on standard error, no warnings."""
    import numpy as np

    state = np.random.get_state()
    torch.manual_seed(seed)
    np.random.seed(seed)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(state)


def wrong_norm(attack: str, norms: tuple[float, ...], threat: str) -> str:
    """What to say where an attack is made for another norm."""
    names = " or ".join(norm_name(r) for r in norms)
    return f"{attack} is made for {names}; got the threat {threat}. Take the library's attack for that norm"


def _named(library: str, module: Any, name: str, base: type) -> Any:
    known = {
        key: value for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value) and value is not base
    }  # fmt: skip
    if name not in known:
        near = nearest(name, known)
        raise InputError(f"{library} has no attack {name!r}; did you mean {near!r}? It has: {', '.join(sorted(known))}")
    return known[name]


def _check(
    library: str, name: str, kind: Any, settings: Mapping[str, Any], given: frozenset[str] | set[str] = frozenset()
) -> dict[str, inspect.Parameter]:
    """The parameters of an attack; refuses settings it does not have or that we give."""
    allowed = {key: one for key, one in inspect.signature(kind).parameters.items() if one.kind is not one.VAR_KEYWORD}
    for key in settings:
        if key not in allowed or key in given:
            names = ", ".join(one for one in allowed if one not in given) or "none"
            raise InputError(f"attack '{library}:{name}' has no setting {key!r}; it has: {names}")
    return allowed


@contextlib.contextmanager
def _taught(library: str, name: str, settings: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise InputError(f"attack '{library}:{name}' does not take the settings {dict(settings)}: {error}") from error
