"""Finds and loads a model by the name a user gives: embedded, declared, or any function the user names."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from wassertight.models.architecture import build
from wassertight.types import Model, ModelError

_WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model with what is known about it.

    Attributes:
        name: as the user gave it.
        model: callable from (n, *features) to logits, in eval mode if it is a module.
        input_shape: shape of one sample, or None if unknown.
        dataset: data set it was trained on, or None.
        description: one line.
        declaration: architecture, input shape and normalisation as a network.json holds them; None for user code.
    """

    name: str
    model: Model
    input_shape: tuple[int, ...] | None = None
    dataset: str | None = None
    description: str = ""
    declaration: Mapping[str, Any] | None = None


def list_models() -> dict[str, str]:
    """Embedded networks and their one-line descriptions.

    >>> "digits-cnn-robust" in list_models()
    True
    """
    return {entry["name"]: str(entry["description"]) for entry in _entries(_WEIGHTS / "embedded.json")}


def load_model(name: str, *, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a model by name.

    Args:
        name: an embedded name (`list_models()`); `package.module:attribute`, an nn.Module or a function without
            arguments that returns the model (imported only because you name it; the current folder is on the path);
            `path/to/manifest.json#name`; or `path/to/network.json`, one declared network
            (`{"architecture": [...], "file": "weights.safetensors", "normalisation": {"mean": [...], "std": [...]}}`);
            `package.module:attribute@weights.safetensors`, the same code with weights that training saved.
        device: where to put it.

    Raises:
        ModelError: unknown name (with the nearest one), unreadable or truncated file, wrong or missing tensors.
    """
    path, _, fragment = name.partition("#")
    if path.endswith(".json"):
        loaded = _from_manifest(Path(path), fragment, name)
    elif name in (known := list_models()):
        loaded = _from_manifest(_WEIGHTS / "embedded.json", name, name)
    elif ":" in name and not Path(name).exists():
        code, at, weights = name.partition("@")
        loaded = replace(_from_code(code), name=name)
        if at:
            if not isinstance(loaded.model, nn.Module):
                raise ModelError(f"{code} is not an nn.Module; it cannot take the weights {weights}")
            _load_weights(loaded.model, Path(weights), None)
    elif name.endswith((".pt", ".pth", ".pkl", ".bin", ".safetensors")):
        raise ModelError(
            f"{name}: weights alone do not say which network they belong to; write a network.json beside them "
            '({"architecture": [...], "file": "weights.safetensors"}) or name a function, package.module:function. '
            "Pickled files are never opened."
        )
    else:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ModelError(
            f"unknown model {name!r}; did you mean {near!r}? Allowed: {', '.join(known)}; package.module:function; "
            "path/to/manifest.json#name; path/to/network.json"
        )
    if isinstance(loaded.model, nn.Module):
        loaded.model.to(device).eval()
    return loaded


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"no such file: {path}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} is not readable JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("networks"), list):
        return list(content["networks"])
    if isinstance(content, dict) and "architecture" in content:
        return [{"name": path.stem, **content}]
    raise ModelError(f"{path} holds neither a list 'networks' nor one 'architecture'")


def _from_manifest(path: Path, name: str, label: str) -> LoadedModel:
    entries = {str(entry.get("name")): entry for entry in _entries(path)}
    if not name and len(entries) == 1:
        name = next(iter(entries))
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=3, cutoff=0.0)
        raise ModelError(f"{path} has no network {name!r}; nearest: {', '.join(near)} ({len(entries)} in all)")
    entry = entries[name]
    normalisation: Mapping[str, Any] = entry.get("normalisation") or {}
    shape = tuple(int(size) for size in entry["input_shape"]) if entry.get("input_shape") else None
    model = build(
        entry["architecture"], input_shape=shape, mean=normalisation.get("mean"), std=normalisation.get("std")
    )
    file = path.parent / str(entry.get("file") or entry.get("weights") or "")
    _load_weights(model[-1], file, entry.get("sha256"))
    kept = ("architecture", "input_shape", "normalisation", "dataset")
    return LoadedModel(
        name=label,
        model=model,
        input_shape=shape,
        dataset=entry.get("dataset"),
        description=str(entry.get("description") or entry.get("training") or ""),
        declaration={key: entry[key] for key in kept if entry.get(key) is not None},
    )


def _load_weights(body: nn.Module, file: Path, sha256: str | None) -> None:
    if not file.is_file():
        raise ModelError(f"no weights at {file}; the manifest's 'file' is relative to the manifest")
    if sha256 is not None and hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise ModelError(f"{file} does not have the declared sha256; the file is truncated or another one")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} is not a readable safetensors file (truncated?): {error}") from error
    expected = {key: value for key, value in body.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    wrong = [
        f"{key} {tuple(tensors[key].shape)} (expected {tuple(value.shape)})"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if missing or extra or wrong:
        raise ModelError(f"{file} does not fit the architecture: missing {missing}, unexpected {extra}, shapes {wrong}")
    body.load_state_dict(tensors, strict=False)


def _from_code(name: str) -> LoadedModel:
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise ModelError(f"{name}: cannot import {error.name!r} (searched the current folder and the path)") from error
    except AttributeError as error:
        raise ModelError(f"{name}: {error}") from error
    finally:
        sys.path.pop(0)
    model = target if isinstance(target, nn.Module) else target()
    if not callable(model):
        raise ModelError(f"{name} must be a module or a function that returns a model, got {type(model).__name__}")
    return LoadedModel(name=name, model=model, description=f"user code {name}")
