"""The process beside this one: jobs in their order, and whatever happens to it, the next job is done."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conftest import until
from headrace.aside import Aside, AsideStats, aloof, joined
from headrace.errors import HeadraceError, InvalidCall, TooLarge

JOB = "odd_jobs:job"


@pytest.fixture
async def aside(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Aside]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("HEADRACE_UPSTREAM__API_KEY", "sk-secret")
    made = Aside((JOB,))
    yield made
    await made.aclose()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_jobs(aside: Aside) -> None:
    """One helper does all, large and small, in the order in which they came; it starts with the first."""
    assert repr(aside) == "<Aside [at rest, 0 waiting, 0 done]>"
    done: list[int] = []

    async def one(number: int, size: int) -> None:
        assert await aside.run(JOB, b"r%d" % number, b"x" * size) == b"%d" % number + b"x" * size
        done.append(number)

    await asyncio.gather(*(one(number, size) for number, size in enumerate((0, 1, 5_000_000, 1, 0))))
    assert done == [0, 1, 2, 3, 4]
    pid = int(await aside.run(JOB, b"p", b""))
    assert aside.stats() == AsideStats(pid=pid, waiting=0, done=6, started=1)
    assert repr(aside) == f"<Aside [pid {pid}, 0 waiting, 6 done]>"
    await aside.aclose()
    assert not is_alive(pid)


async def test_no_key(aside: Aside) -> None:
    """Nothing of the configuration goes to the helper, not even by its environment."""
    assert b"HEADRACE" not in await aside.run(JOB, b"s", b"")


async def test_refusal(aside: Aside) -> None:
    """A job's own no comes as it was said; a fault comes without a word of it; the helper goes on after both."""
    with pytest.raises(InvalidCall) as refused:
        await aside.run(JOB, b"i", b"")
    assert (refused.value.message, refused.value.metadata) == ("no \ud800", {"field": "f"})
    with pytest.raises(HeadraceError, match="internal error"):
        await aside.run(JOB, b"f", b"")
    assert await aside.run(JOB, b"r", b"x") == b"x"
    assert aside.stats().started == 1


async def test_memory(aside: Aside) -> None:
    """A job that wants more memory than there may be is refused, and harms nobody."""
    with pytest.raises(TooLarge):
        await aside.run(JOB, b"m", b"")
    assert await aside.run(JOB, b"r", b"x") == b"x"


async def test_killed_at_rest(aside: Aside) -> None:
    """A helper that has died is started anew."""
    first = int(await aside.run(JOB, b"p", b""))
    os.kill(first, signal.SIGKILL)
    assert int(await aside.run(JOB, b"p", b"")) != first
    assert aside.stats().started == 2


async def test_killed_at_work(aside: Aside, tmp_path: Path) -> None:
    """A job whose helper is killed is done by the next; one that kills every helper is refused."""
    assert await aside.run(JOB, b"o%b" % os.fsencode(tmp_path / "mark"), b"first") == b"done"
    with pytest.raises(TooLarge):
        await aside.run(JOB, b"d", b"")
    assert await aside.run(JOB, b"r", b"x") == b"x"


async def test_left(aside: Aside, tmp_path: Path) -> None:
    """A caller who leaves ends its job; who waits behind it has its turn, and who left the line has none."""
    begun = tmp_path / "begun"
    endless = asyncio.create_task(aside.run(JOB, b"w%b" % os.fsencode(begun), b""))
    await until(begun.exists)
    waiting = [asyncio.create_task(aside.run(JOB, b"r%d" % number, b"")) for number in range(3)]
    await until(lambda: aside.stats().waiting == 3)
    waiting[1].cancel()
    await until(lambda: aside.stats().waiting == 2)
    pid = aside.stats().pid
    endless.cancel()
    await asyncio.wait(waiting)
    assert (waiting[0].result(), waiting[2].result()) == (b"0", b"2")
    assert waiting[1].cancelled()
    await until(lambda: not is_alive(pid))


async def test_aloof() -> None:
    """What is large is worked on in a thread, and comes to the same."""
    for size in (10, 3_000_000):
        assert await aloof(b"x" * size, lambda a, b: a + b, 1, 2) == 3


async def test_joined() -> None:
    """Chunks are put together: a few at once, large ones while the loop has its turns."""
    assert await joined([]) == b""
    assert await joined([b"a", b"bc"]) == b"abc"
    chunks = [bytes([number]) * 200_000 for number in range(150)]
    turns, task = 0, asyncio.ensure_future(joined(chunks))
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    assert await task == b"".join(chunks)
    assert turns > 10
