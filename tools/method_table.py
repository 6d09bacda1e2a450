"""Writes the method table into README.md and docs/methods.md from the methods' own metadata."""

from __future__ import annotations

from pathlib import Path

from wassertight.evaluation import attack_methods, certificate_methods, foreign_methods, study_methods
from wassertight.geometry import norm_name
from wassertight.training import objective_entries

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- methods: made by tools/method_table.py -->\n", "<!-- end of methods -->"


def table() -> str:
    """The Markdown table."""
    rows = ["| method | kind | ground norms | orders | source (arXiv) | what it does |", "|---|---|---|---|---|---|"]
    for method in (*attack_methods(), *foreign_methods(), *certificate_methods(), *study_methods()):
        norms = " ".join(norm_name(r) for r in method.norms)
        rows.append(
            f"| `{method.name}` | {method.kind} | {norms} | {method.orders} | {method.reference} | {method.description} |"
        )
    for entry in objective_entries():
        if entry.name.startswith("armor-") and not entry.name.startswith("armor-kl-"):
            continue  # one row for the three divergences
        name = entry.name.replace("armor-kl", "armor-{kl,alpha,renyi}")
        text = entry.description.replace(" (KL)", "")
        norms = " ".join(norm_name(r) for r in entry.norms)
        rows.append(f"| `{name}` | {entry.kind} | {norms} | {entry.orders} | {entry.reference} | {text} |")
    return "\n".join(rows) + "\n"


def updated(text: str) -> str:
    """The text with the table between its marks renewed."""
    head, rest = text.split(BEGIN)
    return head + BEGIN + table() + END + rest.split(END)[1]


def main() -> None:
    """Renew both files."""
    for path in (ROOT / "README.md", ROOT / "docs" / "methods.md"):
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
