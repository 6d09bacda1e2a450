"""What a method page is about, and the examples on it: a command and a Python block that run as they stand."""

from __future__ import annotations

import importlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMULAS = tomllib.loads((Path(__file__).parent / "formulas.toml").read_text(encoding="utf-8"))
GROUPS = {"attack": "attacks", "certificate": "certificates", "study": "studies", "objective": "objectives"}


@dataclass(frozen=True, kw_only=True)
class Page:
    """All names of one implementation.

    Attributes:
        entries: catalogue entries; the first one names the page.
        target: class or function that implements them.
        module: where a user imports it from.
    """

    entries: tuple[Any, ...]
    target: Any
    module: str

    @property
    def kind(self) -> str:
        return str(self.entries[0].kind)

    @property
    def name(self) -> str:
        return str(self.entries[0].name)

    @property
    def title(self) -> str:
        """The heading: the name on the command line, or the paper's where one page serves several."""
        return self.formula.get("title", self.name)

    @property
    def path(self) -> str:
        """Below docs/methods."""
        return f"{GROUPS[self.kind]}/{self.name.replace('+', '-plus')}.md"

    @property
    def formula(self) -> dict[str, str]:
        """What formulas.toml says about it; a KeyError here means that a new method needs an entry there."""
        found: dict[str, str] = FORMULAS[self.kind][self.name]
        return found

    @property
    def home(self) -> str:
        """The shortest module that exports it, as a user writes it."""
        for module in ("wassertight.attacks", "wassertight.certificates", "wassertight.training"):
            if getattr(importlib.import_module(module), self.target.__name__, None) is self.target:
                return "wt" + module.removeprefix("wassertight")
        return self.module


def sample_threat(entry: Any) -> str:
    """A threat the method takes, for the examples."""
    if getattr(entry, "images", False):
        return (
            "W1-image-W1@0.005"
            if entry.name == "noisy-votes"
            else "image-W1@0.1"
            if entry.kind == "attack"
            else "image-W1@0.005"
        )
    norm = "L2" if entry.norms == (2.0,) else "Linf"
    radius = {"L2": "0.3", "Linf": "0.05"}[norm]
    orders = {"p = inf": "", "p > 1": "W2-", "p = 2": "W2-", "re-weighting": "KL+"}
    prefix = orders.get(entry.orders, "W1-")
    return f"{prefix}{norm}@{'0.1,' if prefix == 'KL+' else ''}{radius}"


def console(page: Page) -> str:
    """A command line that runs on the embedded network and digits."""
    first = page.entries[0]
    if "console" in page.formula:
        return f"$ {page.formula['console']}"
    if page.kind == "objective":
        name = f"trades+{first.name}" if getattr(first, "base", None) == "any" else first.name
        threat = f" -t {sample_threat(first)}" if first.needs_threat else ""
        return f"$ wassertight train -O {name}{' -t Linf@0.05' if first.base == 'any' else threat} --epochs 2"
    if page.kind == "certificate":
        settings = "".join(f" --set {setting}" for setting in page.formula.get("arguments", "").split(", ") if setting)
        draws = (
            f" --sigma {page.target.sigma:g} --n-draws 1000 --alpha 0.05"
            if hasattr(page.target, "sigma") and not settings
            else ""
        )
        return f"$ wassertight certify --method {first.name} -t {sample_threat(first)} -n 20{draws or settings}"
    noise = " --sigma 0.01" if first.smoothed else ""
    return f"$ wassertight attack --method {first.name} -t {sample_threat(first)} -n 50{noise}"


def python(page: Page) -> str:
    """The same from Python, a block that runs as it stands."""
    first = page.entries[0]
    lines = ["import wassertight as wt", ""]
    if page.kind == "objective":
        lines += ["from wassertight.training import make_objective", ""]
        lines += ['data = wt.load_data("digits", split="train", n=128)']
        lines += ['model = wt.models.new_model("digits-mlp-64", seed=0).model  # or any nn.Module']
        name = f"trades+{first.name}" if first.base == "any" else first.name
        threat = "Linf@0.05" if first.base == "any" else sample_threat(first)
        ball = f', wt.threat("{threat}")' if first.needs_threat else ""
        lines += [f'objective = make_objective("{name}"{ball})']
        lines += ["objective(model, data.x, data.y).backward()  # gradients for your own optimiser's step"]
        return "\n".join(lines)
    lines += ['model, data = wt.load_model("digits-cnn-robust").model, wt.load_data("digits", n=16)']
    if "python" in page.formula:
        return "\n".join(lines) + "\n" + page.formula["python"].strip()
    arguments = page.formula.get("arguments") or ", ".join(
        f"{key}={_literal(value)}" for key, value in first.preset.items()
    )
    if page.kind == "attack" and first.smoothed:
        lines.insert(1, "from wassertight.transport.flow_noise import GaussianFlow")
        arguments = "noise=GaussianFlow(sigma=0.01), steps=10, draws=8, confirm=1000"
    elif page.kind == "certificate" and hasattr(page.target, "n0") and not arguments:
        arguments = f"sigma={page.target.sigma:g}, n=1000, alpha=0.05"
    lines += [f'ball = wt.threat("{sample_threat(first)}")']
    result = "bound" if page.kind == "certificate" else "found"
    lines += [f"{page.kind} = {page.home}.{page.target.__name__}({arguments})"]
    lines += [f"{result} = {page.kind}(model, data.x, data.y, ball)"]
    if page.kind == "attack" and first.smoothed:
        lines += ["print(found.correct, found.wrong, found.abstained, found.flips.values)"]
    elif page.kind == "attack":
        lines += ["print(found.accuracy, found.spent, found.distances.values)"]
    elif first.name == "noisy-votes":
        lines += ["print(bound.accuracy, bound.mean)"]
    else:
        lines += ["print(bound.accuracy, bound.radii.values)"]
    return "\n".join(lines)


def _literal(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)
