"""`--dry-run` writes nothing, says what is there already, and comes near the passes that the run then makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wassertight.cli.main import run


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def preview(command: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    before = sorted(Path().rglob("*"))
    assert run([*command, "--dry-run", "--json"]) == 0
    assert sorted(Path().rglob("*")) == before
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["dry_run"] is True
    return found


@pytest.mark.parametrize("method", ["wda++", pytest.param("wda", marks=pytest.mark.slow)])
def test_passes_are_near_those_of_the_run(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["attack", "-a", method, "-m", "digits-mlp-robust", "-n", "8", "-t", "Linf@0.02", "-q"]
    expected = preview(command, capsys)
    assert expected["state"] == "new"
    assert expected["certificate_seconds"] is None
    assert run([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    for kind in ("forward", "backward"):
        assert record["passes"][kind] / 1.5 < expected["attack_passes"][kind] < record["passes"][kind] * 1.5
    after = preview(command, capsys)
    assert after["state"].startswith("finished")
    assert after["units"]["stored"] == after["units"]["all"] == expected["units"]["all"]
    Path(after["run_dir"], "record.json").unlink()
    next(Path(after["run_dir"], "units").iterdir()).unlink()
    assert preview(command, capsys)["state"].startswith(f"{after['units']['all'] - 1} of {after['units']['all']} units")


def test_both_sides_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "-m", "digits-mlp-robust", "-n", "8", "-t", "W1-Linf@0.02", "--dry-run"]) == 0
    out = capsys.readouterr().out
    for words in (
        "nothing was written",
        "W1-Linf@0.02",
        "wda++ (",
        "crown (",
        "images/s forward",
        "certificate seconds",
    ):
        assert words in out
    assert not Path("runs").exists()


def test_training(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "-O", "pgd", "-t", "Linf@0.05", "-e", "2", "-b", "50", "--n", "200", "--validation", "50", "--set", "steps=3",
               "--evaluate-n", "8", "-q"]  # fmt: skip
    expected = preview(command, capsys)
    assert (expected["steps"], expected["images"], expected["state"]) == (6, 300, "new")
    assert expected["evaluation_seconds"] > 0
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passes"] == expected["training_passes"]
    assert preview(command, capsys)["state"].startswith("finished")


def test_bad_orders_are_refused_as_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("other").mkdir()
    Path("other/file").write_text("mine")
    for command, words in (
        (["attack", "-t", "W1-Linf@x"], "is not a number"),
        (["attack", "-o", "other", "-n", "4"], "not a run directory"),
        (["train", "-O", "trades"], "needs a threat"),
        (["certify", "--loss", "ce"], "--loss goes without"),
    ):
        assert run([*command, "--dry-run"]) == 2
        assert words in capsys.readouterr().err
