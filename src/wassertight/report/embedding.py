"""What the live page carries of a run: per-sample distances, weights, labels, threats asked for, and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from wassertight.records import Record
from wassertight.report.plots import ground_name
from wassertight.report.sprites import encode_features, encode_pictures


def stored_arrays(record: Record, directory: str | Path) -> dict[str, Any] | None:
    """The per-sample arrays in a run directory, without the laws; None where it keeps none."""
    path = Path(directory) / (record.arrays or "")
    if record.arrays is None or not path.is_file():
        return None
    with safe_open(path, framework="numpy") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys() if not name.startswith(("law.", "flow"))}  # noqa: SIM118


def embed(record: Record, arrays: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Everything the page computes from; None where there are no distances, or they are of other samples."""
    if not record.results or arrays is None or not {"y", "weight"} <= arrays.keys() or len(arrays["y"]) != record.n:
        return None
    weights = np.asarray(arrays["weight"], dtype=np.float64)
    norms, moved = [], {}
    grounds = list(dict.fromkeys(result.r for result in record.results))
    for index, r in enumerate(grounds):
        name = ground_name(record, r)
        suffix = f".{name}" if index else ""
        sides = {side: _distances(arrays.get(f"{side}_distance{suffix}"), side) for side in ("attacked", "certified")}
        if all(values is None for values in sides.values()):
            continue
        norms.append(_norm(record, r, name, sides))
        if f"z{suffix}" in arrays:
            moved[name] = arrays[f"z{suffix}"]
    if not norms:
        return None
    labels = np.asarray(arrays["y"]).astype(np.int64)
    x = arrays.get("x")
    pictures = None if x is None else encode_pictures(x, moved, _hardest(norms))
    features = None if x is None or pictures is not None else encode_features(x, moved)
    return {
        "n": record.n,
        "clean": record.results[0].clean,
        "weights": None if np.all(weights == weights[0]) else (weights / weights.sum()).tolist(),
        "labels": labels.tolist(),
        "unit": _unit(record),
        "allowance": float((record.settings.get("smoothing") or {}).get("allowance") or 0.0),
        "threats": [
            {
                "threat": result.threat, "norm": ground_name(record, result.r), "p": _order(result.p),
                "radius": result.radius, "attacked": result.attacked, "certified": result.certified,
            }
            for result in record.results
            if result.reweighting is None
        ],
        "norms": norms,
        "pictures": pictures,
        "features": features,
    }  # fmt: skip


def as_json(data: Any) -> str:
    """JSON that may stand inside a script element: no character of it can close the element or open a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _norm(record: Record, r: float, name: str, sides: Mapping[str, Any]) -> dict[str, Any]:
    radii = [result.radius for result in record.results if result.r == r and result.reweighting is None]
    ends = [curve.radii[-1] for curve in record.curves if curve.r == r and curve.family is None]
    finite = np.concatenate([values[np.isfinite(values)] for values in sides.values() if values is not None])
    whole = 1.05 * float(finite.max()) if len(finite) and finite.max() > 0 else 1.0
    summary = record.distances_by_norm.get(name if not name.startswith("image") else "", record.distances)
    return {
        "name": name,
        "top": max(ends) if ends and max(ends) > 0 else whole,
        "whole": max([whole, *ends]),
        "fine": bool(radii) and all(abs(255 * radius - round(255 * radius)) < 1e-6 for radius in radii),
        "closed": summary.closed,
        **{side: None if values is None else _finite(values) for side, values in sides.items()},
    }


def _distances(values: Any, side: str) -> Any:
    if values is None:
        return None
    return np.nan_to_num(
        np.asarray(values, dtype=np.float64), nan=math.inf if side == "attacked" else 0.0, posinf=math.inf
    )


def _finite(values: Any) -> list[float | None]:
    """JSON has no infinity: null."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _hardest(norms: list[dict[str, Any]]) -> list[int]:
    """Samples by their smallest distance over all norms, those that are wrong where they are last."""
    best = None
    for norm in norms:
        known = norm["attacked"] or norm["certified"]
        values = np.array([math.inf if value is None or value == 0 else value for value in known])
        best = values if best is None else np.minimum(best, values)
    return [] if best is None else np.argsort(best, kind="stable").tolist()


def _order(p: float) -> float | str:
    return "inf" if math.isinf(p) else p


def _unit(record: Record) -> str:
    if any("image-" in result.threat for result in record.results):
        return "shares of an image's light x grid steps"
    box = record.settings.get("bounds")
    return f"inputs in [{box[0]:g}, {box[1]:g}]" if isinstance(box, list) and len(box) == 2 else "input units"
