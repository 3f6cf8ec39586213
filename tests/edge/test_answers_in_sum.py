"""Large whole answers that come at once lie in memory one after the other, and all of them arrive."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from conftest import until
from headrace.basin import Basin
from headrace.errors import AttemptFailed
from scripted import CALL, MESSAGE, Line, asking

MOST, SIZE, PIECE = 1_000_000, 4_000_000, 1 << 18
LARGE = json.dumps(json.loads(MESSAGE) | {"content": [{"type": "text", "text": "x" * SIZE}]}).encode()


async def in_pieces(line: Line) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(LARGE))
    for at in range(0, len(LARGE), PIECE):
        await line.say(LARGE[at : at + PIECE])


async def cut_off(line: Line) -> None:
    await line.say(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(LARGE))
    await line.say(LARGE[: SIZE // 2])
    line.writer.close()


async def most_bytes(basin: Basin) -> int:
    """Look each turn of the loop, until cancelled; return the most that there was."""
    most = 0
    try:
        while True:
            most = max(most, basin.stats().bytes)
            await asyncio.sleep(0)
    except asyncio.CancelledError:
        return most


async def test_one_after_the_other() -> None:
    """However many come: never more than the bound and one of them, and all are whole."""
    async with asking(in_pieces) as (upstream, _):
        basin = upstream._basin = Basin(MOST, now=time.monotonic)
        looking = asyncio.create_task(most_bytes(basin))
        answers = await asyncio.gather(*(upstream.ask(CALL) for _ in range(8)))
        looking.cancel()
        assert {answer.payload for answer in answers} == {LARGE}
        assert MOST < await looking <= MOST + len(LARGE) + 8 * PIECE
        assert basin.stats().bytes == basin.stats().bodies == 0


@pytest.mark.parametrize("talk", [in_pieces, cut_off])
async def test_given_back(talk) -> None:
    """What an attempt that was given up or broke off held is free."""
    async with asking(talk) as (upstream, _):
        basin = upstream._basin = Basin(MOST, now=time.monotonic)
        asked = [asyncio.create_task(upstream.ask(CALL)) for _ in range(4)]
        if talk is in_pieces:
            await until(lambda: basin.stats().waiting >= 1)
            for each in asked:
                each.cancel()
        for came in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(came, asyncio.CancelledError | AttemptFailed)
        assert basin.stats().bytes == basin.stats().waiting == 0
