"""Benchmark on closed forms and on the digits: values, arrays, resuming, refusals, soundness checks."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import wassertight as wt
from wassertight.certificates import LinearPropagation
from wassertight.evaluation import make_plan
from wassertight.records import Record
from wassertight.transport import FlipDistances
from wassertight.types import InputError, ModelError, RunDirectoryError, ThreatError, UnsupportedLayerError


def linear_model() -> nn.Sequential:
    """Class 0 where the first coordinate is above one half; flip distance |2 x_1 - 1| / 2 in every norm."""
    model = nn.Sequential(nn.Linear(2, 2))
    weight, bias = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([-0.5, 0.5])
    model[0].load_state_dict({"weight": weight, "bias": bias})
    return model


X = torch.tensor([[0.55, 0.5], [0.6, 0.5], [0.7, 0.5], [0.8, 0.5], [0.9, 0.5], [0.3, 0.5]])
Y = torch.tensor([0, 0, 0, 0, 0, 0])
D = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.4, 0.0], dtype=torch.float64)


def stripped(record: Record) -> dict[str, Any]:
    """The record without wall times."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if key != "seconds"}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return clean(json.loads(record.to_json()))


@pytest.mark.parametrize("r", ["Linf", "L2", "L1"])
def test_linear_bracket_is_tight(r: str) -> None:
    report = wt.benchmark(
        linear_model(), (X, Y), [f"W1-{r}@0,0.02,0.05", f"W2-{r}@0.1", f"{r}@0.15"], progress=False, batch_size=4
    )
    exact = FlipDistances.attacked(D)
    for result in report.results:
        expected = exact.accuracy(result.p, result.radius)
        assert result.attacked == pytest.approx(expected, abs=2e-6)
        assert result.certified == pytest.approx(expected, abs=2e-6)
        assert result.certified <= result.attacked <= result.clean
    assert report.ok
    clean, attacked = report
    assert clean == pytest.approx(5 / 6)
    assert attacked == pytest.approx(5 / 6)
    assert "W1-" in str(report)


def test_arrays_curves_and_distances_agree() -> None:
    report = wt.benchmark(linear_model(), (X, Y), ["W1-Linf@0.05", "W2-L2@0.1"], progress=False)
    arrays = report.arrays
    torch.testing.assert_close(arrays["attacked_distance"], D, atol=1e-6, rtol=0)
    assert (arrays["certified_distance"] <= arrays["attacked_distance"]).all()
    assert arrays["attacked_distance"].dtype == arrays["certified_distance.L2"].dtype == torch.float64
    assert (linear_model()(arrays["z"])[arrays["attacked_distance"] > 0].argmax(1) == 1).all()
    assert set(arrays) >= {"x", "y", "z", "weight", "z.L2", "attacked_distance.L2"}
    assert float(arrays["law.0.weights"].sum()) == pytest.approx(1)
    curves = {(curve.p, curve.r): curve for curve in report.record.curves}
    assert set(curves) == {(p, r) for p in (1, 2, math.inf) for r in (2, math.inf)}
    for curve in curves.values():
        assert len(curve.radii) == 65
        assert curve.attacked is not None
        assert curve.certified is not None
        assert all(low <= high for low, high in zip(curve.certified, curve.attacked, strict=True))
        assert curve.attacked == sorted(curve.attacked, reverse=True)
    assert report.record.distances == report.record.distances_by_norm["Linf"]
    assert report.record.distances.attacked is not None
    assert report.record.distances.attacked.median == pytest.approx(0.2, abs=1e-6)


def test_one_side_alone_is_null_not_zero() -> None:
    attacked = wt.benchmark(linear_model(), (X, Y), "W1-L2@0.05", certificate=None, progress=False)
    assert attacked.certified is None
    assert attacked.record.command == "attack"
    assert attacked.record.distances.certified is None
    assert "certified_distance" not in attacked.arrays
    certified = wt.benchmark(linear_model(), (X, Y), "W1-L2@0.05", attack=None, progress=False)
    assert certified.attacked is None
    assert certified.record.command == "certify"
    assert certified.record.curves[0].attacked is None


def test_data_of_every_kind_gives_the_same() -> None:
    pairs = TensorDataset(X, Y)
    kinds = [(X, Y), (X.numpy(), Y.numpy()), pairs, DataLoader(pairs, batch_size=2)]
    found = {wt.benchmark(linear_model(), kind, "W1-L2@0.05", n_examples=5, progress=False).attacked for kind in kinds}
    assert len(found) == 1


def test_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Dropout(0.5), *linear_model())
    state = torch.get_rng_state()
    report = wt.benchmark(model, (X, Y), "W1-L2@0.05", certificate=None, progress=False)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert [flag.name for flag in report.record.flags] == ["training-mode"]


@pytest.mark.parametrize("attack", ["wda++-reference", "min-norm", "w-pgd", "w-pgd-reference", "w-fgsm"])
def test_every_attack_is_above_the_truth(attack: str) -> None:
    report = wt.benchmark(linear_model(), (X, Y), "W2-L2@0.05,0.1", attack=attack, progress=False)
    for result in report.results:
        assert result.attacked is not None
        assert result.attacked >= FlipDistances.attacked(D).accuracy(2.0, result.radius) - 1e-6
        assert result.spent is not None
        assert result.spent <= result.radius * (1 + 1e-9)
    assert report.ok


def test_finished_run_is_reproduced_and_extended(tmp_path: Path) -> None:
    first = wt.benchmark(linear_model(), (X, Y), "W1-L2@0.05", run_dir=tmp_path / "run", progress=False)
    text = (tmp_path / "run" / "record.json").read_text()
    again = wt.benchmark(linear_model(), (X, Y), "W1-L2@0.05", run_dir=tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "record.json").read_text() == text
    assert Record.read(tmp_path / "run") == first.record == again.record
    stored = load_file(tmp_path / "run" / "arrays.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in first.arrays.items())
    units = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "units").iterdir()}
    more = wt.benchmark(linear_model(), (X, Y), ["W1-L2@0.05,0.1", "L2@0.1"], run_dir=tmp_path / "run", progress=False)
    assert more.results[0] == first.results[0]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "units").iterdir()} == units


def test_damaged_unit_is_done_again(tmp_path: Path) -> None:
    first = wt.benchmark(linear_model(), (X, Y), "W1-L2@0.05", run_dir=tmp_path / "run", progress=False)
    for path in (tmp_path / "run" / "units").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    again = wt.benchmark(linear_model(), (X, Y), "W1-L2@0.05", run_dir=tmp_path / "run", progress=False)
    assert stripped(again.record) == stripped(first.record)


def test_other_configuration_is_refused_and_nothing_lost(tmp_path: Path) -> None:
    wt.benchmark(linear_model(), (X, Y), "W1-L2@0.05", run_dir=tmp_path, progress=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match=r"batch_size \(256 there, 2 now\).* n \(6 there, 5 now\)"):
        wt.benchmark(linear_model(), (X, Y), "W1-L2@0.05", run_dir=tmp_path, n_examples=5, batch_size=2, progress=False)
    other = linear_model()
    with torch.no_grad():
        other[0].bias += 0.1
    with pytest.raises(RunDirectoryError, match="model_sha256"):
        wt.benchmark(other, (X, Y), "W1-L2@0.05", run_dir=tmp_path, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_foreign_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        wt.benchmark(linear_model(), (X, Y), "W1-L2@0.05", run_dir=tmp_path, progress=False)
    (tmp_path / "config.json").write_text('{"version": ')
    with pytest.raises(RunDirectoryError, match="not readable"):
        wt.benchmark(linear_model(), (X, Y), "W1-L2@0.05", run_dir=tmp_path, progress=False)


KILLED = """
    import os, sys, torch, wassertight as wt
    torch.set_num_threads(1)
    class Dying(torch.nn.Sequential):
        calls, last = 0, int(sys.argv[2])
        def forward(self, z):
            Dying.calls += 1
            if Dying.calls == Dying.last:
                os.kill(os.getpid(), 9)
            return super().forward(z)
    model = Dying(*wt.load_model("digits-mlp-robust").model)
    report = wt.benchmark(model, wt.load_data("digits"), ["W1-Linf@0.05", "W2-L2@0.3"], n_examples=24, batch_size=8,
                          run_dir=sys.argv[1], certificate=None, attack_options={"passes": 40}, progress=False)
"""


def test_kill_and_resume_gives_the_identical_record(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(KILLED))

    def start(directory: str, calls: int) -> int:
        return subprocess.run(
            [sys.executable, str(script), str(tmp_path / directory), str(calls)], check=False
        ).returncode

    assert start("straight", 10**9) == 0
    assert start("killed", 70) == -9
    units = list((tmp_path / "killed" / "units").iterdir())
    assert not (tmp_path / "killed" / "record.json").exists()
    assert 0 < len(units) < 6
    assert start("killed", 10**9) == 0
    straight, killed = Record.read(tmp_path / "straight"), Record.read(tmp_path / "killed")
    assert stripped(straight) == stripped(killed)
    arrays = [load_file(tmp_path / name / "arrays.safetensors") for name in ("straight", "killed")]
    assert arrays[0].keys() == arrays[1].keys()
    assert all(torch.equal(arrays[0][name], arrays[1][name]) for name in arrays[0])


@dataclass(frozen=True, kw_only=True)
class Boasting:
    """A certificate that proves too much."""

    name: ClassVar[str] = "boasting"
    factor: float = 2.0

    def __call__(self, model: Any, x: Tensor, y: Tensor, threat: Any, **options: Any) -> Any:
        honest = LinearPropagation()(model, x, y, threat, **options)
        return replace(honest, radii=replace(honest.radii, values=honest.radii.values * self.factor))


def test_contradiction_is_reported_not_hidden() -> None:
    report = wt.benchmark(linear_model(), (X, Y), "W1-L2@0.05", certificate=Boasting(), progress=False)
    assert not report.ok
    assert report.record.audit.violations >= 5
    assert "exceed the distance" in report.record.audit.details[0]
    assert report.certified is not None
    assert report.certified > report.attacked


def test_unsupported_layer_names_it_before_attacking_and_is_skipped_only_if_asked() -> None:
    model = nn.Sequential(linear_model()[0], nn.LogSigmoid())
    with pytest.raises(UnsupportedLayerError, match="LogSigmoid"):
        wt.benchmark(model, (X, Y), "W1-L2@0.05", progress=False)
    report = wt.benchmark(model, (X, Y), "W1-L2@0.05", progress=False, skip_unsupported=True)
    assert report.certified is None
    assert [flag.name for flag in report.record.flags] == ["no-certificate"]


class Answering(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, z: Tensor) -> Tensor:
        return self.answer(z)


LOGITS = linear_model()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda z: LOGITS(z) * math.nan, "NaN for 6 of 6"),
        (lambda z: LOGITS(z)[:, :1], "one logit"),
        (lambda z: LOGITS(z)[1:], "5 rows for 6 samples"),
        (lambda z: LOGITS(z).sum(), "logits"),
        (lambda z: LOGITS(z[:, :1]), "the model failed on a batch of inputs of shape"),
        (lambda z: LOGITS(z).detach(), "no gradient"),
        (lambda z: LOGITS(z) + torch.randn(len(z), 2), "draws=20"),
    ],
)
def test_models_that_cannot_be_used(answer: Any, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        wt.benchmark(Answering(answer), (X, Y), "W1-L2@0.05", certificate=None, progress=False)


@pytest.mark.parametrize(
    ("answer", "flag"),
    [
        (lambda z: LOGITS(z).softmax(1), "probabilities"),
        (lambda z: (LOGITS(z) * 1e3).round().detach() + 0 * z.sum(1, keepdim=True), "zero-gradients"),
        (lambda z: LOGITS(z) + (z[:, 1:] - 0.5).abs().sqrt(), "non-finite-gradients"),
    ],
)
def test_health_flags(answer: Any, flag: str) -> None:
    report = wt.benchmark(Answering(answer), (X, Y), "W1-L2@0.05", certificate=None, progress=False)
    assert flag in [found.name for found in report.record.flags]
    assert all(found.remedy for found in report.record.flags)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"data": (X, Y.float())}, InputError, "integer"),
        ({"data": (X, Y + 2)}, InputError, "labels must be in 0..1"),
        ({"data": (X, Y - 1)}, InputError, ">= 0"),
        ({"data": (X * math.nan, Y)}, InputError, "NaN"),
        ({"data": (X + 1, Y)}, InputError, "box"),
        ({"data": (X[:0], Y[:0])}, InputError, "empty"),
        ({"threat": "W1-L2@-1"}, ThreatError, ">= 0"),
        ({"threat": "W1L2@0.5"}, ThreatError, "did you mean"),
        ({"threat": []}, InputError, "no threat"),
        ({"attack": "wda+"}, InputError, "did you mean 'wda\\+\\+'"),
        ({"attack": "pgd"}, ThreatError, "w-pgd"),
        ({"attack": "w-pgd"}, ThreatError, "needs p > 1"),
        ({"certificate": "crwn"}, InputError, "did you mean 'crown'"),
        ({"attack_options": {"pases": 3}}, InputError, "no setting 'pases'; it has: mode, passes"),
        ({"attack": None, "certificate": None}, InputError, "nothing to do"),
        ({"device": "tpu9"}, InputError, "device"),
        ({"batch_size": 0}, InputError, "batch_size"),
    ],
)
def test_bad_input_teaches(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments = {"data": (X, Y), "threat": "W1-L2@0.05", **changes}
    with pytest.raises(error, match=text):
        wt.benchmark(linear_model(), progress=False, **arguments)


def test_plan_units_are_shared_only_where_the_attack_ignores_the_radius() -> None:
    threats = ["W2-L2@0.1,0.2", "W2-Linf@0.1"]
    plan = make_plan(linear_model(), (X, Y), threats, batch_size=4)
    assert [unit.stage for unit in plan.units("attack")] == ["attack-L2"] * 2 + ["attack-Linf"] * 2
    plan = make_plan(linear_model(), (X, Y), threats, batch_size=4, attack="w-pgd")
    assert [(unit.start, unit.stop) for unit in plan.units("attack")] == [(0, 6)] * 3
    keys = [unit.key for kind in ("attack", "certificate") for unit in plan.units(kind)]
    assert len(set(keys)) == len(keys)


def test_digits_bracket() -> None:
    loaded = wt.load_model("digits-mlp-robust").model
    seen: list[str] = []
    report = wt.benchmark(
        loaded, wt.load_data("digits"), ["W1-Linf@0.02,0.05", "Linf@0.05"], n_examples=40, batch_size=16,
        attack_options={"passes": 60}, progress=lambda stage, done, total: seen.append(f"{stage} {done}/{total}"),
    )  # fmt: skip
    assert report.ok
    assert all(0 < result.certified <= result.attacked < result.clean + 1e-9 for result in report.results)
    assert "attack-Linf 40/40" in seen
    assert "certificate-Linf 40/40" in seen
