"""A real browser: Debian's Chromium, driven by Playwright. CI fails without it; elsewhere these tests say how to get it."""

import os
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None and not os.environ.get("CI"):
        why = "no Chromium was found; install one (Debian: apt-get install chromium) to run the browser tests"
        for item in items:
            if "browser" in item.path.parent.parts:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    assert CHROMIUM, "no Chromium was found: apt-get install chromium"
    # Its sandbox needs rights that root in a container has not; it opens only pages of ours.
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        await browser.close()
