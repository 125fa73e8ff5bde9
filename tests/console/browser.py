"""A browser that looks at the console, and remembers what went wrong and what was asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Playwright, sync_playwright

CHROMIUM = "/usr/bin/chromium"
PICTURES = "CONSOLE_PICTURES"
"""The variable that names a folder for pictures of the views; without it none are taken."""
DESKTOP, PHONE = (1280, 800), (390, 844)
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launched(playwright)
        yield browser
        browser.close()


def launched(playwright: Playwright) -> Browser:
    """Debian's Chromium (`apt-get install chromium`), else the one that Playwright has fetched itself."""
    path = CHROMIUM if Path(CHROMIUM).exists() else None
    return playwright.chromium.launch(executable_path=path, args=list(_QUIET))


@dataclass
class Looking:
    """A page of the console at `url`, where the server is."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.page.on("console", lambda said: self._hear(said.type, said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _hear(self, kind: str, text: str) -> None:
        # A status that is no success is told by the browser itself; the page says what it means.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.complaints.append(f"{kind}: {text}")

    def open(self, view: str = "models") -> Page:
        self.page.goto(f"{self.url}/console#/{view}")
        self.page.wait_for_selector("nav.tabs a")
        return self.page

    def elsewhere(self) -> list[str]:
        """What was asked for from anybody else."""
        return [url for url in self.asked if not url.startswith((f"{self.url}/", "data:", "blob:"))]

    def too_wide(self) -> int:
        """Pixels that the page is wider than its window."""
        width: int = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return max(0, width)

    def picture(self, name: str) -> None:
        if folder := os.environ.get(PICTURES):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder, f"{name}.png"))


@contextlib.contextmanager
def looking(browser: Browser, url: str, size: tuple[int, int] = DESKTOP, **context: Any) -> Iterator[Looking]:
    """At its end: nothing was complained of, and nobody else was asked."""
    viewport = {"width": size[0], "height": size[1]}
    tab = browser.new_context(viewport=viewport, **{"locale": "en-GB", **context})  # type: ignore[arg-type]
    tab.set_default_timeout(15_000)
    seen = Looking(tab.new_page(), url)
    try:
        yield seen
        assert seen.complaints == []
        assert seen.elsewhere() == []
    finally:
        tab.close()
