"""
Takes pictures of the live page and of `headrace top`: two daemons, four callers, an upstream that says 429 now and then.

    python -m tests.screenshots [--seconds N]

Callers ask for a minute and a half, so that there is something to see; then each view is taken, in light or dark, wide or as a
phone shows it. Fails if a picture is larger than 300 KB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from browsing import browser, looking
from conftest import start_valkey
from fleet import simulated
from headrace.simulator import Options
from headrace.top.app import Top
from headrace.top.client import Client
from looking import House, admin_socket, admin_url, house

INTO = Path(__file__).parents[2] / "docs" / "screenshots"
MOST_BYTES = 300_000
LIMITS = """[
    {name = "org", per = ["class"], requests_per_minute = 100, input_tokens_per_minute = 9000, burst = "20s"},
    {name = "reports", match = {caller = "reports"}, requests_per_minute = 40, burst = "20s"},
    {name = "nightly", match = {caller = "nightly"}, concurrency = 2},
    {name = "payments", match = {team = "payments"}, spend_per_month = 0.5},
]"""
SETTINGS = {
    "LIMIT": LIMITS,
    "CALLER__CHECKOUT__LANE": "interactive",
    "CALLER__CHECKOUT__TEAM": "payments",
    "CALLER__REPORTS__LANE": "batch",
    "CALLER__NIGHTLY__LANE": "batch",
    "RETRY__BACKOFF": "8s..60s",
}
UPSTREAM = Options(
    first_token_s=0.3,
    tokens_per_s=400.0,
    answer_tokens=(20, 90),
    rate_429=0.05,
    rate_529=0.03,
    retry_after_s=(4.0, 30.0),
    seed=5,
)
MODELS = ("claude-sonnet-4-5", "claude-haiku-4-5", "claude-opus-4-5")
PLAN = {"checkout": 2.5, "support": 1.5, "reports": 1.2, "nightly": 1.0}  # calls a second
SHOTS = (
    ("budgets", "budgets", "light", (1280, 760)),
    ("budgets-dark", "budgets", "dark", (1280, 760)),
    ("line", "line", "light", (1280, 760)),
    ("tickets", "tickets", "dark", (1280, 760)),
    ("callers", "callers", "light", (1280, 560)),
    ("hosts", "hosts", "dark", (1280, 420)),
    ("calls", "calls", "light", (1280, 760)),
    ("usage", "usage", "light", (1280, 700)),
    ("phone", "callers", "light", (390, 844)),
)


async def traffic(pair: House, caller: str, a_second: float, chance: random.Random) -> None:
    """Ask as a caller does: again and again, now and then the same thing."""
    asked: set[asyncio.Task[int]] = set()
    try:
        while True:
            await asyncio.sleep(chance.expovariate(a_second))
            is_old = chance.random() < 0.3
            text = (
                f"{caller} {chance.randrange(4)}" if is_old else f"{caller} {chance.random()}" + " word" * chance.randrange(200)
            )
            at = chance.choice((pair.one, pair.two))
            task = asyncio.create_task(
                pair.call(at, caller, text=text, model=MODELS[0] if is_old else chance.choice(MODELS), within_ms=180_000)
            )
            asked.add(task)
            task.add_done_callback(asked.discard)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def take(running: Any, pair: House) -> None:
    """Take all pictures of the page."""
    for name, view, scheme, (wide, high) in SHOTS:
        options = {"color_scheme": scheme, "viewport": {"width": wide, "height": high}}
        async with looking(running, admin_url(pair.two), **options) as looker:
            await looker.go(view)
            await looker.page.wait_for_timeout(1500)
            await looker.page.screenshot(path=INTO / f"{name}.png")
    rows = await pair.rows(pair.two, "calls")
    call = max(rows, key=lambda row: (row["attempts"] > 1 and not row["reason"], row["took"]))
    async with looking(running, admin_url(pair.two), viewport={"width": 1280, "height": 760}) as looker:
        await looker.go(f"calls/{call['id']}")
        await looker.page.wait_for_timeout(500)
        await looker.page.screenshot(path=INTO / "call.png")


async def take_top(running: Any, pair: House) -> None:
    """Take a picture of `headrace top`."""
    app = Top(Client((f"unix:{admin_socket(pair.one)}",)))
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause(2.5)
        drawn = app.export_screenshot(title="headrace top")
    page = await running.new_page(viewport={"width": 1000, "height": 640})
    await page.set_content(f"<body style='margin:0'>{drawn}</body>")
    await page.locator("svg").first.screenshot(path=INTO / "top.png")


async def main(seconds: float) -> int:
    """Run, and return the exit code."""
    INTO.mkdir(parents=True, exist_ok=True)
    chance = random.Random(4)
    with tempfile.TemporaryDirectory(prefix="s") as directory:
        valkey, url = start_valkey(Path(directory))
        try:
            async with simulated(UPSTREAM) as simulator, house(simulator.url, url, **SETTINGS) as pair, browser() as running:
                callers = [asyncio.create_task(traffic(pair, name, rate, chance)) for name, rate in PLAN.items()]
                await asyncio.sleep(seconds)
                await pair.act(pair.one, "callers/nightly/hold", said={"reason": "runs wild", "for_s": 3600})
                await asyncio.sleep(4)
                await take(running, pair)
                await take_top(running, pair)
                for task in callers:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.gather(*callers)
        finally:
            valkey.terminate()
            valkey.wait(10)
    too_large = [path.name for path in INTO.glob("*.png") if path.stat().st_size > MOST_BYTES]
    for path in sorted(INTO.glob("*.png")):
        print(f"{path.name}: {path.stat().st_size // 1000} KB")
    return 1 if too_large else 0


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=90.0)
    sys.exit(asyncio.run(main(arguments.parse_args().seconds)))
