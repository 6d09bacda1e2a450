"""The report page in a real browser, and runs with every awkward distance to show on it."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wassertight.records import DistanceSummary, Record, Result

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page's script cannot be run")

# The browser's virtual clock does not wait for a picture being decoded; tasks that each take real time hold it back.
PATIENCE = """
async function picturesOf(page) {
  if (!JSON.parse(page.getElementById("data").textContent).pictures) return;
  const port = new MessageChannel();
  port.port1.start();
  while (!page.documentElement.dataset.pictures) {
    const turn = new Promise((done) => port.port1.addEventListener("message", done, { once: true }));
    for (let k = 0, sum = 0; k < 2e6; k++) sum += k;
    port.port2.postMessage(0);
    await turn;
  }
}
"""


def open_page(address: str, profile: Path) -> str:
    """The document after its scripts ran; any error or refusal in the console fails the test."""
    command = [
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--allow-file-access-from-files", "--enable-logging=stderr", f"--user-data-dir={profile}",
        "--virtual-time-budget=8000", "--window-size=1280,1000", "--dump-dom", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints, complaints
    return done.stdout


def visit_pages(addresses: list[str], folder: Path) -> list[str]:
    """The documents at several addresses after their scripts ran, in one start of the browser."""
    frames = "".join(
        f'<iframe style="width:900px;height:900px" src="{html.escape(one)}"></iframe>' for one in addresses
    )
    driver = (
        PATIENCE
        + """
      window.onload = async () => {
        const pages = [...document.querySelectorAll("iframe")].map((f) => f.contentDocument);
        for (const page of pages) await picturesOf(page);
        await new Promise((done) => setTimeout(done, 500));
        document.getElementById("found").textContent = JSON.stringify(pages.map((p) => p.documentElement.outerHTML));
      };
    """
    )
    bench = folder / "visits.html"
    bench.write_text(f"<pre id=found></pre>{frames}<script>{driver}</script>", encoding="utf-8")
    return found_in(open_page(bench.as_uri(), folder / "profile"))


def found_in(dom: str) -> Any:
    return json.loads(html.unescape(re.findall(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[0]))


def shown_bracket(dom: str) -> dict[str, str]:
    (tag,) = re.findall(r'<div id="bracket"[^>]*>', dom)
    return {name: html.unescape(value) for name, value in re.findall(r'data-(\w+)="([^"]*)"', tag)}


def shown_rows(dom: str, table: str) -> list[dict[str, str]]:
    body = dom[dom.index(f'<table id="{table}"') :]
    body = body[: body.index("</table>")]
    return [dict(re.findall(r'data-(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<tr [^>]*data-[^>]*>", body)]


def awkward_sides(n: int, seed: int) -> tuple[Any, Any, Any]:
    """Proved radii, attack distances and weights with zeros, infinities, ties and unequal masses."""
    rng = np.random.default_rng(seed)
    high = np.round(rng.exponential(0.1, n), 2 if seed % 2 else 12)
    high[rng.random(n) < 0.1] = math.inf
    low = np.where(np.isinf(high), 0.3, high) * rng.choice([0.0, 0.5, 1.0], n)
    weights = rng.integers(1, 6, n).astype(float)
    return low, high, weights / weights.sum()


def awkward_run(
    n: int = 12, *, seed: int = 1, grounds: tuple[float, ...] = (math.inf,), closed: bool = False, **changes: Any
) -> Any:
    """A record and its arrays, as a run would store them."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 1, 4, 4)).astype(np.float32)
    arrays: dict[str, Any] = {"x": x, "y": rng.integers(0, 3, n)}
    results = []
    for index, r in enumerate(grounds):
        name = "Linf" if math.isinf(r) else f"L{r:g}"
        low, high, _ = awkward_sides(n, seed + index)
        suffix = f".{name}" if index else ""
        arrays |= {f"certified_distance{suffix}": low, f"attacked_distance{suffix}": high}
        arrays |= {f"z{suffix}": np.clip(x + rng.normal(0, 0.1, x.shape), 0, 1).astype(np.float32)}
        results.append(Result(threat=f"W1-{name}@0.05", p=1, r=r, radius=0.05, clean=1.0, attacked=0.8, certified=0.3))
    arrays["weight"] = awkward_sides(n, seed)[2]
    names = ["Linf" if math.isinf(r) else f"L{r:g}" for r in grounds]
    settings = {"bounds": [0.0, 1.0]}
    record = Record(
        command="evaluate", model="net", data="digits", n=n, seed=seed, results=results, settings=settings,
        distances_by_norm={name: DistanceSummary(closed=closed) for name in names},
    ).model_copy(update=changes)  # fmt: skip
    return record, arrays
