"""Takes the screenshots in docs/assets in headless Chromium: the live report and its parts, and a leaderboard."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops

ASSETS = Path(__file__).parents[1] / "docs" / "assets"
NETWORKS = ("digits-cnn-robust", "digits-cnn", "digits-mlp")
BALLS = ("W1-Linf@0.02", "W2-Linf@0.05", "Linf@0.05")
COLOURS = 128
ONLY = "main>:not(#live){display:none} #live>:not(%s){display:none} main{padding-top:1rem}"


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture.

    Attributes:
        state: of the page, as its address carries it.
        size: of the window, in pixels.
        style: rules added to a copy of the page, to show a part of it.
        paper: as the page looks when it is printed.
    """

    state: str
    size: tuple[int, int] = (1280, 1240)
    style: str = ""
    paper: bool = False


SHOTS = {
    "report.png": Shot(state="p=2&radius=0.05&norm=Linf&sample=13&theme=light"),
    "report-dark.png": Shot(state="p=1&radius=0.02&norm=Linf&sample=40&theme=dark"),
    "tour-curves.png": Shot(
        state="p=inf&radius=0.1&norm=Linf&all=1&theme=light", size=(1000, 760), style=ONLY % "#sentence,.held,figure"
    ),
    "tour-samples.png": Shot(
        state="p=1&radius=0.05&norm=Linf&sample=7&theme=light", size=(1100, 620), style=ONLY % "#samplehead,.bench"
    ),
    "tour-hardest.png": Shot(
        state="p=1&radius=0.05&norm=Linf&class=8&theme=dark",
        size=(1100, 560),
        style=ONLY % ".filter,.gallery,#hardnote",
    ),
    "tour-classes.png": Shot(
        state="p=1&radius=0.01&norm=Linf&theme=light", size=(1000, 620), style=ONLY % ".scroll:has(#classes),#classnote"
    ),
    "tour-phone.png": Shot(state="p=2&radius=0.05&norm=Linf&sample=13&theme=light", size=(500, 1425)),
    "tour-print.png": Shot(state="p=2&radius=0.05&norm=Linf&sample=13&theme=dark", size=(900, 1075), paper=True),
}


def shoot(browser: str, page: Path, shot: Shot, target: Path, folder: Path) -> None:
    """One screenshot, empty margins cut off, with few colours so that the file stays small."""
    text = page.read_text(encoding="utf-8").replace("</head>", f"<style>{shot.style}</style></head>")
    copy = folder / "page.html"
    copy.write_text(text.replace("@media print{", "@media all{") if shot.paper else text, encoding="utf-8")
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=4000", f"--window-size={shot.size[0]},{shot.size[1]}", f"--screenshot={target}",
        f"{copy.as_uri()}#{shot.state}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(target) as image:
        whole = image.convert("RGB")
    empty = Image.new("RGB", whole.size, whole.getpixel((0, whole.height - 1)))
    left, top, right, bottom = ImageChops.difference(whole, empty).getbbox() or (0, 0, *whole.size)
    edge = 16
    box = (max(0, left - edge), max(0, top - edge), min(whole.width, right + edge), min(whole.height, bottom + edge))
    whole.crop(box).quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        target, optimize=True
    )


def main() -> None:
    """`python tools/screenshots.py [run directory]`: the run is resumed, or made where it is missing (two minutes)."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("no chromium found: install it (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "run"
        wassertight("evaluate", "-n", "200", "-o", str(run))
        for name, shot in SHOTS.items():
            shoot(browser, run.resolve() / "report.html", shot, ASSETS / name, folder)
            print(ASSETS / name, (ASSETS / name).stat().st_size)
        for network in NETWORKS:
            asked = [part for ball in BALLS for part in ("-t", ball)]
            wassertight("evaluate", "-m", network, *asked, "-o", str(folder / "runs" / network))
        wassertight("leaderboard", str(folder / "runs"), "-o", str(folder / "site"))
        shoot(
            browser,
            folder / "site" / "index.html",
            Shot(state="", size=(1420, 740)),
            ASSETS / "leaderboard.png",
            folder,
        )


def wassertight(*arguments: str) -> None:
    """One command line."""
    subprocess.run([sys.executable, "-m", "wassertight", *arguments], check=True)


if __name__ == "__main__":
    main()
