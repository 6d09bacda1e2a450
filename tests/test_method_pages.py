"""The methods' pages say what the code does, and what stands on them runs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tools_loading import ROOT, tool
from wassertight.threats import threat
from wassertight.training import make_objective

PAGES = tool("method_pages")
EXAMPLES = tool("method_examples")
ALL = PAGES.pages()
SLOW = {
    "a3-wda", "apgd-bisect", "auto", "autoattack", "bab", "fab", "frank-wolfe-distance", "input-split", "loss-bound", "pdpgd",
    "sinkhorn-pgd", "square",
}  # fmt: skip
MARKED = [pytest.param(page, id=page.path, marks=[pytest.mark.slow] if page.name in SLOW else []) for page in ALL]


def test_pages_are_up_to_date() -> None:
    wanted = {page.path: PAGES.text(page) for page in ALL}
    found = {path.relative_to(PAGES.FOLDER).as_posix(): path.read_text("utf-8") for path in PAGES.FOLDER.rglob("*.md")}
    assert found == wanted, "run tools/method_pages.py"
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert PAGES.with_navigation(config) == config, "run tools/method_pages.py"


def test_every_formula_belongs_to_a_page() -> None:
    given = {(kind, name) for kind, entries in EXAMPLES.FORMULAS.items() for name in entries}
    assert given == {(page.kind, page.name) for page in ALL}


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.path)
def test_pages_are_complete(page: Any) -> None:
    content = PAGES.text(page)
    parts = re.findall(r"^## (.*)$", content, flags=re.MULTILINE)
    assert parts[0] == "Formula"
    wide = [
        line for line in content.partition("```text")[2].partition("```")[0].splitlines() if len(line) > PAGES.WIDTH
    ]
    assert not wide, f"formulas.toml: {wide}"
    assert parts[-2:] == ["On the command line", "From Python"]
    for name, _ in PAGES._parameters(page.target):
        row = re.search(rf"^\| `{name}` \| (.*) \| (.*) \|$", content, flags=re.MULTILINE)
        assert row is not None
        assert row[2].strip(), f"{page.path}: the docstring does not say what {name} means"
    module = __import__(page.target.__module__, fromlist=["x"]).__doc__ or ""
    if "Differs from" in (page.target.__doc__ or "") + module:
        assert "## Where it departs from the source" in content


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.path)
def test_the_example_threat_is_taken(page: Any) -> None:
    first = page.entries[0]
    if page.kind in ("attack", "certificate"):
        first.check(threat(EXAMPLES.sample_threat(first)))
    elif page.kind == "objective" and first.base != "any":
        make_objective(first.name, threat(EXAMPLES.sample_threat(first)))


@pytest.mark.parametrize("page", MARKED)
def test_the_python_block_runs(page: Any) -> None:
    code = EXAMPLES.python(page).replace("n=16", "n=4").replace("n=128", "n=16")
    exec(compile(code, page.path, "exec"), {})


def test_departures_are_told_apart() -> None:
    assert PAGES._items("1. a: 2.5 of it; 2. b\n  goes on; 3. c. End.") == ["a: 2.5 of it", "b goes on", "c. End."]
