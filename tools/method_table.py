"""Writes the method table into README.md and docs/methods.md, there with links, from the methods' own metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from method_pages import page_links

from wassertight.evaluation import attack_methods, certificate_methods, foreign_methods, study_methods
from wassertight.geometry import norm_name
from wassertight.training import objective_entries

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- methods: made by tools/method_table.py -->\n", "<!-- end of methods -->"


def table(linked: bool) -> str:
    """The Markdown table, its names linked to the methods' pages where asked."""
    pages = page_links() if linked else {}
    rows = ["| method | kind | ground norms | orders | source (arXiv) | what it does |", "|---|---|---|---|---|---|"]
    for method in (*attack_methods(), *foreign_methods(), *certificate_methods(), *study_methods()):
        norms = " ".join(norm_name(r) for r in method.norms)
        rows.append(
            f"| {_name(method, method.name, pages)} | {method.kind} | {norms} | {method.orders} | {method.reference} | {method.description} |"
        )
    for entry in objective_entries():
        if entry.name.startswith("armor-") and not entry.name.startswith("armor-kl-"):
            continue  # one row for the three divergences
        name = entry.name.replace("armor-kl", "armor-{kl,alpha,renyi}")
        text = entry.description.replace(" (KL)", "")
        norms = " ".join(norm_name(r) for r in entry.norms)
        rows.append(
            f"| {_name(entry, name, pages)} | {entry.kind} | {norms} | {entry.orders} | {entry.reference} | {text} |"
        )
    return "\n".join(rows) + "\n"


def _name(entry: Any, shown: str, pages: dict[str, str]) -> str:
    path = pages.get(f"{entry.kind} {entry.name}")
    return f"[`{shown}`]({path})" if path else f"`{shown}`"


def updated(text: str, *, linked: bool) -> str:
    """The text with the table between its marks renewed."""
    head, rest = text.split(BEGIN)
    return head + BEGIN + table(linked) + END + rest.split(END)[1]


def main() -> None:
    """Renew both files."""
    for path in (ROOT / "README.md", ROOT / "docs" / "methods.md"):
        text = path.read_text(encoding="utf-8")
        path.write_text(updated(text, linked=path.name == "methods.md"), encoding="utf-8")


if __name__ == "__main__":
    main()
