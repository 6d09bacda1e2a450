"""What the shell completes: names of models, methods, objectives, threats and data, and files that fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from glob import escape, glob
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias

Complete: TypeAlias = Callable[[str], list[tuple[str, str]]]


def models(incomplete: str) -> list[tuple[str, str]]:
    """Embedded networks, read without loading torch, and .json and .onnx files."""
    content = json.loads((files("wassertight") / "models/weights/embedded.json").read_text(encoding="utf-8"))
    return _fitting(incomplete, ((one["name"], one["description"]) for one in content["networks"]), ".json", ".onnx")


def architectures(incomplete: str) -> list[tuple[str, str]]:
    """Architectures for training from scratch."""
    from wassertight.models import list_architectures

    return _fitting(incomplete, list_architectures().items())


def data(incomplete: str) -> list[tuple[str, str]]:
    """Embedded data sets, and .npz files."""
    from wassertight.data import list_data

    return _fitting(incomplete, list_data().items(), ".npz")


def attacks(incomplete: str) -> list[tuple[str, str]]:
    """Attacks of the catalogue."""
    from wassertight.evaluation import attack_methods

    return _fitting(incomplete, ((one.name, one.description) for one in attack_methods()))


def certificates(incomplete: str) -> list[tuple[str, str]]:
    """Certificates of the catalogue, and none."""
    from wassertight.evaluation import certificate_methods

    named = [(one.name, one.description) for one in certificate_methods()]
    return _fitting(incomplete, [*named, ("none", "attack only")])


def objectives(incomplete: str) -> list[tuple[str, str]]:
    """Training objectives, and wrappers behind a plus sign."""
    from wassertight.training import objective_entries

    entries = objective_entries()
    wrappers = [(entry.name, entry.description) for entry in entries if entry.base == "any"]
    first, plus, _ = incomplete.rpartition("+")
    if plus:
        return _fitting(incomplete, ((f"{first}+{name}", text) for name, text in wrappers))
    return _fitting(incomplete, ((entry.name, entry.description) for entry in entries if entry.base != "any"))


def presets(incomplete: str) -> list[tuple[str, str]]:
    """Presets of the minimum-norm searches."""
    known = {"quick": "about 100 passes a sample", "strong": "about 2,000", "auto": "strong where the bracket is open"}
    return _fitting(incomplete, known.items())


def threats(incomplete: str) -> list[tuple[str, str]]:
    """Examples of threats."""
    from wassertight.cli.listing import THREATS

    return _fitting(incomplete, THREATS)


def devices(incomplete: str) -> list[tuple[str, str]]:
    """Devices by name."""
    return _fitting(incomplete, {"auto": "a GPU where there is one", "cpu": "", "cuda": "", "mps": ""}.items())


def kinds(incomplete: str) -> list[tuple[str, str]]:
    """What `wassertight list` lists."""
    from wassertight.cli.listing import KINDS

    return _fitting(incomplete, ((kind, "") for kind in KINDS))


def _fitting(incomplete: str, known: Iterable[tuple[str, str]], *suffixes: str) -> list[tuple[str, str]]:
    found = [(name, text) for name, text in known if name.startswith(incomplete)]
    if suffixes and incomplete:
        paths = [Path(path) for path in sorted(glob(escape(incomplete) + "*"))]
        folder = "./" if incomplete.startswith("./") else ""
        found += [(f"{folder}{path}/", "") for path in paths if path.is_dir() and not path.name.startswith("_")]
        found += [(f"{folder}{path}", "") for path in paths if path.suffix in suffixes]
    return found
