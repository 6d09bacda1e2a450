"""Writes one page a method into docs/methods/ and the block of mkdocs.yml that lists them, from the methods' own metadata."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from method_examples import GROUPS, Page, console, python

from wassertight.evaluation import attack_methods, certificate_methods, study_methods
from wassertight.geometry import norm_name
from wassertight.training import objective_entries

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "methods"
BEGIN, END = "      # method pages: made by tools/method_pages.py\n", "      # end of method pages\n"
ANSWERS = {
    "attack": "an **upper bound** on the worst-case accuracy: one law that reaches it, returned and audited",
    "certificate": "a **lower bound** on the worst-case accuracy: no law in the ball leaves less",
    "smoothing": "a **lower bound** on the worst-case accuracy of the *smoothed* classifier, with the confidence it states",
    "objective": "nothing is proved: it trains. Bracket the result with `wassertight evaluate`",
}
WIDTH = 98
SECTIONS = re.compile(r"^(Args|Returns|Raises|Attributes):$", re.MULTILINE)


def pages() -> list[Page]:
    """One page an implementation, in the catalogue's order."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for entry in (*attack_methods(), *certificate_methods(), *study_methods(), *objective_entries()):
        groups.setdefault((entry.kind, entry.target), []).append(entry)
    made = []
    for (kind, target), entries in groups.items():
        module, _, name = target.partition(":")
        if kind == "objective":
            module = f"wassertight.training.objectives.{module}"
        made.append(Page(entries=tuple(entries), target=getattr(importlib.import_module(module), name), module=module))
    return made


def page_links() -> dict[str, str]:
    """Path of the page below docs/ for every `kind name`."""
    return {f"{entry.kind} {entry.name}": f"methods/{page.path}" for page in pages() for entry in page.entries}


def text(page: Page) -> str:
    """The page in Markdown."""
    body, departures = _explanation(page)
    parts = [
        "---\nhide: [toc]\n---",
        f"# {page.title}",
        _facts(page),
        "## Formula",
        f"```text\n{_fitting(page.formula['formula'].strip())}\n```",
    ]
    if body:
        parts += ["## How it works", body]
    if departures:
        parts += ["## Where it departs from the source", departures]
    if len(page.entries) > 1 or page.entries[0].preset:
        parts += ["## Names", _names(page)]
    if settings := _settings(page):
        parts += ["## Settings and their defaults", settings]
    parts += ["## On the command line", f"```console\n{console(page)}\n```"]
    parts += ["## From Python", f"```python\n{python(page)}\n```"]
    more = page.formula["more"]
    parts.append(f"Further: [{_heading(more)}](../../{more}.md). All methods: [the table](../../methods.md).")
    return "\n\n".join(parts) + "\n"


def _fitting(formula: str) -> str:
    """Lines wider than the page are broken at their last gap of three spaces that leaves a line that fits."""
    lines = []
    for line in formula.splitlines():
        begin = len(line) - len(line.lstrip())
        while len(line) > WIDTH:
            gaps = [gap for gap in re.finditer(r" {3,}", line) if begin + 6 < gap.start() <= WIDTH]
            if not gaps:
                break
            lines.append(line[: gaps[-1].start()])
            line = " " * (begin + 6) + line[gaps[-1].end() :]
        lines.append(line)
    return "\n".join(lines)


def _facts(page: Page) -> str:
    first = page.entries[0]
    smoothing = first.kind == "certificate" and first.images
    answers = page.formula.get("answers") or ANSWERS["smoothing" if smoothing else page.kind]
    threats = "light that moves: `image-W1@0.1`, `W1-image-W1@0.1`" if getattr(first, "images", False) else ""
    orders = ", ".join(dict.fromkeys(entry.orders for entry in page.entries if entry.name != "shuffled"))
    norms = ", ".join(norm_name(r) for r in first.norms)
    where = page.formula.get("where")
    source = _links(first.reference) + (f", {_links(where)}" if where and where != first.reference else "")
    rows = (
        ("what it does", first.description),
        ("what its number is", answers),
        ("threats", threats or f"ground norms {norms}; {orders}"),
        ("source", source),
        ("in Python", f"`{page.home}.{page.target.__name__}`"),
    )
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows]
    return "\n".join([lines[0], "|---|---|", *lines[1:]])


def _links(reference: str) -> str:
    linked = re.sub(r"\d{4}\.\d{4,5}", lambda found: f"[{found[0]}](https://arxiv.org/abs/{found[0]})", reference)
    return "none: a yardstick" if reference == "-" else linked


def _explanation(page: Page) -> tuple[str, str]:
    """Docstrings of module and class in Markdown, without arguments; and the numbered departures."""
    module = inspect.getdoc(inspect.getmodule(page.target)) or ""
    shared = sum(other.target.__module__ == page.target.__module__ for other in pages()) > 1
    head, _, rest = module.partition("\n\n")
    if "\n" in head:
        head, rest = head.partition("\n")[0], module.partition("\n")[2]
    own = SECTIONS.split(inspect.getdoc(page.target) or "")[0].partition("\n>>> ")[0]
    tail = _after_sections(inspect.getdoc(page.target) or "")
    whole = "\n\n".join(part for part in (rest.strip("\n") if not shared else "", own.strip("\n"), tail) if part)
    whole = re.sub(r"(^|(?<=\s))Reference: .*?(?=\n\n|\Z)", "", whole, flags=re.DOTALL)
    found = re.search(r"(?P<lead>Differs from [^:]*?):\s+(?P<list>1\. .*?)(?=\n\n|\Z)", whole, flags=re.DOTALL)
    if found is None:
        return _prose(whole), ""
    items = _items(found["list"])
    listed = "\n".join(f"{index}. {_prose(item)}" for index, item in enumerate(items, 1))
    return _prose(whole[: found.start()] + whole[found.end() :]), f"{_prose(found['lead'])}:\n\n{listed}"


def _after_sections(doc: str) -> str:
    """Paragraphs behind the arguments that begin at the margin."""
    parts = SECTIONS.split(doc)
    if len(parts) == 1:
        return ""
    rest = [part for part in parts[-1].partition("\n>>> ")[0].split("\n\n") if part[:1] not in (" ", "\n", "")]
    return "\n\n".join(rest)


def _items(listed: str) -> list[str]:
    """Splits "1. a; 2. b" at its running numbers."""
    items, number, rest = [], 2, listed.removeprefix("1. ")
    while (found := re.search(rf"(?<=\s){number}\. ", rest)) is not None:
        items.append(re.sub(r"\s+", " ", rest[: found.start()]).rstrip(" ;"))
        rest, number = rest[found.end() :], number + 1
    return [*items, re.sub(r"\s+", " ", rest)]


def _prose(part: str) -> str:
    """Docstring prose as Markdown: stars and underscores outside code are letters, and the module is this page."""
    part = part.replace("(see the module)", "(see above)").replace("(see the module; ", "(see above; ").strip("\n")
    lines = []
    for line in part.splitlines():
        if line.startswith("    "):
            lines.append(line)
            continue
        pieces = line.split("`")
        pieces[::2] = [re.sub(r"([*_<])", r"\\\1", piece) for piece in pieces[::2]]
        lines.append("`".join(pieces))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _names(page: Page) -> str:
    rows = ["| name | what it stands for | settings it carries |", "|---|---|---|"]
    for entry in page.entries:
        if page.kind == "objective" and entry.name.startswith(("armor-alpha-", "armor-renyi-")):
            continue  # told by the last line
        preset = ", ".join(f"`{key}={value!r}`" for key, value in entry.preset.items())
        rows.append(f"| `{entry.name}` | {_cell(entry.description)} | {preset or 'the defaults'} |")
    if page.title.startswith("armor-kl"):
        rows.append(
            "| `armor-alpha-...`, `armor-renyi-...` | the same with other divergences | `divergence='alpha6'`, `'renyi1.25'` |"
        )
    return "\n".join(rows)


def _settings(page: Page) -> str:
    meanings = _meanings(page.target)
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, default in _parameters(page.target):
        shown = "required" if default is inspect.Parameter.empty else f"`{default!r}`"
        rows.append(f"| `{name}` | {_cell(shown)} | {_cell(_prose(meanings.get(name, '')))} |")
    return "\n".join(rows) if len(rows) > 2 else ""


def _parameters(target: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(target):
        for item in dataclasses.fields(target):
            made = item.default_factory is not dataclasses.MISSING
            missing = item.default is dataclasses.MISSING and not made
            value = item.default_factory() if made else item.default  # type: ignore[misc]
            yield item.name, inspect.Parameter.empty if missing else value
        return
    for name, item in inspect.signature(target).parameters.items():
        if name not in ("model", "x", "y"):
            yield name, item.default


def _meanings(target: Any) -> dict[str, str]:
    """What the docstrings of a class and its bases say about every argument."""
    found: dict[str, str] = {}
    for one in target.__mro__ if inspect.isclass(target) else (target,):
        doc = inspect.getdoc(one) if one.__doc__ else ""
        for block in re.findall(r"^Args:\n((?:    .*\n?|\n(?=    ))+)", doc or "", flags=re.MULTILINE):
            for names, meaning in re.findall(
                r"^ {4}(\w[\w, ]*): ((?:.*\n?)(?: {5,}.*\n?)*)", block, flags=re.MULTILINE
            ):
                for name in names.split(", "):
                    found.setdefault(name, re.sub(r"\s+", " ", meaning).strip())
    return found


def _heading(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def navigation() -> str:
    """The block of mkdocs.yml."""
    lines = []
    for kind, group in GROUPS.items():
        lines.append(f"      - {group.capitalize()}:\n")
        lines += [f"          - {page.title}: methods/{page.path}\n" for page in pages() if page.kind == kind]
    return "".join(lines)


def with_navigation(config: str) -> str:
    """mkdocs.yml with its block renewed."""
    head, rest = config.split(BEGIN)
    return head + BEGIN + navigation() + END + rest.split(END)[1]


def main() -> None:
    """Renew all pages and the navigation; pages of methods that are gone are deleted."""
    wanted = {FOLDER / page.path: text(page) for page in pages()}
    for stale in set(FOLDER.rglob("*.md")) - set(wanted):
        stale.unlink()
    for path, content in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    config = ROOT / "mkdocs.yml"
    config.write_text(with_navigation(config.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
