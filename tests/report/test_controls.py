"""Every control of the live page, worked in a real browser."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from live_page import PATIENCE, awkward_run, browser, found_in, open_page
from wassertight.report import write_page
from wassertight.report.embedding import embed

_DRIVER = """
const seen = {}, frame = document.querySelector("iframe");
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const state = (page) => ({ ...page.getElementById("bracket").dataset });
function set(page, id, value, type = "input") {
  page.getElementById(id).value = value;
  page.getElementById(id).dispatchEvent(new page.defaultView.Event(type, { bubbles: true }));
}
frame.onload = async () => {
  const page = frame.contentDocument, view = page.defaultView;
  const press = (text) => [...page.querySelectorAll("button")].find((b) => b.textContent === text).click();
  seen.start = state(page);
  set(page, "order", 60); seen.order = state(page);
  set(page, "order", 120); seen.last = state(page);
  set(page, "radius", 500); seen.radius = state(page);
  for (let k = 0; k < 3; k++) set(page, "radius", 1000);
  seen.far = state(page);
  set(page, "exact", "0.125"); seen.exact = state(page);
  set(page, "exact", "-1"); seen.refused = state(page);
  press("L2"); seen.norm = state(page);
  press("1"); seen.preset = state(page);
  press("\\u2192"); seen.next = state(page);
  set(page, "rank", 0); seen.rank = state(page);
  const curves = page.getElementById("curves"), box = curves.getBoundingClientRect();
  const at = (node, type, x, buttons) => node.dispatchEvent(new view.PointerEvent(type, { clientX: x, clientY: box.top + 50, buttons, bubbles: true }));
  at(curves, "pointermove", box.left + 54 + (box.width - 66) / 2, 1); seen.drag = state(page);
  const samples = page.getElementById("samples"), field = samples.getBoundingClientRect();
  at(samples, "pointermove", field.right - 13, 0); seen.hover = state(page);
  set(page, "class", "1", "change");
  seen.gallery = [...page.getElementById("gallery").children].map((b) => b.dataset.sample);
  page.getElementById("gallery").children[0].click(); seen.picked = state(page);
  page.getElementById("theme").click(); page.getElementById("theme").click();
  seen.theme = page.documentElement.dataset.theme;
  await picturesOf(page);
  await wait(500);
  seen.link = view.location.hash;
  seen.views = [...page.querySelectorAll("#views canvas")].map((c) => c.getAttribute("aria-label"));
  view.location.hash = "#p=2&radius=0.05&norm=Linf&sample=3";
  await wait(200);
  seen.linked = state(page);
  document.getElementById("found").textContent = JSON.stringify(seen);
};
frame.src = "report.html";
"""


@browser
def test_every_control_moves_the_bracket(tmp_path: Path) -> None:
    record, arrays = awkward_run(30, grounds=(math.inf, 2.0))
    write_page(record, tmp_path / "report.html", arrays)
    bench = tmp_path / "bench.html"
    bench.write_text(
        f'<pre id=found></pre><iframe style="width:900px;height:900px"></iframe><script>{PATIENCE}{_DRIVER}</script>',
        encoding="utf-8",
    )
    dom = open_page(bench.as_uri(), tmp_path / "profile")
    seen = found_in(dom)
    data = embed(record, arrays)
    assert data is not None
    linf, l2 = data["norms"]
    assert (seen["start"]["p"], seen["start"]["radius"], seen["start"]["norm"]) == ("1", "0.05", "Linf")
    assert seen["order"]["p"] == "2"
    assert seen["last"]["p"] == "inf"
    assert float(seen["radius"]["radius"]) == pytest.approx(linf["top"] / 2)
    assert float(seen["far"]["radius"]) == pytest.approx(linf["top"]), "the axis does not run away"
    assert seen["exact"]["radius"] == seen["refused"]["radius"] == "0.125"
    assert seen["norm"]["norm"] == "L2"
    assert seen["preset"]["p"] == "1"
    order = np.argsort(arrays["attacked_distance.L2"], kind="stable")
    assert int(seen["next"]["sample"]) != int(seen["preset"]["sample"])
    assert int(seen["rank"]["sample"]) == order[0]
    assert float(seen["drag"]["radius"]) == pytest.approx(l2["top"] / 2, rel=1e-3)
    assert int(seen["hover"]["sample"]) == order[-1]
    found = arrays["attacked_distance.L2"]
    members = [int(i) for i in order if arrays["y"][i] == 1 and 0 < found[i] < math.inf]
    assert [int(i) for i in seen["gallery"]] == members
    assert int(seen["picked"]["sample"]) == members[0]
    assert seen["theme"] == "dark"
    assert f"sample={members[0]}" in seen["link"]
    assert "norm=L2" in seen["link"]
    assert seen["views"] == [f"sample {members[0]}, {name}" for name in ("original", "moved", "difference")]
    linked = seen["linked"]
    assert (linked["p"], linked["radius"], linked["norm"], linked["sample"]) == ("2", "0.05", "Linf", "3")
