"""The command `doctor`: what is installed, what this machine has, how fast it is, and what has to be mended."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from wassertight import __version__
from wassertight.cli import completing
from wassertight.cli import options as opt
from wassertight.cli.declaring import from_options
from wassertight.errors import WassertightError

_NEEDED = (
    "torch", "numpy", "scipy", "accelerate", "jaxtyping", "matplotlib", "pydantic", "rich", "safetensors", "typer"
)  # fmt: skip
_OPTIONAL = {
    "scikit-learn": "WassersteinRobustClassifier (1.6 or newer)",
    "tensorboard": "curves of 'train' beside log.csv",
    "onnx": "models named onnx:...",
    "transformers": "models named hf:...",
    "timm": "models named timm:...",
    "robustbench": "models named robustbench:...",
    "datasets": "data named hf:...",
    "foolbox": "attacks named foolbox:...",
    "torchattacks": "attacks named torchattacks:...",
}
_BATCH = 256

OwnModel: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Also measure this network; as for 'wassertight evaluate'.",
        autocompletion=completing.models,
    ),
]  # fmt: skip
ShapeData: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--data", "-d", help="Inputs for --model, where it does not say what shape it takes.",
        autocompletion=completing.data,
    ),
]  # fmt: skip
Runs: TypeAlias = Annotated[Path, typer.Option("--run-dir", "-o", help="Where runs are to be kept.")]


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Options of `doctor`."""

    model: OwnModel = None
    data: ShapeData = None
    run_dir: Runs = Path("runs")
    device: opt.Device = "auto"
    as_json: opt.Json = False
    quiet: opt.Quiet = False


@from_options
def doctor(order: Doctor) -> int:
    """Say what is installed, what this machine has and how fast it is; exit code 2 where something has to be mended.

    Speeds are images a second through the embedded digits network, and through --model: forward, and forward and backward
    as attacks do. 'wassertight evaluate --dry-run' says what they mean for a run.
    """
    found: dict[str, Any] = {
        "schema": 1, "command": "doctor",
        "wassertight": __version__, "python": platform.python_version(), "platform": platform.platform(),
        "packages": {name: _version(name) for name in _NEEDED},
        "optional": {
            name: {"version": _version(name), "for": use, "get": f"pip install {name}"} for name, use in _OPTIONAL.items()
        },
    }  # fmt: skip
    problems = [f"{name} is missing: pip install {name}" for name, version in found["packages"].items() if not version]
    found["memory"] = {"total": _pages("SC_PHYS_PAGES"), "available": _pages("SC_AVPHYS_PAGES")}
    found["run_dir"], hindrance = _writable(order.run_dir)
    problems += hindrance
    if not problems or "torch" not in problems[0]:
        try:
            found["devices"], found["threads"] = _devices()
            found["speed"] = {"digits-cnn-robust": _speed("digits-cnn-robust", "digits", order.device)}
            if order.model is not None:
                found["speed"][order.model] = _speed(order.model, order.data, order.device)
        except WassertightError as error:
            problems.append(str(error))
        except ImportError as error:
            problems.append(f"torch cannot be imported: {error}")
    found["problems"] = problems
    if order.as_json:
        print(json.dumps(found))
    elif not order.quiet:
        _show(found)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 2 if problems else 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pages(name: str) -> int | None:
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _writable(directory: Path) -> tuple[dict[str, Any], list[str]]:
    """Whether a file can be made there, or in what exists above it; and the space left."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    facts: dict[str, Any] = {
        "path": str(directory),
        "exists": directory.exists(),
        "free": shutil.disk_usage(place).free,
    }
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return {**facts, "writable": False}, [f"{directory} is not writable ({error}); give another --run-dir"]
    return {**facts, "writable": True}, []


def _devices() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    import torch

    devices: list[dict[str, Any]] = [{"device": "cpu", "name": platform.processor() or platform.machine()}]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(index)
        devices.append({"device": f"cuda:{index}", "name": facts.name, "memory": facts.total_memory})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU"})
    threads = {
        "torch": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }
    return devices, threads


def _speed(name: str, data: str | None, device: str) -> dict[str, Any]:
    import torch

    from wassertight.data import load_data
    from wassertight.errors import InputError
    from wassertight.evaluation.forecast import measure_speed
    from wassertight.evaluation.plan import resolve_device
    from wassertight.models import load_model

    loaded = load_model(name)
    if data is not None:
        x = load_data(data, n=_BATCH).x
    elif loaded.input_shape is not None:
        x = torch.rand(_BATCH, *loaded.input_shape, generator=torch.Generator().manual_seed(0))
    else:
        raise InputError(f"{name} does not say what inputs it takes; give --data, an .npz file with some")
    place = resolve_device(device, loaded.model)
    if isinstance(loaded.model, torch.nn.Module):
        loaded.model.to(place)
    speed = measure_speed(loaded.model, x.to(place))
    return {
        "device": str(place), "batch": speed.batch, "input": list(x.shape[1:]),
        "forward": round(speed.forward, 1), "forward_backward": round(speed.backward, 1),
    }  # fmt: skip


def _show(found: dict[str, Any]) -> None:
    from wassertight.cli.showing import print_rows

    print(f"wassertight {found['wassertight']}, Python {found['python']}, {found['platform']}")
    print(", ".join(f"{name} {version or 'MISSING'}" for name, version in found["packages"].items()))
    rows = [
        (name, one["version"] or "-", one["for"], "" if one["version"] else one["get"])
        for name, one in found["optional"].items()
    ]
    print_rows("\nOptional", ("package", "version", "for", "to get it"), rows)
    memory, place = found["memory"], found["run_dir"]
    print(f"\nmemory   {_size(memory['available'])} free of {_size(memory['total'])}")
    print(
        f"run dir  {place['path']}: {'writable' if place['writable'] else 'NOT WRITABLE'}, {_size(place['free'])} free"
    )
    if "devices" in found:
        threads = found["threads"]
        print(
            f"threads  {threads['torch']} of {threads['cores']} cores (OMP_NUM_THREADS: {threads['OMP_NUM_THREADS'] or 'not set'})"
        )
        for one in found["devices"]:
            print(f"device   {one['device']}: {one['name']}" + (f", {_size(one['memory'])}" if "memory" in one else ""))
    speeds = [
        (
            name,
            one["device"],
            "x".join(map(str, one["input"])),
            f"{one['forward']:,.0f}",
            f"{one['forward_backward']:,.0f}",
        )
        for name, one in found.get("speed", {}).items()
    ]
    columns = ("model", "device", "input", "forward", "forward and backward")
    print_rows(f"\nImages a second, in batches of {_BATCH}", columns, speeds)


def _size(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"
