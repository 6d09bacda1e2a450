"""Tables, figures and the page, from records alone."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from wassertight.errors import DataError
from wassertight.records import Audit, BracketSummary, Claim, ClaimedBracket, Curve, Flag, Record, Result
from wassertight.report import (
    bracket_figure,
    brackets_table,
    claim_table,
    flow_figure,
    results_table,
    save_figure,
    save_flow_figure,
    write_page,
)  # fmt: skip


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
    figure = bracket_figure(record)
    axes = figure.axes
    assert [axis.get_title(loc="left") for axis in axes] == ["W1 with Linf ground norm", "W1 with L2 ground norm"]
    styles = [line.get_linestyle() for line in axes[0].get_lines() if len(line.get_xdata()) == 9]
    assert styles == ["-"] * attacked + ["--"] * certified
    assert "mean Linf distance moved" in axes[0].get_xlabel()
    names = {text.get_text() for text in axes[0].texts}
    assert ("attacked" in names, "certified" in names) == (attacked, certified)
    assert ("8 pts" in names) == (attacked and certified)
    figure.canvas.draw()
    inside = figure.bbox.padded(1)
    assert all(
        inside.contains(*corner)
        for axis in axes
        for text in axis.texts
        for corner in text.get_window_extent().corners()
    )


def test_every_order_asked_for_has_a_panel() -> None:
    record = _record()
    (first, *_) = record.results
    asked = [first, first.model_copy(update={"p": 2.0}), first.model_copy(update={"p": math.inf})]
    titles = [axis.get_title(loc="left") for axis in bracket_figure(record.model_copy(update={"results": asked})).axes]
    assert titles[:3] == ["W1 with Linf ground norm", "W2 with Linf ground norm", "Linf, pointwise (p = inf)"]


def _text(table: object) -> str:
    out = io.StringIO()
    Console(file=out, width=130).print(table)
    return out.getvalue()


def test_widths_and_claims_are_shown(tmp_path: Path) -> None:
    assert brackets_table(_record()) is None
    assert claim_table(_record()) is None
    found = [
        BracketSummary(p=p, r=math.inf, tightness=None if p == 1 else 0.8, widest=0.123, widest_at=0.02, mean_width=0.05,
                       closes_at=math.inf if p == 1 else 0.2, closed_to=0.01, closed=[(0.0, 0.001), (0.2, math.inf)])
        for p in (1.0, 2.0)
    ]  # fmt: skip
    claim = Claim(population=True, confidence=0.95, margin=0.0865, label_cost=0.1, assumptions=["<independent>"],
                  results=[ClaimedBracket(threat="W1-Linf@1", p=1, r=math.inf, radius=1, certified=0.4)])  # fmt: skip
    record = _record().model_copy(update={"brackets": found, "claim": claim})
    widths, claimed = _text(brackets_table(record)), _text(claim_table(record))
    assert "12.3" in widths
    assert "never" in widths
    assert "W2" not in widths, "not asked for"
    assert "labels may move at a cost of 0.1" in claimed
    assert "8.7 points a side" in claimed or "8.6 points a side" in claimed
    assert "40.0" in claimed
    page = write_page(record, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Around the true law, labels may move" in page
    assert "&lt;independent&gt;" in page
    (tmp_path / "record.json").write_text(record.to_json(), encoding="utf-8")
    assert Record.read(tmp_path) == record


def test_older_records_without_the_new_fields_are_read(tmp_path: Path) -> None:
    content = json.loads(_record().to_json())
    del content["brackets"], content["claim"]
    (tmp_path / "record.json").write_text(json.dumps(content), encoding="utf-8")
    assert Record.read(tmp_path) == _record()


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
    assert text.count("<script") == 2, "the data and the page's own"
    for tag in ("<img", "<b>", 'src="http', 'href="http', "@import"):
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


def test_moving_light_is_drawn_from_the_arrays_alone(tmp_path: Path) -> None:
    field = np.zeros((2, 4, 4, 2))
    field[0, 1, 1] = (0.1, -0.2)
    arrays = {
        "x": np.random.default_rng(0).random((3, 1, 4, 4)), "z": np.random.default_rng(1).random((3, 1, 4, 4)),
        "attacked_distance": np.array([0.1, np.inf, 0.3]), "flow": field, "flow.images": np.array([0, 2]),
    }  # fmt: skip
    figure = flow_figure(arrays)
    assert figure is not None
    assert len(figure.axes) == 6
    assert [axis.get_title() for axis in figure.axes[:2]] == ["image 0", "image 2"]
    assert flow_figure({"x": arrays["x"]}) is None
    save_file(arrays, tmp_path / "arrays.safetensors")
    assert {path.name for path in save_flow_figure(tmp_path)} == {"flow.pdf", "flow.svg", "flow.png"}
    assert save_flow_figure(tmp_path / "elsewhere") == []
