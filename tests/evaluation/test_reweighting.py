"""Re-weighting threats in benchmark and on the command line: values, record, claims, resuming, mixed threats."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import wassertight as wt
from wassertight.cli.main import run
from wassertight.evaluation import bracket_loss, make_plan
from wassertight.records import Record
from wassertight.threats import DivergenceBall
from wassertight.transport import worst_error
from wassertight.types import InputError, ThreatError

X = torch.tensor([[0.55, 0.5], [0.6, 0.5], [0.7, 0.5], [0.8, 0.5], [0.9, 0.5], [0.3, 0.5]])
Y = torch.tensor([0, 0, 0, 0, 0, 0])
D = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.4, 0.0], dtype=torch.float64)


def linear_model() -> nn.Sequential:
    """Class 0 where the first coordinate is above one half; flip distance |2 x_1 - 1| / 2 in every norm."""
    model = nn.Sequential(nn.Linear(2, 2))
    weight, bias = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([-0.5, 0.5])
    model[0].load_state_dict({"weight": weight, "bias": bias})
    return model


THREATS = ["KL+L2@0.05:0.2,0.15", "alpha2+W1-L2@0.1,0.1", "W1-L2@0.1"]


def test_values_and_record(tmp_path: Path) -> None:
    report = wt.benchmark(linear_model(), (X, Y), THREATS, progress=False)
    assert report.ok
    for result in report.results[:3]:
        part = result.reweighting
        assert part is not None
        ball = wt.threat(part.text)
        assert isinstance(ball, DivergenceBall)
        exact = 1 - worst_error(ball.transport.least(D), ball.radius, ball.divergence).value
        assert result.attacked == pytest.approx(exact, abs=1e-5)
        assert result.certified == pytest.approx(exact, abs=1e-5)
        assert part.spent_divergence is not None
        assert part.spent_transport is not None
        assert part.spent_divergence + part.spent_transport == pytest.approx(ball.radius, rel=1e-6)
        assert part.attacked is not None
        assert part.attacked.joint <= min(part.attacked.reweighting, part.attacked.transport) + 1e-9
        assert part.heaviest[0].weight == max(one.weight for one in part.heaviest) > 1
        assert part.effective is not None
        assert 1 <= part.effective <= 6
    assert report.results[3].reweighting is None
    assert {curve.family for curve in report.record.curves} >= {None, "KL, moves within L2 0.15"}
    for curve in report.record.curves:
        if curve.family and curve.attacked and curve.certified:
            assert all(low <= high + 1e-6 for low, high in zip(curve.certified, curve.attacked, strict=True))
    again = Record.model_validate_json(report.to_json())
    assert again == report.record
    assert "What re-weighting adds" in report.to_html(tmp_path / "report.html").read_text()


def test_families_differ_by_their_reach_not_by_three_digits_of_it() -> None:
    """Flips at 0.1: a reach of 0.0999 has none, one of 0.1001 has all."""
    model, x, y = linear_model(), X[1:2].repeat(4, 1), Y[:4]
    report = wt.benchmark(model, (x, y), ["KL+L2@0.1,0.09998", "KL+L2@0.1,0.10002"], progress=False)
    curves = [curve for curve in report.record.curves if curve.family]
    assert [curve.certified[1] for curve in curves if curve.certified] == pytest.approx([1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("attack", ["wda++", "armor", "armor-loss", "fmn", "wda++-reference", "pgd"])
def test_methods_that_take_them(attack: str) -> None:
    report = wt.benchmark(linear_model(), (X, Y), "KL+Linf@0.1,0.15", attack=attack, certificate=None, progress=False)
    assert report.ok
    assert report.attacked is not None
    assert report.attacked <= 5 / 6
    part = report.results[0].reweighting
    assert part is not None
    assert part.lam is not None
    assert part.lam > 0


def test_armor_refuses_other_threats_and_presets_work() -> None:
    with pytest.raises(ThreatError, match="re-weighting"):
        make_plan(linear_model(), (X, Y), "W1-L2@0.1", attack="armor")
    auto = wt.benchmark(linear_model(), (X, Y), THREATS[1:], preset="auto", certificate="auto", progress=False)
    assert auto.ok


def test_claims_follow_the_flip_costs() -> None:
    report = wt.benchmark(
        linear_model(), (X.repeat(20, 1), Y.repeat(20)), THREATS[:2], progress=False, attack_options={"passes": 40}
    )
    claim = report.with_claim(confidence=0.95).record.claim
    assert claim is not None
    for before, after in zip(report.results, claim.results, strict=True):
        assert None not in (before.certified, before.attacked, after.certified, after.attacked)
        assert after.certified < before.certified <= before.attacked < after.attacked  # type: ignore[operator]
    assert any("flip costs" in text for text in claim.assumptions)
    with pytest.raises(InputError, match="labels"):
        report.with_claim(label_cost=0.1)


def test_loss_bracket() -> None:
    found = bracket_loss(linear_model(), X, Y, wt.threat("KL+L2@0.05,0.1"), loss="margin", grid=6)
    row = found.row()
    assert found.clean <= found.attacked <= found.certified <= found.attacked + 1e-3
    assert row["spent_divergence"] == pytest.approx(0.05)
    assert row["moves_only"] == pytest.approx(found.clean + 0.2, abs=1e-3)  # the margin's slope is 2
    assert math.isfinite(row["weights_only"])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["evaluate", "-t", "KL+Linf@0.1,0.02", "-n", "10", "-o", str(tmp_path / "run"), "-q", "--set", "passes=30"]
    assert run(line) == 0
    shown = capsys.readouterr().out
    assert "What re-weighting adds" in shown
    assert "KL+Linf@0.1,0.02" in shown
    assert run([*line, "--json"]) == 0  # resumed
    record = json.loads(capsys.readouterr().out)
    part = record["results"][0]["reweighting"]
    assert part["divergence"] == "KL"
    assert set(part["attacked"]) == {"nominal", "reweighting", "transport", "joint"}
    assert (tmp_path / "run" / "bracket.png").exists()
    assert run(["report", str(tmp_path / "run")]) == 0
    assert run(["loss", "-t", "KL+Linf@0.1,0.02", "-n", "5", "--grid", "3", "--json"]) == 0
    assert run(["evaluate", "-t", "KL+Linf@0.1", "-n", "5"]) == 2
    assert "KL+Linf@0.1,8/255" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), [("mnist_mlpB_adv_0.1", "mnist.npz"), ("cifar_cnn_a_adv", "cifar10_subset.npz")])  # fmt: skip
def test_real_networks(name: str, data: str, shared: Path) -> None:
    model = wt.load_model(f"{shared / 'manifest.json'}#{name}").model
    report = wt.benchmark(
        model, wt.load_data(str(shared / data), n=12), ["KL+Linf@0.1,2/255", "KL+W1-Linf@0.1,2/255"], progress=False
    )
    assert report.ok
    for result in report.results:
        assert result.certified is not None
        assert result.attacked is not None
        assert result.certified <= result.attacked <= result.clean
        assert torch.isfinite(torch.tensor(result.certified))
