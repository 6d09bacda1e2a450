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


def test_recipes_are_readable_and_build(tmp_path: Path) -> None:
    from wassertight.cli.training_run import TrainingOrder, read_job, settings_of
    from wassertight.models import list_architectures
    from wassertight.threats import threat
    from wassertight.training import make_objective

    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
    assert len(recipes) >= 10
    blank = {name: None for name in ("objective", "threat", "model", "data", "epochs", "batch_size", "rate", "n", "validation",
                                     "seed", "run_dir", "evaluate_n", "preset")}  # fmt: skip
    for recipe in recipes:
        command = "finetune" if recipe.stem.startswith("finetune") else "train"
        job = read_job(
            TrainingOrder(
                command=command, recipe=recipe, settings=(), training=(), device="cpu", evaluate=True, evaluate_threats=(),
                certificate="none", as_json=False, quiet=True, **{**blank, "model": "x" if command == "finetune" else None},
            )
        )  # fmt: skip
        settings_of(job.training)
        make_objective(job.objective, None if job.threat is None else threat(job.threat), job.objective_settings)
        assert command == "finetune" or job.model in list_architectures(), recipe


def test_errors_teach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[training]\nepoch = 3\n")
    for command, words in (
        (["train", "-O", "trades"], "needs a threat"),
        (["train", "-O", "trade", "-t", "Linf@0.1"], "did you mean 'trades'"),
        (["train", "-O", "trades", "-t", "Linf@0.1", "-m", "mnist-cn"], "did you mean 'mnist-cnn'"),
        (["train", "-O", "trades", "-t", "Linf@0.1", "-m", "mnist-cnn"], "takes inputs (1, 28, 28)"),
        (["train", "-O", "trades", "-t", "Linf@0.1", "--with", "speed=9"], "no training setting 'speed'"),
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
