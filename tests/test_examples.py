"""The example scripts and notebooks run, in seconds, and what they print is so."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from tools_loading import ROOT, tool

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def printed(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def numbers(line: str) -> list[float]:
    return [float(one) for one in re.findall(r"(?<![\w@.])\d+(?:\.\d+)?", line)]


def brackets(text: str) -> list[list[float]]:
    """Certified, attacked and clean of every line of a printed report."""
    return [[float(one) for one in row] for row in re.findall(r"([\d.]+)%\s+([\d.]+)%\s+([\d.]+)%", text)]


def test_bracket_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("bracket_a_network", capsys)
    rows = brackets(text)
    assert len(rows) == 3
    assert all(low <= high <= clean for low, high, clean in rows)
    assert rows[0][1] >= rows[1][1] >= rows[2][1], "W_inf, W_2, W_1: larger and larger balls"
    assert "audit: passed" in text


def test_own_model_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("own_model_and_data", capsys)
    rows = brackets(text)
    assert rows[:2] == rows[2:], "a stored run gives the same numbers"
    assert all(low <= high <= clean for low, high, clean in rows)
    assert "(50, 1, 8, 8)" in text
    assert float(re.findall(r": ([\d.]+) s$", text, re.MULTILINE)[1]) < 2, "nothing is computed again"


def test_curves_for_every_order(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("curves_for_every_order", capsys)
    table = [numbers(line) for line in text.splitlines() if " .. " in line and line[0].isdigit()]
    assert len(table) == 6
    for _, *cells in table:
        assert all(low <= high for low, high in zip(cells[::2], cells[1::2], strict=True))
        assert cells[::2] == sorted(cells[::2]), "more order, smaller ball, more accuracy"
    assert "tightness" in text


def test_train_against_a_threat(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("train_against_a_threat", capsys)
    worst = {row[0]: float(row[2]) for row in re.findall(r"^(\w+) +([\d.]+)% +([\d.]+)% at most$", text, re.MULTILINE)}
    assert worst["pgd"] > worst["standard"] + 5
    assert worst["knapsack"] > worst["standard"] + 5


def test_reweighting(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("reweighting", capsys)
    rows = {line[:22].strip(): numbers(line[22:]) for line in text.splitlines()[1:5]}
    assert rows["weights change"][-1] < rows["nothing changes"][-1]
    assert rows["both"][-1] < min(rows["weights change"][-1], rows["samples move"][-1])
    plain, worst = map(float, re.findall(r"loss ([\d.]+), worst mean under 0.1 nats ([\d.]+)", text)[0])
    assert worst > plain


def test_worst_case_loss(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("worst_case_loss", capsys)
    rows = [numbers(line) for line in text.splitlines() if line.startswith(("standard", "trades"))]
    assert len(rows) == 2
    assert all(clean <= reached <= proved for clean, reached, proved in rows)


def test_every_example_is_tested_and_teaches() -> None:
    assert {f"test_{path.stem}" for path in SCRIPTS} <= set(globals())
    for path in SCRIPTS:
        head = path.read_text(encoding="utf-8").split('"""')[1]
        assert f"python examples/{path.name}" in head
        assert len(head.splitlines()) >= 5


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All code cells in order, in one namespace; what is stored with them was made by the same code."""
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for index, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile(source(cell), f"{path.name}[{index}]", "exec"), namespace)
            assert cell["outputs"] or "subplots" not in source(cell), f"cell {index} is stored without its picture"


def test_the_notebooks_pages_are_up_to_date() -> None:
    notebooks = tool("notebooks")
    for path in NOTEBOOKS:
        text, pictures = notebooks.page(json.loads(path.read_text(encoding="utf-8")), path.stem)
        assert (notebooks.PAGES / f"{path.stem}.md").read_text("utf-8") == text, "run tools/notebooks.py --pages"
        for name, content in pictures.items():
            assert (notebooks.ASSETS / name).read_bytes() == content
            assert len(content) < 300_000
