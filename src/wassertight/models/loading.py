"""Finds and loads a model by the name a user gives: embedded, declared, or any function the user names."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from wassertight.errors import nearest
from wassertight.models.architecture import build
from wassertight.models.loaded import LoadedModel
from wassertight.types import ModelError

_WEIGHTS = Path(__file__).parent / "weights"


MODEL_FORMS: Mapping[str, str] = {
    "package.module:function": "your own code: an nn.Module, or a function that returns a model",
    "path/to/network.json": "one declared network with safetensors weights (manifest.json#name: one of several)",
    "onnx:path/to/network.onnx": "an ONNX file, as torch modules that certificates can read (package onnx)",
    "hf:organisation/name": "a Hugging Face image classifier, or its local folder; safetensors only (transformers)",
    "timm:name?pretrained": "a timm model, with its published weights or without (timm, torchvision)",
    "robustbench:name/cifar10/Linf": "RobustBench's model zoo; its downloads are pickles (robustbench)",
}
"""Forms of names other than those of embedded networks, with one line each."""

_FORMATS = {"onnx": "onnx", "hf": "hugging_face", "timm": "timm", "robustbench": "robustbench"}


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
            `onnx:file.onnx`, `hf:repository-or-folder`, `timm:name[?pretrained]`, `robustbench:name[/dataset[/threat]]`,
            each by the package it names. Any of those that name code or files of others may end in
            `@weights.safetensors`: the same model with weights that training saved.
        device: where to put it.

    Nothing is unpickled and no remote code is run; RobustBench's and some of timm's downloads are pickle files, of which
    torch reads tensors only.

    Raises:
        ModelError: unknown name (with the nearest one), unreadable or truncated file, wrong or missing tensors.
        PackageError: the package that the name asks for is absent or broken; says how to install it.
    """
    path, _, fragment = name.partition("#")
    if path.endswith(".json"):
        loaded = _from_manifest(Path(path), fragment, name)
    elif name in (known := list_models()):
        loaded = _from_manifest(_WEIGHTS / "embedded.json", name, name)
    elif ":" in name and not Path(name).exists():
        code, at, weights = name.rpartition("@") if name.endswith(".safetensors") else (name, "", "")
        loaded = replace(_from_elsewhere(code), name=name)
        if at:
            if not isinstance(loaded.model, nn.Module):
                raise ModelError(f"{code} is not an nn.Module; it cannot take the weights {weights}")
            _load_weights(loaded.model, Path(weights), None)
    elif name.endswith(".onnx"):
        loaded = replace(_from_elsewhere(f"onnx:{name}"), name=name)
    elif name.endswith((".pt", ".pth", ".pkl", ".bin", ".safetensors")):
        raise ModelError(
            f"{name}: weights alone do not say which network they belong to; write a network.json beside them "
            '({"architecture": [...], "file": "weights.safetensors"}) or name a function, package.module:function. '
            "Pickled files are never opened."
        )
    else:
        near = nearest(name, known)
        raise ModelError(
            f"unknown model {name!r}; did you mean {near!r}? Allowed: {', '.join(known)}; {'; '.join(MODEL_FORMS)}"
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
        near = nearest(name, entries, 3)
        raise ModelError(f"{path} has no network {name!r}; nearest: {near} ({len(entries)} in all)")
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


def _from_elsewhere(name: str) -> LoadedModel:
    """A model of another program, or user code; the first is imported only when its prefix is given."""
    prefix, _, rest = name.partition(":")
    if prefix not in _FORMATS:
        return _from_code(name)
    loaded: LoadedModel = importlib.import_module(f"wassertight.models.formats.{_FORMATS[prefix]}").load(rest)
    return loaded


def _from_code(name: str) -> LoadedModel:
    module_name, _, attribute = name.partition(":")
    if "@" in attribute:
        raise ModelError(f"{name}: weights behind @ must be a .safetensors file; pickled files are never opened")
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
