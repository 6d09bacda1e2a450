"""Tables, figures and the page, from records alone."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from wassertight.errors import DataError
from wassertight.records import Audit, Curve, Flag, Record, Result
from wassertight.report import bracket_figure, results_table, save_figure, write_page


def _record(*, attacked: bool = True, certified: bool = True, name: str = "net") -> Record:
    radii = [k / 255 for k in range(9)]
    curves, results = [], []
    for r in (math.inf, 2.0):
        for p in (1.0, 2.0, math.inf):
            high, low = [0.9 - 2 * v for v in radii], [0.9 - 5 * v for v in radii]
            curves.append(
                Curve(p=p, r=r, radii=radii, attacked=high if attacked else None, certified=low if certified else None)
            )
        results.append(Result(threat=f"W1-{r}@4/255", p=1, r=r, radius=4 / 255, clean=0.9, attacked=0.8 if attacked else None,
                              certified=0.7 if certified else None))  # fmt: skip
    return Record(command="evaluate", model=name, data="digits", n=10, seed=0, results=results, curves=curves)


@pytest.mark.parametrize(("attacked", "certified"), [(True, True), (True, False), (False, True)])
def test_figure_in_three_formats(attacked: bool, certified: bool, tmp_path: Path) -> None:
    record = _record(attacked=attacked, certified=certified)
    paths = save_figure(record, tmp_path / "bracket")
    assert [path.suffix for path in paths] == [".pdf", ".svg", ".png"]
    assert all(path.stat().st_size > 5000 for path in paths)
    axes = bracket_figure(record).axes
    assert [axis.get_title() for axis in axes] == ["Linf ground norm", "L2 ground norm"]
    solid = [
        line.get_ydata()[0]
        for line in axes[0].get_lines()
        if line.get_linestyle() == "-" and len(line.get_xdata()) == 9
    ]
    assert solid == ([90.0] * 3 if attacked else [])


def test_table_has_dashes_for_what_was_not_run() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(results_table(_record(certified=False)))
    assert "80.0" in out.getvalue()
    assert " - " in out.getvalue()


def test_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    record = _record(name="<script>alert(1)</script>").model_copy(
        update={
            "flags": [Flag(name="a<b", message="m & m", remedy="<img src=x>")],
            "audit": Audit(ok=False, violations=1, details=["<b>bad</b>"]),
        }
    )
    text = write_page(record, tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
    for tag in ("<script", "<img", "<b>", 'src="http', 'href="http', "@import"):
        assert tag not in text.replace('xlink:href="#', "")
    assert "&lt;script&gt;" in text
    assert "audit failed: 1" in text
    assert "lies between 70.0 % (proved) and 80.0 % (reached by an attack)" in text
    assert "<svg" in text


def test_records_round_trip_and_refuse_disorder(tmp_path: Path) -> None:
    record = _record()
    (tmp_path / "record.json").write_text(record.to_json(), encoding="utf-8")
    assert Record.read(tmp_path) == record
    assert '"inf"' in record.to_json()
    with pytest.raises(ValueError, match="certified <= attacked <= clean"):
        Record(
            **{
                **record.model_dump(by_alias=True),
                "results": [record.results[0].model_copy(update={"attacked": 0.95}).model_dump()],
            }
        )
    with pytest.raises(DataError, match="no record"):
        Record.read(tmp_path / "nowhere")
    (tmp_path / "record.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="not a readable"):
        Record.read(tmp_path)
