"""`AsyncHeadrace` against a real daemon; above all, that whoever stops waiting ends the call."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

import headrace_client
from headrace_client import AsyncHeadrace


@pytest.fixture
async def client(stage):
    async with AsyncHeadrace(stage.address, caller="tests") as client:
        yield client


NUMBERS = itertools.count()  # each call asks for something else, since none shall wait for another's answer


async def create(client, call):
    """Wait for an answer."""
    return await client.messages.create(**call, cache_control="no-store")


async def stream(client, call):
    """Wait for the events of an answer."""
    async with client.messages.stream(**call, cache_control="no-store") as stream:
        return await stream.get_final_message()


async def raw(client, call):
    """Wait for any endpoint."""
    return await client.request("POST", "/v1/messages", json=call | {"system": f"call {next(NUMBERS)}"})


WAYS = [create, stream, raw]


async def test_create_and_repeat(client, ask, stage):
    """An answer says what it is and where it came from; its repeat is the same, from the cache; many may ask at once."""
    first = await client.messages.create(**ask("hello"))
    again = await client.messages.create(**ask("hello"))
    many = await asyncio.gather(*(client.messages.create(**ask(f"number {number % 5}")) for number in range(25)))

    assert (first.source, again.source) == ("upstream", "cache")
    assert again.json() == first.json()
    assert len({answer.message.id for answer in many}) == 5
    assert stage.asked == 6


async def test_stream(client, ask):
    """Pieces of text come one by one, and make the message that create says."""
    async with client.messages.stream(**ask("flow")) as stream:
        pieces = [piece async for piece in stream.text_stream]
        final = await stream.get_final_message()
    assert len(pieces) > 3
    assert "".join(pieces) == final.text
    assert final.json() == (await client.messages.create(**ask("flow"))).json()
    assert final.source == "upstream"


@pytest.mark.parametrize("way", WAYS)
async def test_cancelled_while_it_waits(client, ask, stage, way):
    """A cancelled task ends the call upstream, and stays cancelled."""
    stage.fault("hang", after_deltas=2, stream=True)
    stage.fault("hang", stream=False)
    task = asyncio.create_task(way(client, ask("cancel me")))
    await stage.runs("cancel me")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stage.ended("cancel me")


@pytest.mark.parametrize("way", WAYS)
async def test_cancelled_at_every_step(client, ask, stage, way):
    """Wherever a task is cancelled, from before the connection to deep inside the call, nothing runs on, here or there."""
    stage.fault("hang")
    before = asyncio.all_tasks()
    for steps in range(40):
        task = asyncio.create_task(way(client, ask("every step")))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # One more, which surely arrives after them: whatever they have left upstream is in the journal by then.
    last = asyncio.create_task(way(client, ask("every step")))
    await stage.runs("every step")
    last.cancel()
    with pytest.raises(asyncio.CancelledError):
        await last
    await stage.ended("every step")
    await _until(lambda: asyncio.all_tasks() == before)


async def _until(condition):
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", WAYS)
async def test_cancelled_by_a_timeout_around_it(client, ask, stage, way):
    """A timeout of the caller's own is a TimeoutError, and ends the call."""
    stage.fault("hang")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(way(client, ask("wait for")), 0.3)
    await stage.ended("wait for")


async def test_leaving_a_stream_hangs_up(client, ask, stage):
    """Whoever leaves a stream early ends the call upstream, by an exception too."""
    stage.fault("hang", after_deltas=2)
    for text, error in (("break", None), ("raise", KeyError("mine"))):
        try:
            async with client.messages.stream(**ask(text)) as stream:
                async for _ in stream.text_stream:
                    break
                if error:
                    raise error
        except KeyError:
            assert error
        await stage.ended(text)


async def test_closing_a_stream_from_elsewhere(client, ask, stage):
    """Whoever reads a stream that another task closes gets an error, not a cancellation that nobody asked for."""
    stage.fault("hang", after_deltas=2)
    async with client.messages.stream(**ask("elsewhere")) as stream:
        reading = asyncio.create_task(stream.get_final_message())
        await stage.runs("elsewhere")
        stream.close()
        with pytest.raises(headrace_client.CanceledError):
            await reading


async def test_deadline(client, ask, stage):
    """The timeout is the call's deadline, at the daemon too."""
    stage.fault("hang")
    for way, text in ((create, "in vain"), (stream, "no event")):
        with pytest.raises(headrace_client.DeadlineExceededError):
            await way(client.with_options(timeout=0.5), ask(text))
        await stage.ended(text)


async def test_errors(client, ask, stage):
    """Errors are told by what the caller can do, upstream's with their status."""
    with pytest.raises(headrace_client.NotFoundError) as caught:
        await client.messages.create(**ask("x") | {"model": "nope"})
    assert (caught.value.upstream_status, caught.value.reason) == (404, "UPSTREAM_ERROR")
    with pytest.raises(headrace_client.NotFoundError) as raw_caught:
        await client.models.get("nope")
    assert (raw_caught.value.upstream_status, raw_caught.value.reason) == (404, "UPSTREAM_ERROR")
    stage.fault("half_stream", after_deltas=2)
    with pytest.raises(headrace_client.UnavailableError, match="BROKEN_STREAM"):
        await stream(client, ask("half"))


async def test_nobody_there(tmp_path, ask):
    """Without a daemon a call fails at once."""
    async with AsyncHeadrace(f"unix:{tmp_path}/none.sock") as client:
        with pytest.raises(headrace_client.UnavailableError):
            await client.messages.create(**ask("x"))


async def test_tickets(client, ask):
    """A call that is handed in is answered later; waiting may end before it does."""
    ticket = await client.messages.submit(**ask("later"))
    ended = await client.tickets.wait(ticket.id)
    assert ended.answer().text.startswith('You said: "later"')
    assert (await client.tickets.get(ticket.id)).answer().json() == ended.answer().json()
    assert (await client.tickets.cancel(ticket.id)).state == "succeeded"
    assert ticket.id in [each.id async for each in client.tickets.list()]


async def test_models_counts_and_cache(client, ask):
    """The rest of what a client has."""
    models = [model async for model in client.models.list()]
    assert models
    assert await client.models.get(models[0]["id"]) == models[0]
    call = ask("count me")
    del call["max_tokens"]
    assert await client.messages.count_tokens(**call) > 0
    await client.messages.create(**ask("purge"))
    assert await client.cache.purge(all=True) > 0
    assert sum(tier.entry_count for tier in await client.cache.stats()) == 0


def test_client_outlives_its_loop(stage, ask):
    """A client may be made where no loop runs, and serve one loop after another."""
    client = AsyncHeadrace(stage.address)
    for number in range(2):
        assert asyncio.run(client.messages.create(**ask(f"loop {number}"))).text
