"""A Redis that is slow is there, one that is silent is away: how long the link has patience, and with whom."""

import asyncio
import signal

import pytest

from conftest import start_valkey, until
from gate import HandTimers, gated
from headrace.errors import RedisAway
from headrace.link import Link

_PATIENCE_S = 5.0  # long, since a connection is made by the machine's clock; what follows goes by the test's own


class House:
    """A link whose patience goes by timers of the test's own, and a gate before its Valkey."""

    def __init__(self, url, gate):
        self.timers = HandTimers()
        self.gate = gate
        self.link = Link(url, timeout_s=_PATIENCE_S, timers=self.timers)

    async def ask_three(self):
        """Ask three things in three turns, so that they go and come one by one."""
        self.gate.is_open = False
        asked = []
        for _ in range(3):
            asked.append(self.link.do("INCR", "n"))
            await until(lambda: self.gate.said.qsize() == len(asked))
        return asked

    def patience(self, part):
        """Let so much of our patience pass."""
        self.timers.advance(part * _PATIENCE_S)


@pytest.fixture
async def house(valkey_url, tmp_path):
    async with gated(valkey_url, tmp_path) as (url, gate):
        house = House(url, gate)
        await house.link.do("PING")
        yield house
        await house.link.aclose()


async def test_slow_is_not_silent(house):
    """A Redis that takes longer for many commands than our patience is there, as long as it goes on answering."""
    pipe = house.link._pipe

    for number, asked in enumerate(await house.ask_three()):
        house.patience(0.9)
        await house.gate.let_reply()
        assert await asked == number + 1

    assert house.link._pipe is pipe


async def test_nothing_waits_for_ever(house):
    """However busily Redis answers others, what it has not answered after four times our patience is given up."""
    await house.link.do("SET", "a", "word")
    house.gate.is_open = False
    pipe, asked = house.link._pipe, house.link.do("GET", "a")
    said = await house.gate.said.get()
    for number in range(4):  # it says something, time and again, but no whole reply
        house.patience(0.9)
        house.gate.say(said[number : number + 1])
        await until(lambda: pipe._heard == house.timers.time())
    assert house.link._pipe is pipe
    house.gate.is_open = True
    house.patience(0.5)

    assert await asked == b"word"
    assert house.link._pipe is not pipe


async def test_we_were_the_silent_ones(house):
    """When our own loop stood still, a reply that lies in the socket is read before anybody is given up."""
    house.gate.is_open = False
    pipe, asked = house.link._pipe, house.link.do("INCR", "n")
    await until(lambda: house.gate.said.qsize() == 1)
    house.patience(1)  # the first look finds silence
    await house.gate.let_reply()

    assert await asked == 1
    house.timers.advance(0.001)  # the second finds nothing owed
    assert house.link._pipe is pipe


async def test_taking_in_is_not_silent(house):
    """A Redis that takes a large value in slowly is there, as long as it goes on."""
    house.gate.hears = False
    house.gate.take_some()  # what it was about to read already
    pipe, asked = house.link._pipe, house.link.do("SET", "a", b"x" * 6_000_000)
    for _ in range(4):
        await until(lambda: pipe._transport.get_write_buffer_size() > 0)
        left = pipe._transport.get_write_buffer_size()
        house.patience(0.9)
        for _ in range(4):
            house.gate.take_some()
        await until(lambda left=left: pipe._transport.get_write_buffer_size() < left)
    house.gate.hear()

    assert await asked == b"OK"
    assert house.link._pipe is pipe


async def test_idle_is_not_silent(house):
    """Time in which nothing is owed is no silence."""
    pipe = house.link._pipe
    house.patience(100)
    house.gate.is_open = False
    asked = house.link.do("INCR", "n")
    await until(lambda: house.gate.said.qsize() == 1)
    house.patience(0.9)
    await house.gate.let_reply()

    assert await asked == 1
    assert house.link._pipe is pipe


async def test_falls_silent(house):
    """A Redis that owes a reply and says nothing is given up as soon as patience ends; closing waits for nobody."""
    house.gate.is_open = False
    pipe, asked = house.link._pipe, house.link.do("INCR", "n")
    await until(lambda: house.gate.said.qsize() == 1)
    house.patience(0.99)
    assert house.link._pipe is pipe
    house.patience(0.02)
    assert house.link._pipe is None

    await until(lambda: house.link._opening is not None)  # a second try, which hears nothing either
    await house.link.aclose()
    with pytest.raises(RedisAway, match="closed"):
        await asked


async def test_silent_is_away(tmp_path):
    """A Redis that hangs is away, once patience has ended twice."""
    process, url = start_valkey(tmp_path)
    link = Link(url, timeout_s=0.3)
    try:
        await link.do("PING")
        process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(30):
            with pytest.raises(RedisAway):
                await link.do("PING")
        assert not link.is_up
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(10)
        await link.aclose()
