"""From a run's distances: brackets, curves, and claims around the true law or with labels that may move."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import wassertight as wt
from wassertight.evaluation import Report, check_claim
from wassertight.records import Record
from wassertight.types import InputError


def _run(run_dir: Path | None = None, **changes: object) -> Report:
    """A linear classifier: both sides are exact. Distances in L2: |first coordinate - 0.5|."""
    model = nn.Sequential(nn.Linear(2, 2))
    weight, bias = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([-0.5, 0.5])
    model[0].load_state_dict({"weight": weight, "bias": bias})
    x: Tensor = torch.stack((torch.linspace(0.55, 0.95, 9), torch.full((9,), 0.5)), 1)
    y = torch.tensor([0] * 8 + [1])
    threats = ["W1-L2@0.05,0.1", "L2@0.12", "W2-Linf@0.1"]
    return wt.benchmark(model, (x, y), threats, progress=False, run_dir=run_dir, **changes)  # type: ignore[arg-type]


def test_bracket_and_curves_come_from_the_run() -> None:
    report = _run()
    bracket = report.bracket()
    assert bracket.tightness == pytest.approx(1, abs=2e-3)
    assert report.bracket(r=math.inf).tightness == pytest.approx(1, abs=2e-3)
    one = next(entry for entry in report.record.brackets if (entry.p, entry.r) == (1.0, 2.0))
    assert one.tightness == pytest.approx(bracket.tightness)
    assert one.widest < 0.01
    assert one.closed == [(0.0, math.inf)]
    curve = report.curve(1, [0.0, 0.05, 0.1])
    assert curve.accuracy.tolist()[1:] == pytest.approx([result.certified for result in report.results[:2]], abs=1e-9)
    high = report.curve(1, [0.05], side="attacked", confidence=0.9)
    assert high.confidence == 0.9
    with pytest.raises(InputError, match="knows the ground norms L2, Linf, not L1"):
        report.curve(1, [0.1], r=1.0)
    alone = _run(attack=None)
    assert alone.record.brackets == []
    with pytest.raises(InputError, match="no attacked side"):
        alone.bracket()


def test_a_claim_is_kept_in_the_record(tmp_path: Path) -> None:
    report = _run(tmp_path / "run").with_claim(confidence=0.95, label_cost=0.03)
    claim = report.record.claim
    assert claim is not None
    assert Record.read(tmp_path / "run").claim == claim
    assert claim.margin == pytest.approx(math.sqrt(math.log(40) / 18))
    for row, result in zip(claim.results, report.results, strict=True):
        low = report.curve(result.p, [result.radius], r=result.r, label_cost=0.03)
        assert row.certified == pytest.approx(max(0, float(low.accuracy[0]) - claim.margin))
    texts = " ".join(claim.assumptions)
    assert "each ground norm by itself" in texts
    assert "changing one costs 0.03" in texts
    assert _run(tmp_path / "run").record.claim is None, "the same run without the claim"


def test_only_labels() -> None:
    claim = _run().with_claim(label_cost=0.05).record.claim
    assert claim is not None
    assert (claim.population, claim.confidence, claim.margin) == (False, 1.0, 0.0)
    pointwise = next(row for row in claim.results if math.isinf(row.p))
    assert (pointwise.certified, pointwise.attacked) == (0.0, 0.0), "every label may be changed within 0.12"


@pytest.mark.parametrize(("confidence", "cost"), [(1.0, math.inf), (0.2, math.inf), (None, 0.0), (None, math.nan)])
def test_bad_claims(confidence: float | None, cost: float) -> None:
    with pytest.raises(InputError):
        check_claim(confidence, cost)
