"""The leaderboard: its numbers are the records', merging and audits, escaping, and the page in a real browser."""

from __future__ import annotations

import html
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from live_page import browser, found_in, open_page
from wassertight.cli.main import run
from wassertight.errors import DataError
from wassertight.records import Audit, Flag, PassCount, Record, Result
from wassertight.report import Leaderboard, LeaderboardRow, read_leaderboard, write_leaderboard
from wassertight.report.leaderboard_page import COLUMNS

KEYS = [key for key, *_ in COLUMNS]
COUNT = iter(range(10**6))


def store(folder: Path, name: str, *, page: bool = False, **changes: Any) -> Record:
    """One stored run of two threats; `low` and `high` are its certified and attacked accuracies under the first."""
    low, high = changes.pop("low", 0.5), changes.pop("high", 0.625)
    spent = PassCount(forward=1500, backward=500)
    results = [
        Result(threat="W1-Linf@0.05", p=1, r=math.inf, radius=0.05, clean=0.9, attacked=high, certified=low, passes=spent),
        Result(threat="W2-Linf@0.05", p=2, r=math.inf, radius=0.05, clean=0.9, attacked=0.8, passes=spent),
    ]  # fmt: skip
    settings = {
        "model_sha256": changes.pop("sha", "aa"),
        "data_sha256": "dd",
        "attack": {"name": "wda++", "passes": 200},
    }
    record = Record(
        command="evaluate", model="net", data="digits", n=10, seed=3, results=results, settings=settings,
        methods={"attack": "wda++", "certificate": "crown"}, versions={"wassertight": "0.1.0"},
        audit=changes.pop("audit", Audit()),
    ).model_copy(update=changes)  # fmt: skip
    (folder / name).mkdir(parents=True)
    file = folder / name / "record.json"
    file.write_text(record.to_json(), encoding="utf-8")
    moment = 1_790_000_000 + next(COUNT)
    os.utime(file, (moment, moment))
    if page:
        (folder / name / "report.html").write_text(f"<p>{name}</p>", encoding="utf-8")
    return record


def cells(text: str) -> list[dict[str, str]]:
    """The rows of a page: what every cell shows."""
    body = text[text.index("<tbody>") : text.index("</tbody>")]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)
    found = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [dict(zip(KEYS, (html.unescape(re.sub("<[^>]*>", "", cell)) for cell in row), strict=True)) for row in found]


def test_numbers_are_the_records(tmp_path: Path) -> None:
    store(tmp_path, "one", page=True, flags=[Flag(name="odd", message="m", remedy="r")])
    page = write_leaderboard([tmp_path / "one"], tmp_path / "site")
    first, second = cells(page.read_text(encoding="utf-8"))
    assert first | {"date": ""} == {
        "rank": "1", "model": "netone", "data": "digits", "n": "10", "threat": "W1-Linf@0.05", "clean": "90.0",
        "certified": "50.0", "attacked": "62.5", "width": "12.5", "attack": "wda++", "certificate": "crown",
        "passes": "200", "seed": "3", "audit": "passed", "flags": "odd", "date": "", "version": "0.1.0",
    }  # fmt: skip
    assert re.fullmatch(r"2026-\d\d-\d\d", first["date"])
    assert (second["threat"], second["certified"], second["width"]) == ("W2-Linf@0.05", "-", "-")
    board = json.loads((tmp_path / "site" / "leaderboard.json").read_text(encoding="utf-8"))
    row = board["rows"][0]
    assert (row["clean"], row["certified"], row["attacked"], row["r"]) == (0.9, 0.5, 0.625, "inf")
    assert row["attack_settings"] == {"passes": 200}
    assert (tmp_path / "site" / row["report"]).read_text(encoding="utf-8") == "<p>one</p>"
    assert row["report"] in page.read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=['\"](https?:)?//", text)
    assert read_leaderboard([tmp_path]).rows[0].width == 0.125


def test_best_proved_value_first_and_failed_rows_nowhere(tmp_path: Path) -> None:
    store(tmp_path, "weak-attack", model="hidden", sha="a", low=0.1, high=0.9)
    store(tmp_path, "best", model="best", sha="b", low=0.6, high=0.7)
    store(tmp_path, "twin", model="twin", sha="c", low=0.6, high=0.7)
    store(tmp_path, "lie", model="lie", sha="d", low=0.9, high=0.7, audit=Audit(ok=False, violations=2, details=["x"]))
    store(tmp_path, "elsewhere", model="other", n=20, sha="e", low=0.8, high=0.8,
          settings={"model_sha256": "e", "data_sha256": "ee"})  # fmt: skip
    board = read_leaderboard([tmp_path])
    order = [(row.model, rank) for row, rank in zip(board.rows, board.ranks, strict=True) if row.p == 1]
    assert order == [("best", 1), ("twin", 1), ("hidden", 3), ("other", 1), ("lie", None)]
    assert [row.model for row in board.rows][-2:] == ["lie", "lie"]
    assert (
        cells(write_leaderboard([tmp_path], tmp_path / "site").read_text(encoding="utf-8"))[-1]["audit"] == "failed: 2"
    )


def test_merging_keeps_the_later(tmp_path: Path) -> None:
    store(tmp_path / "old", "run", page=True, high=0.7)
    store(tmp_path / "old", "retrained", sha="bb", high=0.75)
    write_leaderboard([tmp_path / "old"], tmp_path / "first")
    store(tmp_path / "new", "again", high=0.65)
    store(tmp_path / "new", "younger", high=0.64)
    sources = [tmp_path / "first" / "leaderboard.json", tmp_path / "new"]
    write_leaderboard(sources, tmp_path / "second")
    merged = Leaderboard.read(tmp_path / "second" / "leaderboard.json")
    assert {(row.model_sha256, row.attacked) for row in merged.rows if row.p == 1} == {("aa", 0.64), ("bb", 0.75)}
    back = read_leaderboard(sources[::-1])
    assert {(row.model_sha256, row.attacked) for row in back.rows if row.p == 1} == {("aa", 0.7), ("bb", 0.75)}
    write_leaderboard([tmp_path / "first" / "leaderboard.json"], tmp_path / "copy")
    assert (tmp_path / "copy" / "index.html").read_bytes() == (tmp_path / "first" / "index.html").read_bytes()
    assert [path.read_text() for path in (tmp_path / "copy" / "reports").iterdir()] == ["<p>run</p>"]


def test_nothing_of_a_record_becomes_markup(tmp_path: Path) -> None:
    evil = "<img src=x onerror='alert(1)'>\"'&</script>"
    store(tmp_path, "one", model=evil, data=evil, methods={"attack": evil, "certificate": evil}, versions={"wassertight": evil},
          flags=[Flag(name=evil, message=evil, remedy=evil)])  # fmt: skip
    text = write_leaderboard([tmp_path], tmp_path / "site", title=evil).read_text(encoding="utf-8")
    assert "<img" not in text
    assert "onerror='" not in text
    assert text.count("</script>") == 1
    assert cells(text)[0]["attack"] == evil


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"report": "../../etc/passwd"}, "report"), ({"report": "javascript:alert(1)"}, "report"),
        ({"attacked": 0.95}, "yet audited"), ({"clean": "NaN"}, "clean"), ({"n": 0}, "n"), ({"more": 1}, "more"),
    ],
)  # fmt: skip
def test_bad_leaderboards_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    store(tmp_path, "one")
    board = json.loads(read_leaderboard([tmp_path]).to_json())
    board["rows"][0] |= change
    (tmp_path / "board.json").write_text(json.dumps(board), encoding="utf-8")
    with pytest.raises(DataError, match=f"(?s)not a readable leaderboard.*{words}"):
        read_leaderboard([tmp_path / "board.json"])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["leaderboard", str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err
    store(tmp_path / "runs", "one")
    (tmp_path / "runs" / "unfinished").mkdir()
    assert run(["leaderboard", str(tmp_path / "runs"), "-o", str(tmp_path / "site"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [LeaderboardRow.model_validate(row).threat for row in rows] == ["W1-Linf@0.05", "W2-Linf@0.05"]
    (tmp_path / "runs" / "one" / "record.json").write_text("{", encoding="utf-8")
    assert run(["leaderboard", str(tmp_path / "runs")]) == 2
    assert run(["leaderboard", str(tmp_path / "nowhere.json")]) == 2


DRIVER = """
  window.onload = () => {
    const page = document.querySelector("iframe").contentDocument, view = document.querySelector("iframe").contentWindow;
    const head = (key) => page.querySelector(`th[data-key=${key}]`);
    const models = () => [...page.querySelectorAll("tbody tr:not([hidden])")].map((row) => row.querySelector("th span").textContent);
    const type = (id, value, kind) => { page.getElementById(id).value = value; page.getElementById(id).dispatchEvent(new view.Event(kind)); };
    const press = (key) => { const button = head(key).querySelector("button"); button.focus(); button.click();
      return [models(), head(key).getAttribute("aria-sort"), page.activeElement === button]; };
    const found = { start: models() };
    type("threat", "W1-Linf@0.05", "change");
    Object.assign(found, { one: models(), best: press("attacked"), worst: press("attacked"), reset: press("attacked"),
      width: press("width"), name: press("model"), old: head("width").hasAttribute("aria-sort"), hash: view.location.hash });
    page.getElementById("audited").click();
    found.audited = models();
    type("text", "MASKED", "input");
    Object.assign(found, { flagged: models(), count: page.getElementById("count").textContent });
    page.getElementById("reset").click();
    found.all = models().length;
    page.getElementById("theme").click();
    found.theme = page.documentElement.dataset.theme;
    document.getElementById("found").textContent = JSON.stringify(found);
  };
"""


@browser
def test_sorting_and_filtering_in_a_browser(tmp_path: Path) -> None:
    flag = Flag(name="odd", message="masked gradients", remedy="r")
    store(tmp_path, "a", model="high", sha="a", low=0.2, high=0.9)
    store(tmp_path, "b", model="tight", sha="b", low=0.6, high=0.65, flags=[flag])
    store(tmp_path, "c", model="alone", sha="c", low=None, high=0.7)
    store(tmp_path, "d", model="lie", sha="d", low=0.9, high=0.9, audit=Audit(ok=False, violations=1))
    page = write_leaderboard([tmp_path], tmp_path / "site")
    bench = tmp_path / "bench.html"
    bench.write_text(
        f'<pre id=found></pre><iframe src="{page.as_uri()}"></iframe><script>{DRIVER}</script>', encoding="utf-8"
    )
    found = found_in(open_page(bench.as_uri(), tmp_path / "profile"))
    assert found["start"] == ["tight", "high", "alone", "alone", "high", "tight", "lie", "lie"]
    assert found["one"] == ["tight", "high", "alone", "lie"]
    assert found["best"] == [["high", "alone", "tight", "lie"], "descending", True]
    assert found["worst"] == [["tight", "alone", "high", "lie"], "ascending", True]
    assert found["reset"] == [["tight", "high", "alone", "lie"], None, True]
    assert found["width"] == [["tight", "high", "alone", "lie"], "ascending", True]
    assert found["name"] == [["alone", "high", "tight", "lie"], "ascending", True]
    assert found["old"] is False
    assert found["hash"] == "#sort=model&threat=W1-Linf%400.05"
    assert found["audited"] == ["alone", "high", "tight"]
    assert (found["flagged"], found["count"]) == (["tight"], "1 of 8 rows")
    assert (found["all"], found["theme"]) == (8, "light")
