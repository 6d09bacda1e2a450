"""The plan of a run: checked inputs, threats and methods, the configuration, and the units of work it falls into."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wassertight import __version__
from wassertight.data import as_tensors
from wassertight.evaluation.attack_options import with_noise, with_preset
from wassertight.evaluation.catalogue import find_method
from wassertight.evaluation.targets import defaults_for_images, identity, resolve_threats, shared_threat
from wassertight.inputs import check_inputs
from wassertight.queries import Averaged
from wassertight.threats import DivergenceBall, ImageWasserstein, ThreatModel, moves_alone
from wassertight.types import Bounds, InputError, Model

_CERTIFICATE_UNIT = 32  # certificates are slow: small units lose little when a run is killed


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One piece of work that is stored when done: a method, a threat, a range of samples."""

    kind: Literal["attack", "certificate"]
    threat: ThreatModel
    shared: bool
    """Whether the result holds for every radius and order of the threat's norm."""
    start: int
    stop: int
    seed: int

    @property
    def stage(self) -> str:
        """Name of the stage the unit belongs to; unique for a run directory."""
        ground, order = self.threat.ground, self.threat.order
        if isinstance(self.threat, DivergenceBall):
            return f"{self.kind}-{_slug(self.threat.text)}"
        return f"{self.kind}-{ground}" if self.shared else f"{self.kind}-W{order:g}-{ground}@{self.threat.radius!r}"

    @property
    def key(self) -> str:
        return f"{self.stage}-{self.start:07d}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Everything a run needs, checked; made by `make_plan`, carried out by `execute`."""

    command: str
    model: Model = field(repr=False)
    model_name: str
    data_name: str
    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    threats: tuple[ThreatModel, ...]
    attack: Any
    certificate: Any
    attack_name: str | None
    certificate_name: str | None
    batch_size: int
    seed: int
    device: torch.device
    skip_unsupported: bool
    refine: bool
    configuration: dict[str, Any] = field(repr=False)

    @property
    def norms(self) -> tuple[float, ...]:
        """Ground norms in the order in which the threats name them."""
        return tuple(dict.fromkeys(threat.r for threat in self.threats))

    def units(self, kind: Literal["attack", "certificate"]) -> Iterator[Unit]:
        """The units of one kind, in the order in which they are done."""
        method = self.attack if kind == "attack" else self.certificate
        if method is None:
            return
        separable = bool(getattr(method, "separable", kind == "certificate"))
        rule = getattr(method, "uses_radius", True)
        alone: dict[Any, ThreatModel] = {}
        shared: dict[float, ThreatModel] = {}
        for threat in self.threats:
            one = self.target(kind, threat)
            if kind == "certificate" or (separable and not (rule(one) if callable(rule) else rule)):
                shared[threat.r] = (
                    shared.get(threat.r, one) if callable(rule) else shared_threat(self.threats, threat.r)
                )
            else:
                alone[identity(one)] = one
        size = self.batch_size if separable else len(self.x)
        size = min(size, _CERTIFICATE_UNIT) if kind == "certificate" else size
        for threat, for_all in (*((one, False) for one in alone.values()), *((one, True) for one in shared.values())):
            for start in range(0, len(self.x), size):
                unit = Unit(
                    kind=kind,
                    threat=threat,
                    shared=for_all,
                    start=start,
                    stop=min(start + size, len(self.x)),
                    seed=0,
                )
                yield dataclasses.replace(unit, seed=derived_seed(self.seed, unit.key))

    def target(self, kind: str, threat: ThreatModel) -> ThreatModel:
        """What a method that looks at the radius is given: the threat, or its moves alone if it knows no weights."""
        return threat if kind == "attack" and getattr(self.attack, "reweights", False) else moves_alone(threat)

    def default_directory(self, parent: str | Path = "runs") -> Path:
        """`runs/<model>-<data>-<hash>`: the same command finds the same directory again."""
        named = [identity(threat) for threat in self.threats]
        text = json.dumps([self.command, self.configuration, str(named)], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return Path(parent) / f"{_slug(self.model_name)}-{_slug(self.data_name)}-{digest}"


def make_plan(
    model: Model,
    data: Any,
    threat: str | ThreatModel | Sequence[str | ThreatModel],
    *,
    n_examples: int | None = None,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    seed: int = 0,
    attack: Any = "wda++",
    certificate: Any = "crown",
    bounds: Bounds = (0.0, 1.0),
    attack_options: Mapping[str, Any] | None = None,
    certificate_options: Mapping[str, Any] | None = None,
    skip_unsupported: bool = False,
    preset: str | None = None,
    draws: int | None = None,
    command: str | None = None,
    model_name: str | None = None,
    data_name: str | None = None,
) -> Plan:
    """Check everything that can be checked before any work; arguments as for `benchmark`."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if attack is None and certificate is None:
        raise InputError("nothing to do: give an attack, a certificate, or both")
    threats = resolve_threats(threat, bounds)
    if isinstance(threats[0], ImageWasserstein):
        attack, certificate = defaults_for_images(threats, attack, certificate)
    attack_options = with_preset(attack, attack_options, preset)
    certificate, certificate_name = _method("certificate", certificate, certificate_options, threats)
    attack_options = with_noise(attack, attack_options, certificate)
    attack, attack_name = _method("attack", attack, attack_options, threats)
    model_name = model_name or str(getattr(model, "__name__", type(model).__name__))
    model = model if draws is None else Averaged(model, draws)
    place = resolve_device(device, model)
    x, y = as_tensors(data, n_examples)
    x, y = check_inputs(x, y, threats[0].bounds)
    default_command = "evaluate" if attack is not None and certificate is not None else None
    data_name = data_name or str(getattr(data, "name", type(data).__name__))
    configuration = {
        "version": __version__,
        "model": model_name,
        "model_sha256": fingerprint_model(model),
        "data": data_name,
        "data_sha256": _digest([("x", x), ("y", y)]),
        "n": len(x),
        "seed": seed,
        "batch_size": batch_size,
        "device": place.type,
        "bounds": None if threats[0].bounds is None else [_finite(end) for end in threats[0].bounds],
        "preset": preset,
        "draws": draws,
        "attack": _settings(attack_name, attack),
        "certificate": _settings(certificate_name, certificate),
    }
    return Plan(
        command=command or default_command or ("attack" if certificate is None else "certify"),
        model=model,
        model_name=model_name,
        data_name=data_name,
        x=x.to(place),
        y=y.to(place),
        threats=threats,
        attack=attack,
        certificate=certificate,
        attack_name=attack_name,
        certificate_name=certificate_name,
        batch_size=batch_size,
        seed=seed,
        device=place,
        skip_unsupported=skip_unsupported,
        refine=preset == "auto",
        configuration=configuration,
    )


def resolve_device(device: str | torch.device, model: Model) -> torch.device:
    """The device of a run: "auto" is CUDA for modules where there is one, else where the model lies, else the CPU."""
    if str(device) == "auto":
        parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        if parameter is not None and parameter.device.type == "cpu" and torch.cuda.is_available():
            return torch.device("cuda")
        return parameter.device if parameter is not None else torch.device("cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {str(device)!r} cannot be used here ({str(error).splitlines()[0]}); try 'cpu'"
        ) from error
    return place


def fingerprint_model(model: Model) -> str | None:
    """Digest of a module's structure and weights; None for other callables, whose inside cannot be seen."""
    if not isinstance(model, nn.Module):
        return None
    return _digest([("", torch.zeros(0)), *model.state_dict().items()], repr(model))


def _digest(tensors: Sequence[tuple[str, Any]], text: str = "") -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors:
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _method(
    kind: Literal["attack", "certificate"],
    method: Any,
    options: Mapping[str, Any] | None,
    threats: Sequence[ThreatModel],
) -> tuple[Any, str | None]:
    if method is None:
        return None, None
    if not isinstance(method, str):
        if options:
            raise InputError(f"settings go with a name; set them on the {kind} object itself, got {dict(options)}")
        return method, str(method.name)
    entry = find_method(kind, method)
    for threat in threats:
        entry.check(threat)
    return entry.build(options), entry.name


def _settings(name: str | None, method: Any) -> dict[str, Any] | None:
    if method is None:
        return None
    values = dataclasses.asdict(method) if dataclasses.is_dataclass(method) and not isinstance(method, type) else {}
    return {"name": name, **json.loads(json.dumps(values, default=str))}


def _finite(end: float) -> float | str:
    return end if math.isfinite(end) else str(end)


def derived_seed(seed: int, key: str) -> int:
    """The seed of one piece of work."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:4], "big") % (2**31)


def _slug(text: str) -> str:
    if text.startswith("robustbench:"):
        text = text.replace("/", "-")
    elif "?" not in text:
        text = text.partition("#")[2] or text
    path, _, options = text.partition("?")
    stem = Path(path).name
    for ending in (".npz", ".json", ".onnx"):
        stem = stem.removesuffix(ending)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{stem}_{options}").strip("._-") or "unnamed"
