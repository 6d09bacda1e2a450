"""`train` and `finetune` end to end on the digits: resume, evaluation around, networks that load again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from wassertight.cli.main import run
from wassertight.models import load_model

FLAGS = ["-e", "2", "-b", "50", "--rate", "0.01", "--with", "optimiser=adam", "--n", "300", "--validation", "50", "--set",
         "steps=3", "--evaluate-n", "20", "--quiet", "--device", "cpu"]  # fmt: skip


def test_train_evaluates_saves_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "-O", "trades", "-t", "Linf@0.05", *FLAGS, "--run-dir", str(tmp_path / "a"), "--json"]
    assert run(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["objective"] == "trades"
    assert [r["threat"] for r in first["end"]] == ["Linf@0.05", "W1-Linf@0.05", "W2-Linf@0.05"]
    assert first["end"][0]["clean"] > first["start"][0]["clean"]
    assert all(r["attacked"] <= r["clean"] for r in first["end"])
    assert run(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    model = load_model(first["network"]).model
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert run(["train", "-O", "mart", "-t", "Linf@0.05", *FLAGS, "--run-dir", str(tmp_path / "a")]) == 2
    assert "another training run" in capsys.readouterr().err


def test_finetune_from_the_embedded_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["finetune", "-m", "digits-mlp", "-O", "knapsack", "-t", "W2-Linf@0.05", "--perturb", "0.02", *FLAGS,
                "--run-dir", str(tmp_path)]) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "attacked start" in out
    assert load_model(str(tmp_path / "network.json")).declaration is not None


def test_a_run_directory_belongs_to_one_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["finetune", "-O", "pgd", "-t", "Linf@0.05", *FLAGS, "--no-evaluate", "--run-dir", str(tmp_path / "a")]
    assert run([*command, "-m", "digits-mlp"]) == 0
    weights = (tmp_path / "a" / "last.safetensors").read_bytes()
    for other in (["-m", "digits-mlp-robust"], ["-m", "digits-mlp", "--perturb", "0.02"]):
        for dry in ([], ["--dry-run"]):
            assert run([*command, *other, *dry]) == 2
            assert "a training run from another start" in capsys.readouterr().err
    assert (tmp_path / "a" / "last.safetensors").read_bytes() == weights
    assert run([*command, "-m", "digits-mlp"]) == 0


def test_recipes_are_readable_and_build(tmp_path: Path) -> None:
    from wassertight.cli.training import Finetune, Train
    from wassertight.cli.training_run import read_job, settings_of
    from wassertight.models import list_architectures
    from wassertight.threats import threat
    from wassertight.training import make_objective

    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
    assert len(recipes) >= 10
    for recipe in recipes:
        fine = recipe.stem.startswith("finetune")
        job = read_job(Finetune(recipe=recipe, model="x") if fine else Train(recipe=recipe))
        settings_of(job.training)
        make_objective(job.objective, None if job.threat is None else threat(job.threat), job.objective_settings)
        assert fine or job.model in list_architectures(), recipe


def test_errors_teach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[training]\nepoch = 3\n")
    for command, words in (
        (["train", "-O", "trades"], "needs a threat"),
        (["train", "-O", "trade", "-t", "Linf@0.1"], "did you mean 'trades'"),
        (["train", "-O", "trades", "-t", "Linf@0.1", "-m", "mnist-cn"], "did you mean 'mnist-cnn'"),
        (["train", "-O", "trades", "-t", "Linf@0.1", "-m", "mnist-cnn"], "takes inputs (1, 28, 28)"),
        (["train", "-O", "trades", "-t", "Linf@0.1", "--with", "speed=9"], "no training setting 'speed'; did you mean"),
        (["train", "--recipe", str(bad)], "unknown 'training' ['epoch']"),
        (["finetune", "-t", "Linf@0.1"], "finetune needs --model"),
    ):
        assert run(command) == 2
        assert words in capsys.readouterr().err


def test_objectives_and_architectures_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "objectives", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)["objectives"]]
    assert {"trades", "w-dro", "knapsack", "armor-renyi-udr-mart", "awp"} <= set(names)
    assert run(["list", "architectures"]) == 0
    assert "mnist-cnn" in capsys.readouterr().out
