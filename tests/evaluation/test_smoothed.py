"""Runs with a smoothing certificate: resumed after a kill, recorded, shown; the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from wassertight import benchmark
from wassertight.cli.main import app
from wassertight.evaluation import smoothed
from wassertight.records import Record
from wassertight.report import radii_figure
from wassertight.types import InputError, ThreatError

THREATS = ["image-W1@0.001,0.002", "W1-image-W1@0.001"]
OPTIONS = {"sigma": 0.003, "n0": 50, "n": 300, "alpha": 0.05}


class _Stop(Exception):
    pass


def _model(x: Tensor) -> Tensor:
    left = x[..., :4].sum((1, 2, 3)) - x[..., 4:].sum((1, 2, 3))
    return torch.stack((left, -left), 1)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    x = torch.rand(12, 1, 8, 8)
    x[::2, :, :, :4] += 0.4
    x[1::2, :, :, 4:] += 0.4
    return x / 1.5, torch.tensor([0, 1] * 6)


def _run(data: tuple[Tensor, Tensor], run_dir: Path | None = None, progress: object = False):  # type: ignore[no-untyped-def]
    return benchmark(
        _model, data, THREATS, attack=None, certificate="wasserstein-smoothing", certificate_options=OPTIONS,
        run_dir=run_dir, progress=progress, model_name="left or right",
    )  # fmt: skip


def test_a_killed_run_goes_on(data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoothed, "_LARGEST_UNIT", 4)
    whole = _run(data)
    calls: list[int] = []

    def stop(stage: str, done: int, total: int) -> None:
        assert total == 12
        if done >= 9:
            raise _Stop

    with pytest.raises(_Stop):
        _run(data, tmp_path / "run", stop)
    assert len(list((tmp_path / "run" / "units").iterdir())) == 2
    again = _run(data, tmp_path / "run", lambda stage, done, total: calls.append(done))
    assert torch.equal(again.arrays["votes"], whole.arrays["votes"])
    assert torch.equal(again.arrays["certified_distance"], whole.arrays["certified_distance"])
    assert calls[0] == 0


def test_record_says_everything(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    report = _run(data, tmp_path / "run")
    record = Record.read(tmp_path / "run")
    facts = record.settings["smoothing"]
    assert facts["certified"] + facts["abstained"] + facts["wrong"] == pytest.approx(1.0)
    assert sum(facts["histogram"]["counts"]) == round(12 * facts["certified"])
    assert (facts["n0"], facts["n"], facts["alpha"], facts["rule"]) == (50, 300, 0.05, "each")
    pointwise, far, average = record.results
    assert math.isinf(pointwise.p)
    assert average.p == 1
    assert pointwise.certified is not None
    assert average.certified is not None
    assert pointwise.clean >= pointwise.certified >= (far.certified or 0)
    radii = report.arrays["certified_distance"]
    assert pointwise.certified == pytest.approx(float((radii > 0.001).double().mean()))
    assert report.curve(1, [0.001]).accuracy[0] == pytest.approx(average.certified)
    assert record.passes.forward >= 12 * 350
    assert any("smoothed classifier" in text for text in record.assumptions)
    assert radii_figure(record) is not None
    assert radii_figure(record.model_copy(update={"settings": {}})) is None


def test_what_is_refused(data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="out of reach"):
        benchmark(
            _model, data, "image-W1@0.5", attack=None, certificate="wasserstein-smoothing",
            certificate_options=OPTIONS, progress=False,
        )  # fmt: skip
    with pytest.raises(InputError, match="does not attack"):
        benchmark(
            _model, data, THREATS, certificate="wasserstein-smoothing", certificate_options=OPTIONS, progress=False
        )
    with pytest.raises(ThreatError, match="image-space"):
        benchmark(_model, data, "L2@0.1", attack=None, certificate="wasserstein-smoothing", progress=False)


def test_command_line(tmp_path: Path) -> None:
    found = CliRunner().invoke(
        app,
        [
            "certify", "--method", "wasserstein-smoothing", "-t", "image-W1@0.001,0.4", "--sigma", "0.002", "--n-draws", "200",
            "--alpha", "0.05", "--set", "n0=20", "--n", "6", "-o", str(tmp_path / "run"), "--json", "-q",
        ],
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout)
    assert record["settings"]["smoothing"]["sigma"] == 0.002
    assert record["flags"][0]["name"] == "out-of-reach"
    assert record["results"][1]["certified"] == 0
    assert (tmp_path / "run" / "radii.pdf").is_file()
