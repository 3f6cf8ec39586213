"""Idempotency keys over the whole line: a key seen again has the first one's answer, whoever leaves and whatever breaks off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from conftest import until
from flow_parts import Held, SlowStream, asking, in_turn, joined, later, read, running, say
from headrace.errors import BrokenStream, DeadlinePassed, IdempotencyConflict
from headrace.model import Source
from scripted import hang


async def test_idempotent(valkey_url: str, tmp_path: Path) -> None:
    """A key seen again gets the first one's answer, on any host and for no-store calls too; with another call, a no."""
    async with running(valkey_url, tmp_path / "a") as (one, server), later(valkey_url, tmp_path / "b", one) as other:
        key = {"idempotency_key": "k", "cache": "no-store"}
        first = await one.ask(one.call(**key))
        again = [await one.ask(one.call(**key)), await other.ask(other.call(**key))]
        assert server.calls == 1
        assert {reply.ticket for reply in [first, *again]} == {first.ticket}
        with pytest.raises(IdempotencyConflict):
            await one.ask(one.call({"n": 1}, **key))
        assert (await one.ask(one.call(caller="bob", **key))).source is Source.UPSTREAM


async def test_idempotent_outlives(valkey_url: str, tmp_path: Path) -> None:
    """A call with an idempotency key goes on without its caller; who comes with the key again joins it."""
    held = Held()
    async with running(valkey_url, tmp_path, held) as (one, server):
        first = asking(one, one.call(idempotency_key="k"))
        await until(lambda: server.calls == 1)
        first.cancel()
        again = asking(one, one.call(idempotency_key="k"))
        await asyncio.sleep(0.02)
        held.go.set()
        assert (await again).answer is not None
        assert server.calls == 1


@pytest.mark.parametrize("hosts", [1, 2])
async def test_idempotent_refusal(valkey_url: str, tmp_path: Path, hosts: int) -> None:
    """The first one's own no (its deadline) is not the no of the others who came: one of them is the first then."""
    async with (
        running(valkey_url, tmp_path / "a", in_turn(hang, say)) as (one, server),
        later(valkey_url, tmp_path / "b", one) as two,
    ):
        hasty = asking(one, one.call(idempotency_key="k", timeout_s=0.4))
        await until(lambda: server.calls == 1)
        patient = asking(two if hosts == 2 else one, two.call(idempotency_key="k", timeout_s=30))
        with pytest.raises(DeadlinePassed):
            await hasty
        assert (await asyncio.wait_for(patient, 10)).answer is not None
        assert server.calls == 2


async def test_idempotent_half_a_stream(valkey_url: str, tmp_path: Path) -> None:
    """A unary call that joins a stream that breaks off asks once more, and not for ever."""
    slow = SlowStream(breaks=True)
    async with running(valkey_url, tmp_path, in_turn(slow, say)) as (one, server):
        streaming = asyncio.create_task(read(one, one.call({"stream": True}, idempotency_key="k")))
        await until(lambda: server.calls == 1)
        unary = asking(one, one.call(idempotency_key="k"))
        await joined(one, 3)  # the one that answers for all has a flight of its own
        slow.go.set()
        assert isinstance((await streaming)[1], BrokenStream)
        assert (await asyncio.wait_for(unary, 5)).answer is not None
        assert server.calls == 2
