"""Config files: they fill in options, lose against the command line, refuse what they do not know, repeat a run."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from wassertight.cli.main import run

FAST = ["-m", "digits-mlp-robust", "-n", "6", "--set", "passes=30"]


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_saved_file_repeats_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    save = ["--save-config", "run.toml"]
    assert run(["attack", *FAST, "-t", "W1-Linf@0.02", "-t", "Linf@1/20", "--seed", "3", *save, "-q", "--json"]) == 0
    first = capsys.readouterr().out
    content = tomllib.loads(Path("run.toml").read_text())
    assert content["command"] == "attack"
    assert (content["threat"], content["seed"], content["set"]) == (["W1-Linf@0.02", "Linf@1/20"], 3, ["passes=30"])
    assert not {"json", "quiet", "config", "save-config", "dry-run", "run-dir"} & set(content)
    assert run(["attack", "--config", "run.toml", "--json", "-q"]) == 0
    assert capsys.readouterr().out == first
    assert len(list(Path("runs").iterdir())) == 1
    assert run(["attack", "--config", "run.toml", *save, "-q"]) == 0  # the same content: the same command resumes
    assert run(["attack", "--config", "run.toml", "--seed", "4", *save, "-q"]) == 2
    assert "holds something else" in capsys.readouterr().err


def test_the_command_line_wins(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text('n = 4\nthreat = "W1-Linf@0.02"\nset = "passes=30"\nquiet = true\nmodel = "digits-mlp"\n')
    assert run(["attack", "--config", "a.toml", "--json"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert (record["n"], record["model"], [r["threat"] for r in record["results"]]) == (
        4,
        "digits-mlp",
        ["W1-Linf@0.02"],
    )
    assert captured.err == ""
    assert run(["attack", "-t", "W2-Linf@0.01", "-n", "5", "--config", "a.toml", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["n"], [r["threat"] for r in record["results"]]) == (5, ["W2-Linf@0.01"])


def test_training_saves_what_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "-O",
        "pgd",
        "-t",
        "Linf@0.05",
        "-e",
        "1",
        "-b",
        "50",
        "--n",
        "100",
        "--with",
        "optimiser=adam",
        "--no-evaluate",
    ]
    assert run(["train", *flags, "--set", "steps=2", "--save-config", "t.toml", "-q"]) == 0
    capsys.readouterr()
    assert tomllib.loads(Path("t.toml").read_text())["evaluate"] is False
    assert run(["train", "--config", "t.toml", "-q", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["end"] is None
    assert len(list(Path("runs").iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sed = 3", "has no option 'sed'; did you mean 'seed'"),
        ("n = [1, 2]", "'n' takes one value"),
        ("n = 1.5", "--n"),
        ('population = "maybe"', "--population"),
        ('command = "attack"', "is of the command 'attack', this is 'evaluate'"),
        ("n = ", "is not a readable config file"),
        ("config = 'other.toml'", "has no option 'config'"),
        (None, "no such file"),
    ],
)
def test_what_it_refuses(content: str | None, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        Path("bad.toml").write_text(content)
    assert run(["evaluate", "--config", "bad.toml"]) == 2
    assert words in capsys.readouterr().err
    assert not Path("runs").exists()
