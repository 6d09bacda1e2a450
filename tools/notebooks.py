"""Executes examples/*.ipynb in place with plain Python, outputs stored, and writes them as pages into docs/notebooks/."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

ROOT = Path(__file__).parents[1]
EXAMPLES, PAGES, ASSETS = ROOT / "examples", ROOT / "docs" / "notebooks", ROOT / "docs" / "assets"


def source(cell: dict[str, Any]) -> str:
    """The text of a cell."""
    return "".join(cell["source"])


def run_cell(code: str, namespace: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What the cell prints, the value of its last expression and its figures, as notebook outputs."""
    from matplotlib import pyplot as plt

    tree, printed, value = ast.parse(code), io.StringIO(), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {count}", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None and not code.rstrip().endswith(";"):
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        outputs.append({"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data})
    for number in plt.get_fignums():
        picture = io.BytesIO()
        plt.figure(number).savefig(picture, format="png", dpi=90, bbox_inches="tight", metadata={"Software": None})
        data = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": ["<Figure>"]}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
    plt.close("all")
    return outputs


def execute(notebook: dict[str, Any]) -> None:
    """Run all code cells in order, in one namespace, and store what they show."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for count, cell in enumerate((one for one in notebook["cells"] if one["cell_type"] == "code"), 1):
        cell["outputs"] = run_cell(source(cell), namespace, count)
        cell["execution_count"] = count


def page(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """The notebook in Markdown, and its pictures by file name."""
    parts, pictures = [], {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(source(cell))
            continue
        parts.append(f"```python\n{source(cell).removesuffix(';')}\n```")
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                name = f"notebook-{stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(output["data"]["image/png"])
                parts.append(f"![Output of the cell above](../assets/{name})")
            else:
                text = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
                parts.append("```text\n" + "".join(text).rstrip() + "\n```")
    title = re.match(r"# .*\n?", parts[0])
    lead = f"*Made from `examples/{stem}.ipynb`, executed in the tests; open that file to change and run it.*"
    head = title[0].strip() if title else f"# {stem}"
    parts[0] = parts[0][title.end() :].strip() if title else parts[0]
    return "\n\n".join(part for part in (head, lead, *parts) if part) + "\n", pictures


def main() -> None:
    """`python tools/notebooks.py [--pages]`: execute all notebooks (or leave them as stored) and write their pages."""
    mpl.use("Agg")
    PAGES.mkdir(exist_ok=True)
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if "--pages" not in sys.argv:
            execute(notebook)
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        text, pictures = page(notebook, path.stem)
        (PAGES / f"{path.stem}.md").write_text(text, encoding="utf-8")
        for name, content in pictures.items():
            (ASSETS / name).write_bytes(content)
        print(path.name, path.stat().st_size, {name: len(content) for name, content in pictures.items()})


if __name__ == "__main__":
    main()
