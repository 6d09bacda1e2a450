"""The command line on models and data of other programs: runs resume, records name what was given, errors teach."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import wassertight as wt
from wassertight.cli.main import run


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_pictures(folder: Path, n: int = 4) -> None:
    from PIL import Image

    data = wt.load_data("digits", n=n)
    for i, (x, y) in enumerate(zip(data.x, data.y, strict=True)):
        (folder / str(int(y))).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(x[0].numpy() * 255).astype(np.uint8)).save(folder / str(int(y)) / f"{i}.png")


def test_an_onnx_network_on_a_folder_of_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx", reason="the package onnx is not installed (pip install onnx)")
    net = wt.load_model("digits-mlp-robust").model
    with pytest.warns():  # the exporter that needs no further package says that it is old
        torch.onnx.export(
            net, (torch.rand(1, 1, 8, 8),), "digits.onnx", dynamo=False, dynamic_axes={"x": {0: "n"}}, input_names=["x"]
        )  # type: ignore[arg-type]
    write_pictures(Path("pictures"))
    command = [
        "evaluate",
        "-m",
        "onnx:digits.onnx",
        "-d",
        "pictures/",
        "-t",
        "W1-Linf@0.02",
        "--set",
        "passes=40",
        "-q",
        "--json",
    ]
    assert run(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["model"], first["data"], first["n"]) == ("onnx:digits.onnx", "pictures/", 4)
    assert first["results"][0]["certified"] is not None
    (directory,) = Path("runs").iterdir()
    assert directory.name.startswith("onnx_digits-pictures-")
    stamps = {path: path.stat().st_mtime_ns for path in directory.rglob("*000*")}
    assert stamps
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["results"] == first["results"]
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*000*")} == stamps  # nothing was done again


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["-m", "onnx:nowhere.onnx"], "no such file: nowhere.onnx"), (["-d", "nowhere/"], "no such folder"),
        (["-m", "digits-cn"], "did you mean 'digits-cnn'"), (["-d", "digit"], "path/to/folder/"),
    ],
)  # fmt: skip
def test_errors_are_one_line(arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx", reason="the package onnx is not installed (pip install onnx)")
    assert run(["evaluate", *arguments]) == 2
    assert hint in capsys.readouterr().err


def test_lists_and_help_mention_the_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "models", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)["models"]]
    assert {"onnx:path/to/network.onnx", "hf:organisation/name", "digits-cnn"} <= set(names)
    assert run(["list", "data", "--json"]) == 0
    assert "path/to/folder/" in capsys.readouterr().out
