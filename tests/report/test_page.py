"""The live page: its numbers against Python's, every kind of run, escaping and size."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import wassertight.report.page as page_module
from live_page import awkward_run, awkward_sides, browser, found_in, open_page, shown_bracket, shown_rows, visit_pages
from wassertight.records import Curve, Flag, Record, Reweighted
from wassertight.report import stored_arrays, write_page
from wassertight.report.embedding import embed
from wassertight.transport import FlipDistances

LIVE = Path(page_module.__file__).parent / "live"
ORDERS = (1.0, 1.5, 2.0, 7.0, math.inf)


@browser
def test_the_arithmetic_is_pythons(tmp_path: Path) -> None:
    cases, expected = [], []
    for seed in range(12):
        n = (1, 2, 7, 60)[seed % 4]
        low, high, weights = awkward_sides(n, seed)
        if seed == 8:
            low, high = np.zeros(n), np.full(n, math.inf)
        mass = torch.tensor(weights)
        ties = [float(v) for v in high[np.isfinite(high)][:2]]
        for side, values, closed in (("attacked", high, False), ("certified", low, False), ("certified", low, True)):
            known = torch.tensor(values, dtype=torch.float64)
            own = (
                FlipDistances.attacked(known, mass)
                if side == "attacked"
                else FlipDistances.certified(known, mass, closed=closed)
            )
            for p in ORDERS:
                for radius in (0.0, 1e-300, 1e-9, 0.003, 0.05, 0.2, 3.0, 1e12, *ties):
                    cases.append([_plain(values), weights.tolist(), closed, "inf" if p == math.inf else p, radius])
                    found = own.allocate(p, radius)
                    expected.append([own.accuracy(p, radius), float((found.fractions * mass).sum())])
    (tmp_path / "cases.js").write_text(f"const cases = {json.dumps(cases)};", encoding="utf-8")
    driver = """
      const read = (v) => v.map((x) => (x === null ? Infinity : x));
      const found = cases.map(([d, w, closed, p, radius]) => {
        const side = makeSide(read(d), w, { closed }), order = p === "inf" ? Infinity : p;
        const mass = allocate(side, order, radius, true).fractions.reduce((sum, share, i) => sum + share * w[i], 0);
        return [accuracy(side, order, radius), mass];
      });
      document.getElementById("found").textContent = JSON.stringify(found);
    """
    script = (LIVE / "knapsack.js").read_text(encoding="utf-8")
    bench = tmp_path / "bench.html"
    bench.write_text(
        f"<pre id=found></pre><script src=cases.js></script><script>{script}</script><script>{driver}</script>",
        encoding="utf-8",
    )
    dom = open_page(bench.as_uri(), tmp_path / "profile")
    found = found_in(dom)
    assert len(found) == len(expected) > 12 * 3 * 5 * 8
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=1e-9)


def _plain(values: Any) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]


@browser
def test_the_page_shows_pythons_numbers(tmp_path: Path) -> None:
    radii = [0.0, 0.01, 0.05, 0.1, 0.3, 1e6]
    states = [(closed, *rest) for closed in (False, True) for rest in (("Linf", "", math.inf), ("L2", ".L2", 1.5))]
    addresses, data = [], {}
    for closed, norm, _, p in states:
        record, data[closed] = awkward_run(40, grounds=(math.inf, 2.0), closed=closed)
        path = write_page(record, tmp_path / f"{closed}.html", data[closed])
        state = f"#p={p:g}&norm={norm}&radius=0.05&sample=3&radii={','.join(map(str, radii))}"
        addresses.append(path.as_uri() + state)
    for (closed, norm, suffix, p), dom in zip(states, visit_pages(addresses, tmp_path), strict=True):
        low, high, mass = (
            torch.tensor(data[closed][name])
            for name in (f"certified_distance{suffix}", f"attacked_distance{suffix}", "weight")
        )
        above, below = FlipDistances.attacked(high, mass), FlipDistances.certified(low, mass, closed=closed)
        shown = shown_bracket(dom)
        assert (shown["norm"], shown["sample"], shown["p"], float(shown["radius"])) == (norm, "3", f"{p:g}", 0.05)
        assert float(shown["attacked"]) == pytest.approx(above.accuracy(p, 0.05), abs=1e-9)
        assert float(shown["certified"]) == pytest.approx(below.accuracy(p, 0.05), abs=1e-9)
        rows = shown_rows(dom, "values")
        assert [float(row["radius"]) for row in rows] == radii
        for row in rows:
            assert float(row["attacked"]) == pytest.approx(above.accuracy(p, float(row["radius"])), abs=1e-9)
            assert float(row["certified"]) == pytest.approx(below.accuracy(p, float(row["radius"])), abs=1e-9)
        assert ">Sample 3</h3>" in dom
        assert f"{100 * below.accuracy(p, 0.05):.1f}&nbsp;% (proved)" in dom
        assert 'data-pictures="ready"' in dom


@browser
def test_names_stay_text(tmp_path: Path) -> None:
    evil = "<script>document.title='owned'</script><img src=x onerror=alert(1)>$title"
    record, arrays = awkward_run(
        model=evil, data="</script><b>d</b>", flags=[Flag(name="a<b", message=evil, remedy=evil)]
    )
    record = record.model_copy(update={"results": [record.results[0].model_copy(update={"threat": "</script><!--"})]})
    text = write_page(record, tmp_path / "report.html", arrays).read_text(encoding="utf-8")
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "<img" not in text
    dom = open_page((tmp_path / "report.html").as_uri(), tmp_path / "profile")
    assert "owned" not in re.findall("<title>(.*?)</title>", dom, re.DOTALL)[0].replace(
        html.escape(evil, quote=False), ""
    )
    assert "<img" not in dom
    assert shown_bracket(dom)["norm"] == "Linf"


def test_one_file_without_the_network(tmp_path: Path) -> None:
    record, arrays = awkward_run()
    text = write_page(record, tmp_path / "report.html", arrays).read_text(encoding="utf-8")
    named = set(re.findall(r"https?://[^\s\"'<>]+", text))
    assert all(address.startswith("http://www.w3.org/") for address in named), "names of formats only"
    for word in ("@import", "url(", "fetch(", "XMLHttpRequest", "innerHTML", "eval(", 'src="'):
        assert word not in text.replace("url(#", "")
    assert "default-src 'none'" in text
    assert "script-src 'sha256-" in text


@pytest.mark.parametrize("channels", [1, 3])
def test_a_thousand_images_fit(channels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n, shape = 1000, (1000, channels, 28, 28)
    record, arrays = awkward_run(n)
    x = rng.random(shape).astype(np.float32)
    arrays |= {"x": x, "z": np.clip(x + rng.normal(0, 0.1, shape), 0, 1).astype(np.float32)}
    path = write_page(record, tmp_path / "report.html", arrays)
    assert path.stat().st_size < 3_000_000
    data = embed(record, arrays)
    assert data is not None
    kept = data["pictures"]["rows"]
    assert len(kept) == n if channels == 1 else 200 < len(kept) < n
    values = arrays["attacked_distance"]
    worth = np.where(values == 0, math.inf, values)
    assert worth[kept].max() <= np.delete(worth, kept).min(initial=math.inf), "the hardest are kept"


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_the_samples(channels: int) -> None:
    record, arrays = awkward_run()
    rng = np.random.default_rng(0)
    x = rng.random((12, channels, 3, 5))
    z = x + rng.normal(0, 0.02, x.shape)
    z[4] = x[4]
    data = embed(record, arrays | {"x": x, "z": z})
    assert data is not None
    pictures = data["pictures"]
    moved = pictures["moved"]["Linf"]
    assert pictures["rows"] == list(range(12))
    assert moved["scale"][4] == 0
    for k in range(12):
        row, column = divmod(k, pictures["columns"])
        place = (slice(3 * row, 3 * row + 3), slice(5 * column, 5 * column + 5))
        before, step = (_pixels(one)[place].transpose(2, 0, 1) for one in (pictures["original"], moved["difference"]))
        assert np.abs(before / 255 - x[k]).max() <= 0.5 / 255 + 1e-9
        assert np.abs(moved["scale"][k] * (step - 128) / 127 - (z[k] - x[k])).max() <= 1.2 * moved["scale"][k] / 254, (
            "one step of 8 bits"
        )


def _pixels(address: str) -> Any:
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))), dtype=np.float64)
    return image[:, :, None] if image.ndim == 2 else image


def _half(arrays: dict[str, Any], side: str) -> dict[str, Any]:
    dropped = {"attacked_distance", "z"} if side == "certified" else {"certified_distance"}
    return {name: values for name, values in arrays.items() if name not in dropped}


def _kind(kind: str) -> tuple[Record, dict[str, Any]]:
    record, arrays = awkward_run()
    (only,) = record.results
    if kind == "attacked":
        return record.model_copy(update={"results": [only.model_copy(update={"certified": None})]}), _half(arrays, kind)
    if kind in ("certified", "smoothed"):
        settings = {"smoothing": {"allowance": 0.05}} if kind == "smoothed" else {}
        changed = {"results": [only.model_copy(update={"attacked": None})], "settings": settings}
        return record.model_copy(update=changed), _half(arrays, "certified")
    if kind == "flat":
        return record, arrays | {name: arrays[name].reshape(len(arrays["x"]), -1) for name in ("x", "z")}
    if kind == "image":
        return record.model_copy(update={"results": [only.model_copy(update={"threat": "W1-image-W1@0.05"})]}), arrays
    part = Reweighted(text="KL+Linf@0.1,0.05", divergence="KL", family="KL, moves within Linf 0.05")
    curve = Curve(p=1, r=math.inf, radii=[0.0, 0.2], attacked=[1.0, 0.5], certified=[0.9, 0.3], family=part.family)
    changed = only.model_copy(update={"threat": part.text, "reweighting": part})
    return record.model_copy(update={"results": [changed], "curves": [curve]}), arrays


@browser
def test_every_kind_of_run_has_a_page(tmp_path: Path) -> None:
    kinds = ("attacked", "certified", "smoothed", "flat", "image", "reweighted")
    runs = {kind: _kind(kind) for kind in kinds}
    paths = [write_page(record, tmp_path / f"{kind}.html", arrays) for kind, (record, arrays) in runs.items()]
    pages = dict(zip(kinds, visit_pages([path.as_uri() + "#p=2&radius=0.01" for path in paths], tmp_path), strict=True))
    for kind, dom in pages.items():
        shown = shown_bracket(dom)
        sides = (shown["attacked"] != "", shown["certified"] != "")
        assert sides == (kind not in ("certified", "smoothed"), kind != "attacked"), kind
        assert (shown["norm"], shown["p"]) == ("image-W1" if kind == "image" else "Linf", "2")
    assert "features of sample" in pages["flat"]
    assert "are not recomputed in the page" in pages["reweighted"]
    assert '<figure class="static"><svg' in pages["reweighted"]
    _, arrays = runs["smoothed"]
    known = FlipDistances.certified(torch.tensor(arrays["certified_distance"]), torch.tensor(arrays["weight"]))
    expected = known.accuracy(2, 0.01) - 0.05
    assert expected > 0
    assert float(shown_bracket(pages["smoothed"])["certified"]) == pytest.approx(expected, abs=1e-9)


def test_arrays_are_found_beside_the_record_without_the_laws(tmp_path: Path) -> None:
    record, arrays = awkward_run()
    save_file(arrays | {"law.0.atoms": arrays["x"]}, tmp_path / "arrays.safetensors")
    assert stored_arrays(record, tmp_path) is None, "the record names none"
    found = stored_arrays(record.model_copy(update={"arrays": "arrays.safetensors"}), tmp_path)
    assert found is not None
    assert found.keys() == arrays.keys()
    assert embed(record, {**arrays, "y": arrays["y"][:3]}) is None, "of other samples"
    still = write_page(record, tmp_path / "still.html").read_text(encoding="utf-8")
    assert "This page stands still" in still
    assert "<figure class='static'><svg" in still
