"""Take the pictures of the dashboard in docs/images: the demo runs, and a real browser looks at it.

    .venv/bin/python tools/screenshots.py

Needs a Chromium (Debian: apt-get install chromium).
"""

import shutil
import sys
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from service.lab.demo.play import SPEED, cloud, play
from service.lab.demo.stage import Stage, open_stage

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"


def main() -> None:
    chromium = shutil.which("chromium") or sys.exit("no chromium was found: apt-get install chromium")
    began = time.monotonic()
    with open_stage(cloud(0), speed=SPEED) as stage, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(base_url=stage.daemon.url, viewport={"width": 1120, "height": 780})
        sign_in(page, stage)
        for snapshot in play(stage, lambda: time.monotonic() - began):
            submission_id = snapshot.submission["submission_id"]
        take(page, "/?minutes=15", "dashboard-fleet")
        take(page, f"/submissions/{submission_id}", "dashboard-submission")
        replaced = next(one for one in snapshot.records if one["replaces"])
        take(page, f"/vms/{replaced['ref']}", "dashboard-vm")
        take(page, "/cost?by=contract", "dashboard-cost")
        browser.close()


def sign_in(page: Page, stage: Stage) -> None:
    page.goto("/")
    page.get_by_label("API token").fill(stage.token)
    page.keyboard.press("Enter")
    page.wait_for_url("**/")


def take(page: Page, path: str, name: str) -> None:
    page.goto(path)
    page.screenshot(path=IMAGES / f"{name}.png")
    print(f"docs/images/{name}.png")


if __name__ == "__main__":
    main()
