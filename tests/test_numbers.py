"""Every table of measurements in the docs is backed by a record, digit by digit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tools_loading import ROOT

DOCS, RECORDS = ROOT / "docs", ROOT / "benchmarks" / "records"
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?![\w^])")
# Settings and strings, not measurements.
NOT_MEASURED = {"Light that moves", "Which attack", "What re-weighting adds", "Threat models"}
# Columns computed from others of the same row.
DERIVED = {"points lower", "ratio", "against published"}
ROW = re.compile(r"^\| \[.*?\]\((?P<page>\w+\.md)#(?P<anchor>[\w-]+)\) \| (?P<record>.*?) \| (?P<script>.*?) \|$")


def floats(value: Any) -> Iterator[float]:
    """All numbers of a record, those in its keys and strings included, means of lists, and shares of counts."""
    if isinstance(value, dict):
        if {"reached", "pairs"} <= set(value):
            yield value["reached"] / value["pairs"]
        for key, item in value.items():
            yield from floats(key)
            yield from floats(item)
    elif isinstance(value, list):
        if value and all(isinstance(item, (int, float)) for item in value):
            yield sum(value) / len(value)
        for item in value:
            yield from floats(item)
    elif isinstance(value, str):
        yield from (float(one) for one in re.findall(r"-?\d+(?:\.\d+)?", value))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def sections(page: str) -> dict[str, list[list[str]]]:
    """The tables under every heading, by its anchor; each table as its lines."""
    found: dict[str, list[list[str]]] = {}
    anchor, inside = "", False
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            anchor = re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        if line.startswith("|"):
            tables = found.setdefault(anchor, [])
            if not inside:
                tables.append([])
            tables[-1].append(line)
        inside = line.startswith("|")
    return found


def cells(table: list[str]) -> Iterator[tuple[str, str]]:
    """Column and printed number of all cells but the first column's and derived ones."""
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]
    for row in rows[2:]:
        for column, cell in list(zip(rows[0], row, strict=True))[1:]:
            if column not in DERIVED:
                for one in NUMBER.findall(cell.replace("2^", "").replace("**", "")):
                    yield column, one.replace(",", "")


def backed(printed: str, known: list[float]) -> bool:
    """Whether a number of the record, as it is or in percent, rounds to the printed one."""
    digits = len(printed.partition(".")[2])
    value, half = float(printed), 0.5 * 10**-digits * (1 + 1e-9) + 1e-12
    if digits == 0 and abs(value) >= 100:
        half = max(half, 0.005 * abs(value) if printed.endswith("0") else half)
    return any(abs(scale * one - value) <= half for one in known for scale in (1, 100))


def listed() -> list[dict[str, str]]:
    lines = (DOCS / "numbers.md").read_text(encoding="utf-8").splitlines()
    return [found.groupdict() for found in map(ROW.match, lines) if found]


@pytest.mark.parametrize("row", listed(), ids=lambda row: f"{row['page']}#{row['anchor']}")
def test_the_table_is_in_its_record(row: dict[str, str]) -> None:
    known: list[float] = []
    for name in re.findall(r"`([\w./-]+\.json)`", row["record"]):
        known += floats(json.loads((RECORDS / name).read_text(encoding="utf-8")))
    for script in re.findall(r"`([\w/]+\.py)", row["script"]):
        assert (ROOT / script).exists() or (ROOT / "benchmarks" / script).exists(), script
    if known:
        tables = sections(row["page"]).get(row["anchor"], [])
        missing = {one for table in tables for one in cells(table) if not backed(one[1], known)}
        assert not missing, f"in {row['page']} but in no record: {sorted(missing)}"


def test_every_table_of_measurements_is_listed() -> None:
    known = {(row["page"], row["anchor"]) for row in listed()}
    ignored = {name.lower().replace(" ", "-") for name in NOT_MEASURED}
    for path in sorted(DOCS.glob("*.md")):
        for anchor, tables in sections(path.name).items():
            decimals = sum(len(re.findall(r"\d\.\d", line)) for table in tables for line in table)
            if decimals > 2 and path.stem not in ("methods", "numbers", "start") and anchor not in ignored:
                assert (path.name, anchor) in known, (
                    f"{path.name}: the table under {anchor!r} is not in docs/numbers.md"
                )


def test_a_wrong_digit_is_noticed() -> None:
    assert backed("53.1", [0.5306])
    assert not backed("53.2", [0.5306])
    assert backed("0.9977", [0.99771])
    assert not backed("0.9978", [0.99771])
