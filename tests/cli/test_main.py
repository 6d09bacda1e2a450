"""The command line: the JSON contract, exit codes, teaching errors, help, resuming after an interrupt."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wassertight.cli.main import run
from wassertight.records import Record

FAST = ["--n", "12", "--model", "digits-mlp-robust", "--set", "passes=40", "--quiet"]
CONTRACT = ["schema", "command", "model", "data", "n", "seed", "versions", "results", "distances"]


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_json(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    found: dict[str, Any] = json.loads(captured.out)
    return found


def write_npz(path: Path, **changes: Any) -> str:
    rng = np.random.default_rng(0)
    arrays = {"x_test": rng.random((6, 4)).astype(np.float32), "y_test": np.zeros(6, dtype=np.int64), **changes}
    np.savez(path, **arrays)
    return str(path)


def write_module(name: str, body: str) -> None:
    Path(f"{name}.py").write_text(f"import math, torch\nfrom torch import nn\n{body}\n")


def test_evaluate_prints_exactly_one_object_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    record = run_json(["evaluate", *FAST, "-t", "W1-Linf@8/255", "-t", "Linf@0.05"], capsys)
    assert set(CONTRACT) <= set(record)
    assert list(record)[: len(CONTRACT)] == CONTRACT
    first, second = record["results"]
    assert {"threat", "p", "r", "radius", "clean", "attacked", "certified", "passes", "seconds"} <= set(first)
    assert (first["threat"], first["p"], first["r"]) == ("W1-Linf@0.0314", 1, "inf")
    assert second["p"] == "inf"
    assert first["certified"] <= first["attacked"] <= first["clean"]
    assert record["audit"]["ok"] is True
    assert record["claim"] is None
    assert record["flags"] == []
    (directory,) = Path("runs").iterdir()
    assert Record.read(directory).n == 12
    assert {path.name for path in directory.iterdir()} >= {"arrays.safetensors", "report.html", "config.json"}


def test_halves_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    attacked = run_json(["attack", *FAST, "-t", "W1-Linf@0.02"], capsys)
    assert attacked["results"][0]["certified"] is None
    assert attacked["results"][0]["seconds"]["certificate"] is None
    assert attacked["distances"]["certified"] is None
    certify = ["certify", "--n", "4", "-m", "digits-mlp-robust", "--method", "interval", "-q", "-t", "W1-Linf@0.02"]
    certified = run_json(certify, capsys)
    assert certified["results"][0]["attacked"] is None
    assert certified["command"] == "certify"


CERTIFY = ["certify", "--n", "6", "-m", "digits-mlp-robust", "--method", "interval", "-q", "-t", "W1-Linf@0.01,0.02"]


def test_a_claim_around_the_true_law_with_movable_labels(capsys: pytest.CaptureFixture[str]) -> None:
    record = run_json([*CERTIFY, "-t", "Linf@0.01", "--population", "--label-cost", "1/50"], capsys)
    claim = record["claim"]
    assert (claim["population"], claim["confidence"], claim["label_cost"]) == (True, 0.95, 0.02)
    assert [row["threat"] for row in claim["results"]] == [row["threat"] for row in record["results"]]
    for row, result in zip(claim["results"], record["results"], strict=True):
        assert row["attacked"] is None
        assert 0 <= row["certified"] <= max(0, result["certified"] - claim["margin"] + 1e-12)
    assert any("independent draws" in text for text in claim["assumptions"])
    (directory,) = Path("runs").iterdir()
    assert json.loads((directory / "record.json").read_text()) == record


def test_an_interval_needs_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    record = run_json(["evaluate", *FAST, "-t", "W1-Linf@0.02", "--population", "--confidence", "0.9"], capsys)
    margin = (math.log(2 / 0.1) / 24) ** 0.5
    (result,), (row,) = record["results"], record["claim"]["results"]
    assert record["claim"]["margin"] == pytest.approx(margin)
    assert row["certified"] == pytest.approx(max(0, result["certified"] - margin))
    assert row["attacked"] == pytest.approx(min(1, result["attacked"] + margin))
    bracket = next(one for one in record["brackets"] if one["p"] == 1)
    assert set(bracket) == {
        "p",
        "r",
        "tightness",
        "widest",
        "widest_at",
        "mean_width",
        "closes_at",
        "closed_to",
        "closed",
    }
    assert 0 < bracket["tightness"] <= 1
    assert bracket["closed"][-1][1] == "inf"


def test_what_a_bound_rests_on_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*CERTIFY, "--population"]) == 0
    out = capsys.readouterr().out
    assert "Around the true law" in out
    assert "What is certified rests on" in out
    assert "independent draws" in out


def test_table_and_paths_then_report_from_the_record(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", *FAST, "-t", "W1-Linf@0.02", "--run-dir", "mine"]
    assert run(arguments) == 0
    out = capsys.readouterr().out
    for text in ("W1-Linf@0.02", "Width of the bracket", "tightness", "What is certified rests on"):
        assert text in out
    for name in ("record.json", "bracket.pdf", "bracket.svg", "bracket.png", "report.html"):
        assert str(Path("mine") / name) in out
        assert (Path("mine") / name).stat().st_size > 0
    record = json.loads(Path("mine/record.json").read_text())
    Path("mine/report.html").unlink()
    assert run_json(["report", "mine"], capsys) == record
    assert Path("mine/report.html").exists()


def test_list_loads_no_torch_and_knows_everything() -> None:
    code = (
        "import sys; from wassertight.cli.main import run; assert run(['list', 'methods', '--json']) == 0; "
        "assert run(['list', 'threats']) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "wda++" in done.stdout


def test_list_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("digits-cnn-robust", "wda++", "crown", "W1-Linf", "digits"))


@pytest.mark.parametrize("command", ["evaluate", "attack", "certify", "report", "list"])
def test_help_teaches_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"wassertight {command}" in out
    assert "Examples" in out
    assert "Exit codes" in out


def test_certify_help_says_what_is_proved(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["certify", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in ("What is proved", "How to read it", "does not say", "--population", "--label-cost", "0.01,0.02,0.05"):
        assert text in out


BROKEN = {
    "nan": "lambda z: z[:, :2] * math.nan",
    "one": "lambda z: z[:, :1]",
    "rows": "lambda z: z[1:, :2]",
}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["evaluate", "-m", "digit-cnn"], "did you mean 'digits-cnn'"),
        (["evaluate", "-d", "digitz"], "did you mean 'digits'"),
        (["evaluate", "-t", "W1Linf@1"], "did you mean"),
        (["evaluate", "-t", "W1-Linf@-0.1"], ">= 0"),
        (["evaluate", "-t", "W1-Linf@x"], "is not a number"),
        (["evaluate", "--attack", "wda+++"], "did you mean 'wda++'"),
        (["evaluate", "--certificate", "crow"], "did you mean 'crown'"),
        (["evaluate", "--set", "passes"], "name=value"),
        (["evaluate", "--bounds", "1,0"], "LOW < HIGH"),
        (["evaluate", "--batch-size", "0"], "at least 1"),
        (["evaluate", "--n", "-3"], "at least 1"),
        (["evaluate", "-d", "missing.npz"], "no such file"),
        (["evaluate", "-m", "missing.module:thing"], "cannot import"),
        (["evaluate", "--nonsense"], "No such option"),
        (["evaluat"], "No such command"),
        (["report", "nowhere"], "no record"),
        (["certify", "--confidence", "0.9"], "goes with --population"),
        (["certify", "--population", "--confidence", "1"], "[0.5, 1)"),
        (["evaluate", "--population", "--confidence", "nan"], "[0.5, 1)"),
        (["certify", "--label-cost", "0"], "must be > 0"),
        (["certify", "--label-cost", "1/0"], "a fraction such as 16/255"),
        (["certify", "--label-cost", "nan"], "must be > 0"),
        (["list", "method"], "did you mean 'methods'"),
    ],
)
def test_bad_usage_gives_two_and_one_teaching_line(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"y_test": np.full(6, 7)}, "labels must be in 0..3"),
        ({"y_test": np.zeros(6)}, "integer"),
        ({"x_test": np.full((6, 4), np.nan, dtype=np.float32)}, "NaN"),
        ({"x_test": np.full((6, 4), 1.01, dtype=np.float32)}, "box"),
        ({"x_test": np.zeros((0, 4), dtype=np.float32), "y_test": np.zeros(0, dtype=int)}, "at least one"),
    ],
)
def test_bad_data_gives_two(changes: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_module("flat_net", "build = lambda: nn.Sequential(nn.Linear(4, 4))")
    data = write_npz(Path("bad.npz"), **changes)
    assert run(["evaluate", "-m", "flat_net:build", "-d", data, "-t", "W1-L2@0.1", "-q"]) == 2
    assert text in capsys.readouterr().err


def test_truncated_file_gives_two() -> None:
    data = Path(write_npz(Path("cut.npz")))
    data.write_bytes(data.read_bytes()[:200])
    command = [sys.executable, "-m", "wassertight", "evaluate", "-d", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "truncated" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "text"), [("nan", "NaN"), ("one", "one logit"), ("rows", "rows for")])
def test_bad_model_gives_two(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_module(f"broken_{name}", f"build = lambda: {BROKEN[name]}")
    data = write_npz(Path("good.npz"))
    assert run(["attack", "-m", f"broken_{name}:build", "-d", data, "-t", "W1-L2@0.1", "-q"]) == 2
    assert text in capsys.readouterr().err


def test_nearly_boxed_pixels_are_clipped_with_a_notice(capsys: pytest.CaptureFixture[str]) -> None:
    write_module("boxed_net", "build = lambda: nn.Sequential(nn.Linear(4, 2))")
    x = np.full((6, 4), 0.5, dtype=np.float32)
    x[0, 0] = 1 + 5e-7
    data = write_npz(Path("edge.npz"), x_test=x)
    assert run(["attack", "-m", "boxed_net:build", "-d", data, "-t", "W1-L2@0.1", "--json"]) == 0
    captured = capsys.readouterr()
    assert "were clipped" in captured.err
    json.loads(captured.out)


def test_unsupported_layer_gives_two_and_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    write_module(
        "glu_net", "torch.manual_seed(0)\nbuild = lambda: nn.Sequential(nn.Linear(4, 8), nn.GLU(), nn.Linear(4, 2))"
    )
    arguments = ["evaluate", "-m", "glu_net:build", "-d", write_npz(Path("good.npz")), "-t", "W1-L2@0.1", "-q"]
    assert run(arguments) == 2
    assert "GLU" in capsys.readouterr().err
    record = run_json([*arguments, "--certificate", "none"], capsys)
    assert record["results"][0]["certified"] is None
    assert record["brackets"] == []


def test_other_configuration_gives_two(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["attack", *FAST, "-t", "W1-Linf@0.02", "--run-dir", "mine"]
    assert run(arguments) == 0
    assert run([*arguments, "--seed", "1"]) == 2
    assert "seed (0 there, 1 now)" in capsys.readouterr().err


def test_failed_audit_gives_three(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["attack", *FAST, "-t", "W1-Linf@0.02", "--run-dir", "mine"]) == 0
    file = Path("mine/record.json")
    content = json.loads(file.read_text())
    content["audit"] = {"ok": False, "violations": 1, "details": ["made up"]}
    file.write_text(json.dumps(content))
    assert run(["report", "mine"]) == 3


def test_interrupt_gives_130_and_the_same_command_resumes(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "wassertight", "attack", "-m", "digits-mlp-robust", "--n", "60", "--batch-size", "4",
        "-t", "W1-Linf@0.02", "-t", "W1-L1@0.5", "--run-dir", "mine", "-q", "--json", "--set", "passes=60",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(Path("mine/units").glob("attack*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the run was over before the interrupt arrived")
    assert process.returncode == 130, err
    assert out == ""
    assert "same command again" in err
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["n"] == 60
