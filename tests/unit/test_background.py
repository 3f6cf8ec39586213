"""Tasks beside the calls: none dies unnoticed."""

import asyncio

import pytest
from structlog.testing import capture_logs

from headrace import observe
from headrace.background import Background
from headrace.clock import HandClock


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
async def background(clock):
    background = Background("part", clock)
    yield background
    await background.close()
    assert len(background) == 0


async def turns(count=20):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_once(background):
    """What is done once is kept from the collector while it runs, and then forgotten."""
    done = asyncio.Event()
    task = background.start(done.wait(), "wait")
    await turns()
    assert background.stats().running == ("part.wait",)
    assert repr(background) == "<Background part [1 running, 0 died]>"

    done.set()
    await task
    await turns()

    assert len(background) == 0


async def test_once_dies(background):
    """What dies is logged and counted, and whoever awaits it goes on."""
    before = observe.BACKGROUND_FAILURES.value("part.die")

    async def die():
        raise ValueError

    with capture_logs() as logs:
        await background.start(die(), "die")

    assert observe.BACKGROUND_FAILURES.value("part.die") == before + 1
    assert [(line["event"], line["part"], line["kind"]) for line in logs] == [("part.crashed", "part.die", "ValueError")]
    assert background.stats().failures == 1


async def test_lasting_begins_anew(background, clock):
    """Lasting work that dies begins anew after a second; the same death every second is told once, and named meanwhile."""
    lives = []

    async def work():
        lives.append(clock.now())
        if len(lives) < 4:
            raise RuntimeError
        await asyncio.Event().wait()

    began = clock.now()
    with capture_logs() as logs:
        background.lasting(work, "work")
        await turns()
        assert background.failing == ("part.work",)
        await clock.advance(5)

    assert lives == [began, began + 1, began + 2, began + 3]
    assert len(logs) == 1
    assert "failing: part.work" in repr(background)
    await clock.advance(10)
    assert background.failing == ()


async def test_foreign_cancellation(background, clock):
    """Work that awaited something which others cancelled has died, and was not cancelled."""
    lives = 0

    async def work():
        nonlocal lives
        lives += 1
        gone = asyncio.get_running_loop().create_future()
        if lives == 1:
            gone.cancel()
        await gone

    task = background.lasting(work, "work")
    await turns()
    await clock.advance(1)

    assert (lives, task.done()) == (2, False)


async def test_lasting_ends(background):
    """Lasting work that returns is done."""

    async def work():
        return None

    await background.lasting(work, "work")
    assert background.stats().failures == 0


async def test_close_insists():
    """Work that swallows its cancellation is cancelled again; and nothing begins any more."""
    background = Background("part")
    swallowed = 0

    async def stubborn():
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 2:
                    raise

    background.start(stubborn(), "stubborn")
    await asyncio.sleep(0)
    await background.close()
    assert (swallowed, len(background)) == (2, 0)

    late = background.start(stubborn(), "late")
    await asyncio.wait([late])
    assert late.cancelled()
