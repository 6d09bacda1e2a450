"""Certificates against attacks on networks people trained; `WASSERTIGHT_SOUNDNESS=all` takes every shared network."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

from wassertight.attacks import MinimumNorm
from wassertight.certificates import IntervalPropagation, LinearPropagation
from wassertight.data import load_data
from wassertight.models import load_model
from wassertight.threats import PointwiseBall
from wassertight.types import UnsupportedLayerError

ALL = os.environ.get("WASSERTIGHT_SOUNDNESS") == "all"
FEW = ["mnist_mlpB_adv_0.1", "mnist_madry_tiny", "cifar_base_kw", "cifar_convsmall_sigmoid_adv"]
SLOW = ["cifar_resnet20_nat", "cifar_vit_pgd_2_3_16"]
"""More than a minute a sample."""


def _names(shared: Path) -> list[str]:
    if not ALL:
        return FEW
    entries = json.loads((shared / "manifest.json").read_text())["networks"]
    return [entry["name"] for entry in entries if entry["name"] not in SLOW]


@pytest.mark.parametrize("r", [math.inf, 2.0, 1.0])
def test_no_attack_beats_a_certificate(r: float, shared: Path) -> None:
    refused = []
    for name in _names(shared):
        model = load_model(f"{shared / 'manifest.json'}#{name}").model
        data = load_data(str(shared / ("mnist.npz" if name.startswith("mnist") else "cifar10_subset.npz")), n=3)
        ball = PointwiseBall(radius=0.01, r=r)
        attacked = MinimumNorm(passes=100)(model, data.x, data.y, ball).distances.values
        try:
            certified = LinearPropagation(tolerance=0.05)(model, data.x, data.y, ball, upper=attacked).radii.values
        except UnsupportedLayerError:
            refused.append(name)
            continue
        assert (certified <= attacked).all(), name
        assert float(certified.sum()) > 0, name
    assert all("binarize" in name for name in refused)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(("name", "least"), [("mnist_mlpB_adv_0.1", 0.45), ("cifar_wide_kw", 0.5)])
def test_tightness_on_real_networks(name: str, least: float, precision: str, shared: Path) -> None:
    model = load_model(f"{shared / 'manifest.json'}#{name}").model
    data = load_data(str(shared / ("mnist.npz" if name.startswith("mnist") else "cifar10_subset.npz")), n=6)
    ball = PointwiseBall(radius=0.01, r=math.inf)
    upper = MinimumNorm()(model, data.x, data.y, ball).distances.values
    crown = LinearPropagation(precision=precision)(model, data.x, data.y, ball, upper=upper).radii.values
    interval = IntervalPropagation(precision=precision)(model, data.x, data.y, ball, upper=upper).radii.values
    assert (crown <= upper).all()
    assert float(crown.mean()) >= least * float(upper.mean())
    assert float(crown.mean()) >= float(interval.mean())


def test_a_small_vision_transformer_is_certified() -> None:
    """Attention, layer norm and GELU in one network, attacked and certified."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu")
    model = torch.nn.Sequential(
        torch.nn.Unflatten(1, (4, 4)), torch.nn.Linear(4, 8), layer, torch.nn.Flatten(), torch.nn.Linear(32, 3)
    ).eval()
    x = torch.rand(4, 16)
    y = model(x).argmax(1)
    for r in (math.inf, 1.0):
        ball = PointwiseBall(radius=0.01, r=r)
        attacked = MinimumNorm(passes=100)(model, x, y, ball).distances.values
        certified = LinearPropagation(tolerance=0.05)(model, x, y, ball, upper=attacked).radii.values
        assert (certified <= attacked).all()
        assert (certified >= 0.1 * attacked.clamp_max(1.0)).all()
