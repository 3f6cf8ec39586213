"""Labels, lanes of the daemon's own, and what was used of them: typed and raw, for threads and for asyncio."""

from __future__ import annotations

import datetime
import inspect

import pytest

import headrace_client
from headrace_client import AsyncHeadrace, Headrace

SETTINGS = {"LANE__NIGHTLY__SHARE": "0.1", "CALLER__ANN__LABELS": '["env", "feature"]'}
OURS = {"lane": "nightly", "labels": {"feature": "search"}}


async def of(value):
    """Return what either client gives."""
    return await value if inspect.isawaitable(value) else value


async def streamed(client, **call):
    """Ask for an answer piece by piece, and wait for all of it."""
    if isinstance(client, Headrace):
        with client.messages.stream(**call) as stream:
            return stream.get_final_message()
    async with client.messages.stream(**call) as stream:
        return await stream.get_final_message()


@pytest.fixture(scope="module")
def address(own_stage):
    with own_stage(**SETTINGS) as stage:
        yield stage.address


@pytest.fixture(params=[Headrace, AsyncHeadrace])
async def client(request, address):
    """A client with a label of its own, for each way of waiting."""
    client = request.param(address, caller="ann", labels={"env": request.node.name.partition("[")[0]})
    yield client
    await of(client.close())


async def used(client, env):
    """Count the calls of an env by lane and labels."""
    told = await of(client.usage.get(by=["lane", "labels"], labels=f"*env={env}*", lane="*"))
    return {tuple(row.group): row.calls.upstream + row.calls.cache for row in told.rows}


async def test_every_way(client, ask):
    """A call's lane may have any name, and its labels go beside the client's, whichever way it goes."""
    call = ask("every way", cache_control="no-store")
    before = await used(client, "test_every_way")
    ticket = await of(client.messages.submit(**call, **OURS))
    await of(client.tickets.wait(ticket.id, timeout=20))
    await of(client.messages.create(**call, **OURS))
    await streamed(client, **call, **OURS)
    await of(client.messages.count_tokens(model=call["model"], messages=call["messages"], **OURS))
    await of(client.request("POST", "/v1/messages", json=ask("raw"), **OURS))
    await of(
        client.with_options(lane="Nightly", labels={"env": "test_every_way", "feature": "search"}).models.get(call["model"])
    )
    after = await used(client, "test_every_way")
    group = ("nightly", "env=test_every_way,feature=search")
    assert set(after) == {group}
    assert after[group] - before.get(group, 0) == 6


async def test_refused(client, ask):
    """What the daemon does not know it names, and what it does: lanes and labels."""
    with pytest.raises(headrace_client.InvalidRequestError, match=r"there are .*, nightly"):
        await of(client.messages.create(**ask("refused"), lane="nigthly"))
    with pytest.raises(headrace_client.InvalidRequestError, match="may send env, feature"):
        await of(client.messages.create(**ask("refused"), labels={"colour": "red"}))
    with pytest.raises(headrace_client.InvalidRequestError, match=r"there are .*, nightly"):
        await of(client.request("POST", "/v1/messages", json=ask("refused"), lane="nigthly"))
    with pytest.raises(ValueError, match="labels"):
        await of(client.request("POST", "/v1/messages", json=ask("refused"), labels={"env": "prod, feature=x"}))


async def test_usage(client, ask):
    """What was used is told by spans and groups; what cannot be asked is refused, here or there."""
    await of(client.messages.create(**ask("used")))
    now = datetime.datetime.now(datetime.timezone.utc)
    told = await of(client.usage.get(since=now - datetime.timedelta(days=1), until=now, by=["label.env"], per="day"))
    assert "test_usage" in {row.group[0] for row in told.rows}
    assert told.since_time.seconds % 86_400 == 0
    assert not (await of(client.usage.get(caller="nobody"))).rows
    with pytest.raises(headrace_client.InvalidRequestError):
        await of(client.usage.get(by=["colour"]))
    for wrong in ({"per": "week"}, {"colour": "red"}):
        with pytest.raises(ValueError, match=r"week|colour"):
            await of(client.usage.get(**wrong))
