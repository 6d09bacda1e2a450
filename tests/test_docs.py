"""README and docs say what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_method_tables_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("method_table", ROOT / "tools" / "method_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("README.md", "docs/methods.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert module.updated(text) == text, f"{name}: run tools/method_table.py"


@pytest.mark.parametrize("name", ["README.md", "docs/start.md", "docs/training.md", "docs/estimator.md"])
def test_python_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All python blocks of a page, in order, in one namespace; fewer samples so that they take seconds."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    code = "\n".join(blocks).replace("n=100", "n=8").replace("n=200", "n=8")
    exec(compile(code, name, "exec"), {})
