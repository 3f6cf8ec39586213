"""A headless browser for tests: the system's chromium, driven by Playwright, that asks nobody but the page's own daemon."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from conftest import missing

_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run")


@dataclass
class Looker:
    """A page, and what went wrong in it: errors of its script, refusals of its policy, requests to anywhere else."""

    page: Any
    origin: str
    wrong: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda asked: None if asked.url.startswith(self.origin) else self.wrong.append(asked.url))

    async def go(self, view: str) -> None:
        await self.page.goto(f"{self.origin}/admin/{view}")

    async def text(self) -> str:
        return str(await self.page.inner_text("#view"))

    async def sees(self, words: str, *, within_s: float = 10.0) -> None:
        """Wait until these words are on the screen."""
        await self.page.wait_for_function(
            "words => document.getElementById('view').innerText.includes(words)", arg=words, timeout=within_s * 1000, polling=20
        )


def chromium() -> str:
    """Return the path of a chromium; skip, or fail in CI, where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), "") or missing("chromium (Debian: apt install chromium)") or ""


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Any]:
    """Run a browser."""
    try:
        from playwright.async_api import async_playwright
    except ImportError:
        missing("playwright (pip install playwright)")
        raise
    path = chromium()
    async with async_playwright() as driver:
        running = await driver.chromium.launch(executable_path=path, args=list(_OPTIONS))
        try:
            yield running
        finally:
            await running.close()


@contextlib.asynccontextmanager
async def looking(running: Any, origin: str, *, key: str = "", **options: Any) -> AsyncIterator[Looker]:
    """Open a page in a context of its own; *key* is what the browser's user gives as its password."""
    if key:
        options["http_credentials"] = {"username": "any", "password": key}
    context = await running.new_context(**options)
    try:
        looker = Looker(await context.new_page(), origin)
        looker.listen()
        yield looker
    finally:
        await context.close()
