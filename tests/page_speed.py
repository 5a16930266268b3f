"""How soon the review page shows a pair of 512 x 512 x 300 voxels: python tests/page_speed.py

Chromium draws in software, as on a machine without a GPU. The figures are in docs/review.md.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright
from reviewed import make_folder
from test_review_page import CHROMIUM, FLAGS, Server

from tlt.geometry import Grid

LARGE = Grid((512, 512, 300), (0.75, 0.75, 1.0), (-192.0, -192.0, -190.0))
PICTURES = "[data-image={}][data-first-picture]"


def measure(suffix: str) -> str:
    """Seconds to the address, to the first picture, to both, and to both when opened again."""
    with tempfile.TemporaryDirectory() as root, sync_playwright() as playwright:
        folder = make_folder(Path(root), grid=LARGE, suffix=suffix)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        start = time.perf_counter()
        server = Server(folder)
        seconds = [time.perf_counter() - start]
        try:
            for names in (("followup", "baseline"), ("baseline",)):
                page = browser.new_context(viewport={"width": 1366, "height": 768}).new_page()
                start = time.perf_counter()
                page.goto(server.url)
                for name in names:
                    page.wait_for_selector(PICTURES.format(name))
                    seconds.append(time.perf_counter() - start)
        finally:
            server.end()
            browser.close()
    words = ("address", "first picture", "both", "opened again")
    return ", ".join(f"{word} {value:.1f} s" for word, value in zip(words, seconds, strict=True))


if __name__ == "__main__":
    for kind in (".nii", ".nii.gz"):
        print(kind, measure(kind), sep=": ")
