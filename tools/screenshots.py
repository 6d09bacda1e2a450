"""Takes the screenshots in docs/assets in headless Chromium: the live report, light and dark, and a leaderboard."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ASSETS = Path(__file__).parents[1] / "docs" / "assets"
SHOTS = {
    "report.png": ("#p=2&radius=0.05&norm=Linf&sample=13&theme=light", (1280, 1240)),
    "report-dark.png": ("#p=1&radius=0.02&norm=Linf&sample=40&theme=dark", (1280, 1240)),
}
NETWORKS = ("digits-cnn-robust", "digits-cnn", "digits-mlp")
BALLS = ("W1-Linf@0.02", "W2-Linf@0.05", "Linf@0.05")
COLOURS = 128


def shoot(browser: str, address: str, size: tuple[int, int], target: Path, profile: Path) -> None:
    """One screenshot, with few colours so that the file stays small."""
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
        "--virtual-time-budget=4000", f"--window-size={size[0]},{size[1]}", f"--screenshot={target}", address,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(target) as image:
        small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(target, optimize=True)


def main() -> None:
    """`python tools/screenshots.py [run directory]`: the run is resumed, or made where it is missing (two minutes)."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("no chromium found: install it (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "run"
        wassertight("evaluate", "-n", "200", "-o", str(run))
        page = run.resolve() / "report.html"
        for name, (state, size) in SHOTS.items():
            shoot(browser, page.as_uri() + state, size, ASSETS / name, folder / "profile")
            print(ASSETS / name)
        for network in NETWORKS:
            asked = [part for ball in BALLS for part in ("-t", ball)]
            wassertight("evaluate", "-m", network, *asked, "-o", str(folder / "runs" / network))
        wassertight("leaderboard", str(folder / "runs"), "-o", str(folder / "site"))
        shoot(
            browser,
            (folder / "site" / "index.html").as_uri(),
            (1420, 740),
            ASSETS / "leaderboard.png",
            folder / "profile",
        )


def wassertight(*arguments: str) -> None:
    """One command line."""
    subprocess.run([sys.executable, "-m", "wassertight", *arguments], check=True)


if __name__ == "__main__":
    main()
