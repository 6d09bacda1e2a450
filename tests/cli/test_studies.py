"""The commands `loss`, `lipschitz` and `supports`, `certify --loss`, and the options --preset and --draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wassertight.cli.main import run


def test_loss_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["loss", "-n", "20", "-t", "W2-Linf@0.02,0.05", "--loss", "margin", "--grid", "6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first, second = found["results"]
    assert found["command"] == "loss"
    assert first["clean"] < first["attacked"] < second["attacked"]
    assert second["atoms"] <= 21
    assert second["spent"] <= second_radius(second["threat"]) * (1 + 1e-9)


def second_radius(threat: str) -> float:
    """The radius in a threat's name."""
    return float(threat.partition("@")[2])


def test_certify_brackets_a_loss(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["certify", "-m", "digits-mlp", "-n", "5", "-t", "W2-Linf@0.01", "--loss", "ce", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert row["loss"] == "cross-entropy"
    assert row["clean"] <= row["attacked"] <= row["certified"] == min(row["rules"].values())
    assert run(["certify", "-m", "digits-mlp", "-n", "5", "-t", "Linf@0.01", "--loss", "margin", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "worst-case expected margin" in shown
    assert "labels do not move" in shown


def test_lipschitz_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lipschitz", "-m", "digits-mlp", "-n", "20", "--norm", "Linf"]) == 0
    assert "product of norms" in capsys.readouterr().out
    arguments = ["lipschitz", "-m", "digits-mlp", "-n", "20", "--norm", "L2", "--exact", "--seconds", "2", "--json"]
    assert run(arguments) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    names = [row["constant"] for row in rows]
    assert names == ["L", "L", "L", "Lip_N"]
    product, jacobian, exact, rise = rows
    assert rise["lower"] <= exact["upper"] <= jacobian["upper"] * (1 + 1e-6)
    assert exact["lower"] <= exact["upper"] <= product["upper"]
    assert exact["units"] > 0


def test_supports_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["supports", "-n", "16", "-t", "W1-Linf@0.05", "--searches", "2"]) == 0
    shown = capsys.readouterr().out
    assert "n + 1 atoms, knapsack" in shown
    assert "17" in shown


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["loss", "--loss", "dlr"], "unbounded"),
        (["supports", "-t", "Linf@0.1"], "finite p"),
        (["certify", "--loss", "redlr"], "not Lipschitz"),
        (["certify", "--loss", "ce", "--population"], "--loss goes without"),
        (["lipschitz", "--norm", "L3"], "--norm takes Linf, L2 or L1"),
        (["attack", "--preset", "slow"], "quick, strong, auto"),
        (["attack", "--preset", "quick", "-a", "fmn"], "preset"),
        (["attack", "--draws", "1"], "at least 2"),
    ],
)
def test_bad_usage(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*arguments, "-n", "8"]) == 2
    assert text in capsys.readouterr().err


def test_preset_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        ["attack", "-n", "8", "-t", "L2@0.5", "--preset", "quick", "--json", "--quiet", "-o", str(tmp_path / "run")]
    )
    assert code == 0
    record = json.loads(capsys.readouterr().out)
    assert record["settings"]["preset"] == "quick"
    assert record["passes"]["forward"] + record["passes"]["backward"] <= 8 * 120
