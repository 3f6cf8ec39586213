"""Who shares a call that waits at another daemon hears which limit held it there, as who shares it at the same one does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import until
from flow_parts import Daemon, Held, asking, in_turn, later, running, say
from headrace.errors import BudgetExhausted, DeadlinePassed
from scripted import Server, hang

ONE = json.dumps([{"name": "org", "concurrency": 1}])
SPAN_S, LATEST_S = 60.0, 3.0

ways = pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])
keys = pytest.mark.parametrize("key", ["", "k"], ids=["plain", "keyed"])


@pytest.fixture
async def pair(valkey_url: str, tmp_path: Path) -> AsyncIterator[tuple[Daemon, Daemon, Server]]:
    """Two daemons; upstream hangs once, then answers."""
    async with (
        running(valkey_url, tmp_path / "one", in_turn(hang, say), LIMIT=ONE) as (one, server),
        later(valkey_url, tmp_path / "two", one, LIMIT=ONE) as two,
    ):
        yield one, two, server


def short(one: Daemon, **what: object) -> object:
    """Return a call whose caller listens for a minute, and for which none may begin after three seconds."""
    call = one.call(timeout_s=SPAN_S, **what)  # type: ignore[arg-type]  # each is of a field
    return replace(call, slack_s=call.deadline - one.parts.clock.now() - LATEST_S)


async def in_line(one: Daemon, server: Server, *, is_stream: bool, key: str = "") -> tuple[asyncio.Task, asyncio.Task]:
    """Begin a call that has the limit's only permit, and one that waits for that."""
    holds = asking(one, one.call({"n": 0}))
    await until(lambda: server.calls == 1)
    leads = asking(one, one.call({"n": 1, "stream": is_stream}, timeout_s=50, idempotency_key=key))
    await until(lambda: one.parts.schedule.stats().asking == 1)
    return holds, leads


async def ended(*tasks: asyncio.Task) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@ways
@keys
async def test_told(pair: tuple[Daemon, Daemon, Server], is_stream: bool, key: str) -> None:
    """All who follow there, and the one who leads waits on."""
    one, two, server = pair
    holds = asking(one, one.call({"n": 0}))
    await until(lambda: server.calls == 1)
    leads = asking(one, one.call({"n": 1, "stream": is_stream}, timeout_s=50, idempotency_key=key))
    await until(lambda: one.parts.schedule.stats().asking == 1)
    begun = two.parts.clock.now()
    calls = [short(two, body={"n": 1, "stream": is_stream}, idempotency_key=key) for _ in range(3)]
    said = await asyncio.gather(*(two.ask(call) for call in calls), return_exceptions=True)
    for error in said:
        assert isinstance(error, BudgetExhausted), repr(error)
        assert error.metadata == {"limit": "org"}
    assert two.parts.clock.now() < begun + SPAN_S / 2
    assert not leads.done()
    assert server.calls == 1
    await ended(holds, leads)
    await until(lambda: not two.held(), what=two.held())


@ways
@keys
async def test_slow_upstream(valkey_url: str, tmp_path: Path, is_stream: bool, key: str) -> None:
    """Once it is at upstream no limit holds it: its followers are late by upstream."""
    go, answer = Held(), Held()
    async with (
        running(valkey_url, tmp_path / "one", in_turn(go, answer), LIMIT=ONE) as (one, server),
        later(valkey_url, tmp_path / "two", one, LIMIT=ONE) as two,
    ):
        holds, leads = await in_line(one, server, is_stream=is_stream, key=key)
        call = two.call({"n": 1, "stream": is_stream}, timeout_s=4.0, idempotency_key=key)
        follows = asking(two, call)
        await until(lambda: call.trail is not None and call.trail.told == "org")
        go.go.set()
        await until(lambda: server.calls == 2)
        with pytest.raises(DeadlinePassed):
            await follows
        answer.go.set()
        await asyncio.gather(holds, leads)
        await until(lambda: not two.held(), what=two.held())


@ways
async def test_told_as_it_goes(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stream: bool) -> None:
    """That it has its turn is said at once, and not at the next look: it may be the moment in which a follower's time is up."""
    monkeypatch.setattr("headrace.flight.lease._TELL_S", 60.0)  # its lease is renewed every five seconds
    go, answer = Held(), Held()
    async with (
        running(valkey_url, tmp_path / "one", in_turn(go, answer), LIMIT=ONE) as (one, server),
        later(valkey_url, tmp_path / "two", one, LIMIT=ONE) as two,
    ):
        holds, leads = await in_line(one, server, is_stream=is_stream)
        call = two.call({"n": 1, "stream": is_stream}, timeout_s=40)
        follows = asking(two, call)
        await until(lambda: call.trail is not None and call.trail.told == "org")
        go.go.set()
        await until(lambda: server.calls == 2)
        await until(lambda: call.trail is not None and call.trail.told == "", within=3)
        answer.go.set()
        await asyncio.gather(holds, leads, follows)
