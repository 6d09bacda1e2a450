"""`doctor`, shell completion, and --quiet: what makes the command line comfortable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wassertight.cli import completing
from wassertight.cli.main import run


def test_doctor_measures_and_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "-o", str(tmp_path / "new"), "-m", "digits-mlp", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["packages"]["torch"]
    assert found["optional"]["scikit-learn"]["version"]
    assert found["devices"][0]["device"] == "cpu"
    assert set(found["speed"]) == {"digits-cnn-robust", "digits-mlp"}
    assert all(one["forward"] > one["forward_backward"] > 0 for one in found["speed"].values())
    assert found["run_dir"]["writable"] is True
    assert not (tmp_path / "new").exists()
    assert run(["doctor", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for words in ("Images a second", "pip install tensorboard", "writable", "OMP_NUM_THREADS"):
        assert words in out


def test_doctor_ends_with_two_where_something_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["doctor", "-m", "digits-ml", "-o", "/proc/none", "-q"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "is not writable" in captured.err
    assert "did you mean 'digits-mlp'" in captured.err
    monkeypatch.setattr("wassertight.cli.doctor._NEEDED", ("torch", "no-such-package"))
    assert run(["doctor", "-o", str(tmp_path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["problems"] == [
        "no-such-package is missing: pip install no-such-package"
    ]


def names(found: list[tuple[str, str]]) -> list[str]:
    return [name for name, _ in found]


def test_names_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wassertight.models import list_models

    monkeypatch.chdir(tmp_path)
    for name in ("test.npz", "net.json", "other.txt"):
        Path(name).touch()
    Path("nets").mkdir()
    assert names(completing.models("")) == list(list_models())
    assert names(completing.models("ne")) == ["nets/", "net.json"]
    assert names(completing.data("t")) == ["test.npz"]
    assert names(completing.data("./t")) == ["./test.npz"]
    assert "mnist-cnn" in names(completing.architectures("mn"))
    assert names(completing.attacks("a3-wda-")) == ["a3-wda-reference"]
    assert names(completing.certificates("no")) == ["noisy-votes", "none"]
    assert names(completing.objectives("trades+a")) == ["trades+awp"]
    assert "trades" in names(completing.objectives("tr"))
    assert names(completing.presets("s")) == ["strong"]
    assert names(completing.kinds("ob")) == ["objectives"]
    assert "W1-Linf@8/255" in names(completing.threats("W1-L"))
    assert "cpu" in names(completing.devices("c"))


def test_the_shell_is_answered_without_loading_torch() -> None:
    environment = {**os.environ, "_WASSERTIGHT_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    code = "import sys, wassertight.cli.main as m\ntry: m.main()\nfinally: assert 'torch' not in sys.modules"
    for words, expected in (
        ("attack -m digits-mlp-", "digits-mlp-robust"),
        ("attack -a fa", "fab"),
        ("train -O udr-t", "udr-trades"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**environment, "COMP_WORDS": f"wassertight {words}"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert expected in done.stdout.split()


def test_completion_can_be_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # The shell that started the tests decides otherwise, and under CI there may be none.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert run(["--show-completion", "bash"]) == 0
    assert "_WASSERTIGHT_COMPLETE=complete_bash" in capsys.readouterr().out


def test_quiet_studies_say_nothing_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lipschitz", "-m", "digits-mlp", "-n", "4", "--norm", "Linf", "--exact", "--seconds", "0.5", "-q"]) == 0
    assert capsys.readouterr().err == ""
