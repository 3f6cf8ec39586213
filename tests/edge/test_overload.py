"""An overload of a model class: its calls wait at the gate, come back one by one, and hear in time why they cannot go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from conftest import until
from flow_parts import LIMIT, asking, overloaded, running, say
from headrace.budget.gate import Verdict
from headrace.budget.ledger import NOTHING_SAID
from headrace.errors import UpstreamOverloaded
from headrace.schedule import turn
from scripted import EVENTS, Line

HIT = b'"hit"'


class Slow:
    """An upstream that is overloaded once, and whose streams begin at once and end when they are let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        self._has_hit = False

    async def __call__(self, line: Line) -> None:
        if HIT in line.body and not self._has_hit:
            self._has_hit = True
            return await overloaded(line)
        await line.begin_stream()
        await line.chunk(b"".join(EVENTS[:4]))
        self.begun += 1
        await self.go.wait()
        for raw in EVENTS[4:]:
            await line.chunk(raw)
        await line.say(b"0\r\n\r\n")
        return None


def ask(one, text: str, **more):
    return asking(one, one.call({"stream": True, "messages": [{"role": "user", "content": text}]}, **more))


@pytest.mark.parametrize("limit", ["[]", LIMIT], ids=["no limit", "limit"])
async def test_begun_is_well(valkey_url: str, tmp_path: Path, limit: str) -> None:
    """Upstream has taken a call once it begins to answer: the next do not wait until the answer is whole."""
    slow = Slow()
    async with running(valkey_url, tmp_path, slow, LIMIT=limit) as (one, server):
        calls = [ask(one, "hit")]
        await until(lambda: one.parts.schedule.tuner.stats().gates.troubled)
        calls += [ask(one, f"{number}") for number in range(4)]
        await until(lambda: slow.begun == 5, what=f"{server.calls} calls")
        slow.go.set()
        assert {reply.attempts for reply in await asyncio.gather(*calls)} == {1, 2}


async def test_silence_is_well(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a call that is no stream nothing is heard until it is whole; but upstream says no sooner than that, if it does."""
    monkeypatch.setattr(turn, "TAKEN_S", 0.2)
    silent, asked = asyncio.Event(), []

    async def talk(line: Line) -> None:
        asked.append(line)
        if len(asked) == 1:
            await overloaded(line)
        else:
            await silent.wait()
            await say(line)

    async with running(valkey_url, tmp_path, talk) as (one, _):
        calls = [asking(one, one.call({"n": 0}))]
        await until(lambda: one.parts.schedule.tuner.stats().gates.troubled)
        calls += [asking(one, one.call({"n": number})) for number in range(1, 6)]
        await until(lambda: len(asked) == 7)
        silent.set()
        assert {reply.attempts for reply in await asyncio.gather(*calls)} == {1, 2}


async def test_whole_is_well_once(valkey_url: str, tmp_path: Path) -> None:
    """A stream that has said by its beginning that upstream is well does not say it again by its end."""
    slow = Slow()
    async with running(valkey_url, tmp_path, slow) as (one, _):
        told: list[Verdict] = []
        settle = one.parts.schedule._ledger.settle

        def settling(hold_id, wants, actual, said=NOTHING_SAID):
            told.append(said.verdict)
            return settle(hold_id, wants, actual, said)

        one.parts.schedule._ledger.settle = settling
        hit = ask(one, "hit")
        await until(lambda: slow.begun == 1)
        slow.go.set()
        await hit
        assert told == [Verdict.OVERLOADED, Verdict.WELL, Verdict.UNKNOWN]


async def test_hears_why(valkey_url: str, tmp_path: Path) -> None:
    """Who waits at a gate until its time is up hears that upstream is overloaded, and a time after which to come back."""
    async with running(valkey_url, tmp_path, overloaded, RETRY__BACKOFF="6s..12s") as (one, _):
        first = ask(one, "first", timeout_s=30)
        await until(lambda: one.parts.schedule.tuner.stats().gates.troubled)
        calls = [ask(one, f"{number}", timeout_s=2.0 + number / 100) for number in range(30)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {UpstreamOverloaded}
        assert min(error.retry_after_s for error in errors) > 0.1
        first.cancel()
