"""
The live page in a real browser: what is there is shown, an event is on the screen within a second, keys and acts work, light
and dark, wide and narrow.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from browsing import browser, chromium, looking
from conftest import BY_THE_CLOCK
from fleet import simulated
from headrace.admin.page import KEYS
from headrace.simulator import Options
from looking import MODEL, ROLES, House, admin_url, house, shown

EVIL = "<script>window.pwned=1</script>"
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1}


@contextlib.asynccontextmanager
async def stage(valkey_url: str, **settings: str) -> AsyncIterator[House]:
    """Two daemons with something to see in every view: calls that went, that wait, that failed, one with an evil model."""
    chromium()
    options = Options.instant(rate_429=0.2, retry_after_s=(1.0, 1.0), seed=3)
    async with simulated(options) as simulator, house(simulator.url, valkey_url, **settings) as pair:
        await asyncio.gather(*(pair.call(pair.one, text=f"{number % 4}") for number in range(8)))
        waiting = [
            asyncio.create_task(pair.call(at, "reports", within_ms=300_000)) for at in (pair.one, pair.two) for _ in range(3)
        ]
        try:
            yield pair
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


@pytest.fixture
async def pair(valkey_url):
    async with stage(valkey_url) as made:
        yield made


@pytest.fixture
async def running():
    async with browser() as started:
        yield started


async def test_views(pair: House, running):
    """Each view, reached by its key, shows what is there; nothing is asked of anybody else, and nothing goes wrong."""
    async with looking(running, admin_url(pair.two)) as looker:
        await looker.go("budgets")
        words = {
            "budgets": ["reports", "org", "requests of 2/min", "last 15 minutes"],
            "line": ["reports", "requests", "would wait"],
            "tickets": ["queued", "dead letters"],
            "callers": ["ann", "reports", "calls/min", "hold"],
            "hosts": ["serving", "takes jobs", "ms"],
            "calls": ["ann", MODEL, "upstream"],
            "usage": ["ann", "saved by the cache", MODEL],
        }
        for key, view in KEYS.items():
            await looker.page.keyboard.press(key)
            await looker.page.wait_for_url(f"**/admin/{view}")
            for word in words[view]:
                await looker.sees(word)
        await looker.go("calls")
        await looker.page.click("td a")
        await looker.page.wait_for_url("**/admin/calls/*")
        await looker.sees("attempt 1")
        assert await looker.page.locator("svg.call rect.phase").count() >= 1
        assert looker.wrong == []


async def test_escaped(pair: House, running):
    """What a caller made up, here a model, is text on every screen."""
    body = {"model": EVIL, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"anthropic-version": "2023-06-01", "x-headrace-caller": "ann"}
    async with pair.session.post(f"{pair.one.http}/v1/messages", json=body, headers=headers) as response:
        await response.read()
    async with looking(running, admin_url(pair.two)) as looker:
        for view in ("calls", "usage"):
            await looker.go(view)
            await looker.sees("<script>")
        assert await looker.page.evaluate("window.pwned") is None
        assert looker.wrong == []


@BY_THE_CLOCK
async def test_within_a_second(pair: House, running):
    """What happens at the other daemon is on the screen within a second, and nothing was loaded anew."""
    async with looking(running, admin_url(pair.two)) as looker:
        await looker.go("line")
        await looker.sees("reports")
        await looker.page.evaluate("window.loaded = 1")
        await pair.act(pair.one, "callers/eve/hold")
        began = time.monotonic()
        waiting = asyncio.create_task(pair.call(pair.one, "eve", within_ms=60_000))
        await looker.sees("eve")
        took_s = time.monotonic() - began
        assert await looker.page.evaluate("window.loaded") == 1
        waiting.cancel()
        assert took_s < 1.0


async def test_keyboard(pair: House, running):
    """Rows are gone through by keys, the filter is reached, and what has the focus keeps it while the page changes."""
    async with looking(running, admin_url(pair.two)) as looker:
        await looker.go("callers")
        await looker.sees("reports")
        await looker.page.keyboard.press("j")
        first = await looker.page.evaluate("document.activeElement.dataset.key")
        await looker.page.keyboard.press("j")
        second = await looker.page.evaluate("document.activeElement.dataset.key")
        assert first
        assert second
        assert first != second
        at = await looker.page.inner_text("time.at")
        await looker.page.wait_for_function("at => document.querySelector('time.at').innerText !== at", arg=at)
        assert await looker.page.evaluate("document.activeElement.dataset.key") == second
        await looker.page.keyboard.press("k")
        assert await looker.page.evaluate("document.activeElement.dataset.key") == first
        await looker.go("tickets")
        await looker.page.keyboard.press("/")
        await looker.page.keyboard.type("rep*")
        await asyncio.sleep(1.0)  # what is typed must survive what comes meanwhile
        assert await looker.page.input_value("#filter") == "rep*"
        await looker.page.keyboard.press("Enter")
        await looker.page.wait_for_url("**/admin/tickets?caller=rep*")
        await looker.go("budgets")
        await looker.page.keyboard.press("Tab")
        assert await looker.page.evaluate("document.activeElement.className") == "skip"
        assert looker.wrong == []


CONTRAST = """() => {
  const part = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => part(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (!color.endsWith(', 0)')) return color;
    }
    return 'rgb(255,255,255)';
  };
  const ratio = (node) => {
    const [one, two] = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a);
    return (one + 0.05) / (two + 0.05);
  };
  return [...document.querySelectorAll('#view td, #view th, #view small, nav a, .summary b, .state, .chip, footer p')]
    .filter(node => node.innerText.trim() && node.offsetParent && ratio(node) < 4.5)
    .map(node => `${node.tagName} ${node.className} ${node.innerText.slice(0, 20)} ${ratio(node)}`);
}"""


async def test_light_and_dark(pair: House, running):
    """The page goes by what the system prefers, and every text stands out from what is behind it in both."""
    backs = []
    for scheme in ("light", "dark"):
        async with looking(running, admin_url(pair.two), color_scheme=scheme) as looker:
            for view in ("budgets", "callers", "hosts", "calls"):
                await looker.go(view)
                assert await looker.page.evaluate(CONTRAST) == []
            backs.append(await looker.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(set(backs)) == 2


async def test_phone(pair: House, running):
    """On a phone nothing goes past the side, whatever view it is, and however long what callers made up."""
    await pair.call(pair.one, model=f'\U0001f98a"<b>{"m" * 200}')
    async with looking(running, admin_url(pair.two), **PHONE) as looker:
        await looker.go("calls")
        href = await looker.page.get_attribute("td a", "href")
        for view in (*KEYS.values(), href.removeprefix("/admin/")):
            await looker.go(view)
            wide = await looker.page.evaluate("document.scrollingElement.scrollWidth")
            assert wide <= 390, view
        assert looker.wrong == []


async def test_acts(pair: House, running):
    """A caller is held with a reason and released; what came of it is said, and the other daemon goes by it."""
    async with looking(running, admin_url(pair.two)) as looker:
        await looker.go("callers")
        await looker.page.click("tr[data-key=ann] button[data-act=hold]")
        await looker.page.fill("dialog [name=reason]", "runs wild")
        await looker.page.select_option("dialog [name=for_s]", "900")
        await looker.page.keyboard.press("Enter")
        await looker.page.wait_for_function("() => document.getElementById('said').innerText === 'ann is on hold'")
        await looker.sees("runs wild")
        status = await pair.call(pair.one, "ann", text="new", within_ms=300)
        assert status == 429
        await looker.page.click("tr[data-key=ann] button[data-act=release]")
        await looker.page.click("dialog button[value=do]")
        await looker.page.wait_for_function("() => document.getElementById('said').innerText === 'ann goes on'")
        await looker.page.wait_for_selector("tr[data-key=ann] button[data-act=hold]")
        await looker.page.click("tr[data-key=ann] button[data-act=hold]")
        await looker.page.click("#leave")
        assert '"act":"caller.held"' in pair.two.served.log
        assert pair.two.served.log.count('"act.done"') == 2
        assert looker.wrong == []


async def test_observers(valkey_url, running):
    """An observer's browser shows the page and nothing to act with; what its script asks for all the same is refused."""
    async with stage(valkey_url, **ROLES) as pair, looking(running, admin_url(pair.two), key=pair.keys["eye"]) as looker:
        await looker.go("callers")
        await looker.sees("reports")
        assert await looker.page.locator("[data-act]").count() == 0
        asked = (
            "fetch('/admin/api/callers/ann/hold', {method: 'POST', headers: {'content-type': 'application/json'}, body: '{}'})"
        )
        assert await looker.page.evaluate(f"{asked}.then(answer => answer.status)") == 403

        async def is_free() -> bool:
            rows = (await pair.view(pair.one, "callers", "eye"))[1]["rows"]
            return all(row["held"] is None for row in rows)

        await shown(is_free)


async def test_lost(valkey_url, running):
    """A page whose daemon has gone says that it is not live, and goes on when there is one again."""
    # A daemon that calls wait in would be half a minute about its leaving.
    async with stage(valkey_url, DRAIN__TIME="1s") as pair, looking(running, admin_url(pair.two)) as looker:
        await looker.go("hosts")
        await looker.sees("serving")
        await asyncio.to_thread(pair.two.served.stop)
        await looker.page.wait_for_selector("body.stale")
