"""README and docs say what the code does."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from tools_loading import ROOT, tool
from wassertight.cli.main import app, run


def test_method_tables_are_up_to_date() -> None:
    for name in ("README.md", "docs/methods.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        fresh = tool("method_table").updated(text, linked=name == "docs/methods.md")
        assert fresh == text, f"{name}: run tools/method_table.py"


@pytest.mark.parametrize("name", ["README.md", "docs/start.md", "docs/training.md", "docs/estimator.md"])
def test_python_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All python blocks of a page, in order, in one namespace; fewer samples so that they take seconds."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    code = "\n".join(blocks).replace("n=100", "n=8").replace("n=200", "n=8")
    exec(compile(code, name, "exec"), {})


def test_five_minutes_on_ones_own_model_are_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two files of the start page, written down as printed, and its own command on ten samples."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    for name, content in re.findall(r'```python title="(.*?)"\n(.*?)```', text, re.DOTALL):
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    runpy.run_path("make_files.py", run_name="__main__")
    (command,) = re.findall(r"^\$ wassertight (evaluate -m my_model.*)$", text, re.MULTILINE)
    assert run([*shlex.split(command.replace("--n 100", "--n 10")), "--quiet"]) == 0
    assert len(list(tmp_path.glob("runs/*/report.html"))) == 1


def commands() -> list[str]:
    """Every command line of the wassertight program in README and docs."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = (
        re.findall(r"^\$ (?:.*; do )?wassertight (.*?)(?:\s+#.*|; done)?$", page.read_text("utf-8"), re.MULTILINE)
        for page in pages
    )
    return sorted({line.split(" | ")[0].replace("$seed", "0") for lines in found for line in lines if line[0] != "-"})


def test_every_command_in_the_docs_has_real_options() -> None:
    """Subcommands and options exist; what they compute is tested elsewhere."""
    known: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    lines = commands()
    assert len(lines) > 100
    for line in lines:
        name, *words = shlex.split(re.sub(r" --config \S+", "", line))  # the file is the reader's
        try:
            known[name].make_context(name, words)
        except Exception as error:
            raise AssertionError(f"wassertight {line}: {error}") from error
