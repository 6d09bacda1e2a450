"""README and docs say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools_loading import ROOT, tool


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
