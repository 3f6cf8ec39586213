"""A caller that gives up soon after the moment past which no attempt is begun hears its no before, whatever its call is."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import until
from flow_parts import asking, in_turn, running, say
from headrace.errors import BudgetExhausted
from scripted import hang

ONE = json.dumps([{"name": "org", "concurrency": 1}])
DEADLINE_S, LATEST_S = 60.0, 1.0


@pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("key", ["", "k"], ids=["plain", "keyed"])
async def test_budget(valkey_url: str, tmp_path: Path, is_stream: bool, key: str) -> None:
    """One that stands behind others of its caller for a permit, and has a key or none."""
    async with running(valkey_url, tmp_path, in_turn(hang, say), LIMIT=ONE) as (one, server):
        holds = asking(one, one.call({"n": 0}))
        await until(lambda: server.calls == 1)
        patient = [asking(one, one.call({"n": n}, timeout_s=50)) for n in (1, 2)]
        await until(lambda: one.parts.schedule.stats().waiting == 2)
        call = one.call({"n": 3, "stream": is_stream}, timeout_s=DEADLINE_S, idempotency_key=key)
        call = replace(call, slack_s=call.deadline - one.parts.clock.now() - LATEST_S)
        with pytest.raises(BudgetExhausted):
            await asking(one, call)
        assert one.parts.clock.now() < call.deadline - DEADLINE_S / 2
        assert server.calls == 1
        for task in (holds, *patient):
            task.cancel()
        await asyncio.gather(holds, *patient, return_exceptions=True)
        await until(lambda: not one.held())


@pytest.mark.parametrize("is_stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("key", ["", "k"], ids=["plain", "keyed"])
async def test_follower(valkey_url: str, tmp_path: Path, is_stream: bool, key: str) -> None:
    """One that shares the call of somebody more patient hears which limit held it, and the other waits on."""
    async with running(valkey_url, tmp_path, in_turn(hang, say), LIMIT=ONE) as (one, server):
        holds = asking(one, one.call({"n": 0}))
        await until(lambda: server.calls == 1)
        leads = asking(one, one.call({"n": 1, "stream": is_stream}, timeout_s=50, idempotency_key=key))
        await until(lambda: one.parts.schedule.stats().asking == 1)
        call = one.call({"n": 1, "stream": is_stream}, timeout_s=DEADLINE_S, idempotency_key=key)
        call = replace(call, slack_s=call.deadline - one.parts.clock.now() - LATEST_S)
        with pytest.raises(BudgetExhausted) as told:
            await asking(one, call)
        assert told.value.metadata == {"limit": "org"}
        assert one.parts.clock.now() < call.deadline - DEADLINE_S / 2
        assert not leads.done()
        for task in (holds, leads):
            task.cancel()
        await asyncio.gather(holds, leads, return_exceptions=True)
        await until(lambda: not one.held())
