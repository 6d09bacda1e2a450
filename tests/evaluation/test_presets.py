"""Presets, randomised models, models without gradients: what a run does with them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wassertight as wt
from wassertight.evaluation import attack_methods, find_method
from wassertight.evaluation.refine import open_samples
from wassertight.queries import Averaged, ModelQueries
from wassertight.threats import PointwiseBall, WassersteinBall
from wassertight.types import InputError, ModelError


@pytest.mark.parametrize("name", [method.name for method in attack_methods() if not method.smoothed])
def test_every_attack_of_the_catalogue_runs_and_is_audited(name: str) -> None:
    """On a real network, with small budgets; attacked is never above clean, and the record is in order."""
    method = find_method("attack", name)
    small: dict[str, dict[str, object]] = {
        "autoattack": {"steps": 5, "targets": 2, "queries": 20}, "square": {"queries": 40}, "fab": {"steps": 4},
        "fab-t": {"steps": 4, "targets": 2}, "apgd-t": {"steps": 8, "targets": 2}, "pdpgd": {"steps": 60},
        "a3": {"rounds": 1}, "a3-wda": {"rounds": 1}, "a3-wda-reference": {"rounds": 1}, "deepfool": {"steps": 5},
        "apgd-bisect": {"rounds": 4},
    }  # fmt: skip
    norm = "L2" if name == "ddn" else "Linf"
    by_orders = {"p = inf": f"{norm}@0.2", "re-weighting": f"KL+{norm}@0.1,0.1"}
    threat = by_orders.get(method.orders, f"W2-{norm}@0.1")
    if method.images:
        threat, small[name] = "image-W1@0.1", {"rounds": 2} if name == "frank-wolfe-distance" else {"steps": 3}
    report = wt.benchmark(
        wt.load_model("digits-cnn").model, wt.load_data("digits", n=12), threat, attack=name,
        attack_options=small.get(name), certificate=None, progress=False,
    )  # fmt: skip
    assert report.ok
    assert report.attacked <= report.clean
    assert report.record.passes.forward > 0


def test_auto_refines_where_the_bracket_is_open(tmp_path: Path) -> None:
    model, data = wt.load_model("digits-cnn-robust").model, wt.load_data("digits", n=12)
    threats = ["W1-Linf@0.02", "Linf@0.1"]
    kinds = {
        preset: wt.benchmark(model, data, threats, preset=preset, progress=False, run_dir=tmp_path / preset)
        for preset in ("quick", "auto")
    }
    for quick, auto in zip(kinds["quick"].results, kinds["auto"].results, strict=True):
        assert quick.attacked is not None
        assert auto.attacked is not None
        assert auto.attacked <= quick.attacked + 1e-12
        assert auto.certified == quick.certified
    assert list((tmp_path / "auto" / "units").glob("refine-*"))
    again = wt.benchmark(model, data, threats, preset="auto", progress=False, run_dir=tmp_path / "auto")
    assert again.record.results == kinds["auto"].record.results


def test_which_samples_are_open() -> None:
    found = torch.tensor([0.0, 0.1, 0.2, 0.3, math.inf], dtype=torch.float64)
    proved = torch.tensor([0.0, 0.1, 0.1, 0.05, 0.0], dtype=torch.float64)
    point = PointwiseBall(radius=0.15, r=2.0)
    assert open_samples(found, proved, [point]).tolist() == [False, False, True, True, True]
    # W1 at 0.04 buys up to 0.2: sample 2 could become cheaper, sample 3 could enter, the certified one could not.
    law = WassersteinBall(radius=0.04, p=1, r=2.0)
    assert open_samples(found, proved, [law]).tolist() == [False, False, True, True, True]
    assert not open_samples(found, found, [point, law]).any()


@pytest.mark.parametrize(("preset", "attack"), [("fast", "wda++"), ("quick", "pgd"), ("auto", "fmn")])
def test_bad_presets(preset: str, attack: str) -> None:
    with pytest.raises(InputError, match="preset"):
        wt.benchmark(
            nn.Linear(2, 2),
            (torch.rand(2, 2), torch.zeros(2, dtype=torch.long)),
            "L2@0.1",
            preset=preset,
            attack=attack,
        )


class Noisy(nn.Module):
    """The first coordinate against one half, under noise."""

    def forward(self, z: Tensor) -> Tensor:
        first = z[:, 0] - 0.5 + 0.05 * torch.randn(len(z))
        return torch.stack((first, -first), 1)


def test_a_randomised_model_is_refused_or_averaged() -> None:
    x, y = torch.tensor([[0.9, 0.5], [0.8, 0.5]] * 6), torch.zeros(12, dtype=torch.long)
    with pytest.raises(ModelError, match="draws=20"):
        wt.benchmark(Noisy(), (x, y), "L2@0.6", certificate=None, progress=False)
    report = wt.benchmark(Noisy(), (x, y), "L2@0.6", certificate=None, draws=20, progress=False)
    assert "randomised-model" in [flag.name for flag in report.record.flags]
    assert report.attacked < 0.5
    assert report.ok
    with ModelQueries(Averaged(Noisy(), 5)) as queries:
        queries.logits(x)
        assert queries.passes.forward == 60
    with pytest.raises(InputError, match="at least 2"):
        Averaged(Noisy(), 1)


def test_a_model_without_gradients_is_left_to_square() -> None:
    class Rounded(nn.Module):
        """Answers by rounded values, detached."""

        def forward(self, z: Tensor) -> Tensor:
            first = (z[:, 0].detach() * 100).round() / 100 - 0.5
            return torch.stack((first, -first), 1)

    x, y = torch.tensor([[0.55, 0.5], [0.9, 0.5]] * 6), torch.zeros(12, dtype=torch.long)
    with pytest.raises(ModelError, match="no gradient"):
        wt.benchmark(Rounded(), (x, y), "Linf@0.1", certificate=None, progress=False)
    report = wt.benchmark(
        Rounded(), (x, y), "Linf@0.1", attack="square", attack_options={"queries": 50}, certificate=None, progress=False
    )
    assert report.attacked == pytest.approx(0.5)


def test_few_classes_are_flagged() -> None:
    x, y = torch.rand(8, 2), torch.zeros(8, dtype=torch.long)
    report = wt.benchmark(nn.Linear(2, 2), (x, y), "L2@0.1", attack="apgd-t", certificate=None, progress=False)
    assert "few-classes" in [flag.name for flag in report.record.flags]


class Backwards(torch.autograd.Function):
    """The identity with its gradient turned round."""

    @staticmethod
    def forward(ctx: object, z: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return -g


def test_masked_gradients_are_flagged() -> None:
    class Masked(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            first = Backwards.apply(z)[:, 0] - 0.5
            return torch.stack((first, -first), 1)

    x, y = torch.rand(20, 2), torch.zeros(20, dtype=torch.long)
    flags = wt.benchmark(Masked(), (x, y), "L2@0.1", certificate=None, progress=False).record.flags
    assert "masked-gradients" in [flag.name for flag in flags]
    honest = wt.benchmark(wt.load_model("digits-cnn").model, wt.load_data("digits", n=20), "L2@0.1", progress=False)
    assert "masked-gradients" not in [flag.name for flag in honest.record.flags]
