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
from wassertight.attacks import SmoothedFrankWolfe
from wassertight.certificates import GaussianFlowSmoothing
from wassertight.cli import running
from wassertight.cli.main import app
from wassertight.evaluation import smoothed, smoothed_attack
from wassertight.records import Record
from wassertight.report import radii_figure
from wassertight.transport.flow_noise import GaussianFlow
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


QUICK = {"steps": 8, "draws": 8, "screen": 100, "confirm": 500}


def test_bracket_of_the_smoothed_classifier(
    data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certified below attacked at every radius and under every mean; one pass of the attack serves all of them."""
    monkeypatch.setattr(smoothed_attack, "_UNIT", 5)

    def run(directory: Path | None):  # type: ignore[no-untyped-def]
        return benchmark(
            _model, data, ["image-W1@0.001,0.15,0.5", "W1-image-W1@0.1"], certificate="wasserstein-smoothing",
            certificate_options=OPTIONS, attack_options=QUICK, run_dir=directory, progress=False,
        )  # fmt: skip

    report = run(tmp_path / "run")
    record = Record.read(tmp_path / "run")
    assert record.command == "evaluate"
    assert record.methods == {"attack": "smoothed-frank-wolfe-distance", "certificate": "wasserstein-smoothing"}
    near, middle, far, mean = record.results
    for one in record.results:
        assert one.certified <= one.attacked <= one.clean
    assert near.certified == near.attacked == 1
    assert far.attacked == 0 < middle.attacked < 1
    assert 0 < mean.attacked < 1
    assert mean.spent == pytest.approx(0.1)
    low, high = report.arrays["certified_distance"], report.arrays["attacked_distance"]
    assert bool((low <= high).all())
    assert bool(torch.isfinite(high).all())
    x = data[0]
    margins = x[..., :4].sum((1, 2, 3)) - x[..., 4:].sum((1, 2, 3))
    nearest = margins.abs() / x.sum((1, 2, 3)) / 2  # light that has to cross the middle, at least one step
    assert bool((high >= nearest * 0.98).all())
    for curve in record.curves:
        assert all(down <= up + 1e-9 for down, up in zip(curve.certified, curve.attacked, strict=True))
    assert record.brackets[0].tightness < 1
    assert len(list((tmp_path / "run" / "units").glob("attack*"))) == 3
    (tmp_path / "run" / "units" / "attack-image-W1-0000005.safetensors").unlink()
    again = run(tmp_path / "run")
    assert torch.equal(again.arrays["attacked_distance"], report.arrays["attacked_distance"])
    assert any("fresh votes" in text for text in record.assumptions)


def test_a_flip_inside_a_certified_radius_is_a_violation(
    data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GaussianFlowSmoothing, "bound", lambda self, votes, x, r: torch.full((len(x),), 0.2).double())
    report = benchmark(
        _model, data, "image-W1@0.19", certificate="wasserstein-smoothing", certificate_options=OPTIONS,
        attack_options=QUICK, progress=False,
    )  # fmt: skip
    assert not report.ok
    assert "exceeds the distance" in report.record.audit.details[0]
    assert report.certified == 1 > report.attacked


def test_attack_alone_judges_clean_images_itself(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    report = benchmark(
        _model, (x, torch.where(torch.arange(12) == 3, 1 - y, y)), ["image-W1@0.05,0.5"], attack="smoothed-frank-wolfe",
        attack_options=QUICK | {"sigma": 0.003}, certificate=None, progress=False,
    )  # fmt: skip
    assert report.certified is None
    assert report.clean == pytest.approx(11 / 12)
    assert report.attacked == report.clean
    assert report.results[1].attacked == 0
    assert float(report.arrays["attacked_distance"][3]) == 0


def test_noisy_votes_by_one_vote_an_image(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    report = benchmark(
        _model, data, ["W1-image-W1@0,0.001", "image-W1@0.001"], attack=None, certificate="noisy-votes",
        certificate_options={"sigma": 0.003}, run_dir=tmp_path, progress=False,
    )  # fmt: skip
    still, mean, each = report.results
    assert still.certified == pytest.approx(0.001 ** (1 / 12))
    assert mean.certified == each.certified < still.certified
    assert report.record.passes.forward <= 14
    assert report.record.settings["noisy_votes"]["votes"] == 1
    assert "certified_distance" not in report.arrays
    with pytest.raises(InputError, match="label cost"):
        report.with_claim(label_cost=0.1)


def test_what_is_refused(data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="out of reach"):
        benchmark(
            _model, data, "image-W1@0.5", attack=None, certificate="wasserstein-smoothing",
            certificate_options=OPTIONS, progress=False,
        )  # fmt: skip
    smoothing = {"certificate": "wasserstein-smoothing", "certificate_options": OPTIONS, "progress": False}
    with pytest.raises(InputError, match="does not attack"):
        benchmark(_model, data, THREATS, attack="frank-wolfe", **smoothing)
    other = SmoothedFrankWolfe(noise=GaussianFlow(sigma=0.01))
    with pytest.raises(InputError, match="same noise"):
        benchmark(_model, data, THREATS, attack=other, **smoothing)
    with pytest.raises(InputError, match="that of the certificate"):
        benchmark(_model, data, THREATS, attack_options={"sigma": 0.01}, **smoothing)
    with pytest.raises(InputError, match="give sigma"):
        benchmark(_model, data, THREATS, attack="smoothed-frank-wolfe", certificate=None, progress=False)
    with pytest.raises(InputError, match="without random majorities"):
        benchmark(_model, data, THREATS, attack=other, certificate="deterministic-flow", progress=False)
    with pytest.raises(ThreatError, match="image-space"):
        benchmark(_model, data, "L2@0.1", attack=None, certificate="wasserstein-smoothing", progress=False)


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(running, "write_pictures", lambda record, directory: [])
    common = [
        "-t",
        "image-W1@0.2",
        "--n",
        "3",
        "--sigma",
        "0.002",
        "-q",
        "--json",
        *["--set", "steps=3", "--set", "confirm=100"],
    ]
    attack = [
        "attack",
        "--method",
        "smoothed-frank-wolfe",
        "--set",
        "screen=50",
        "-o",
        str(tmp_path / "attack"),
        *common,
    ]
    found = CliRunner().invoke(app, attack)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["results"][0]["certified"] is None
    evaluate = ["evaluate", "-c", "wasserstein-smoothing", "--n-draws", "100", "-o", str(tmp_path / "both"), *common]
    found = CliRunner().invoke(app, [*evaluate, "--set", "rounds=1", "--alpha", "0.05"])
    assert found.exit_code == 0, found.output
    (result,) = json.loads(found.stdout)["results"]
    assert result["certified"] <= result["attacked"] <= result["clean"]
