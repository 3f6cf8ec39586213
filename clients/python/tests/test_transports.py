"""HTTP clients on the daemon's socket: httpx and httpx2, for threads and for asyncio."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path

import pytest

from transport_parts import HEADERS, URL, Library


def test_modules_are_twins():
    """The two modules differ in nothing but the library they name, and the SDK in their example."""
    texts = {}
    for name in ("httpx", "httpx2"):
        texts[name] = Path(Library(name).ours.__file__).read_text()
    swapped = texts["httpx"].replace("httpx2", "\0").replace("httpx", "httpx2").replace("\0", "httpx")
    assert texts["httpx2"] == swapped.replace("openai.OpenAI", "anthropic.Anthropic")


def test_post_and_repeat(library, stage, ask):
    """A call is answered as over HTTP, headers included; its repeat comes from the cache."""
    with library.client(stage.address) as client:
        first, again = (client.post(URL, json=ask("hello")) for _ in range(2))
    assert first.status_code == 200
    assert first.json()["content"][0]["text"].startswith('You said: "hello"')
    assert first.headers["x-headrace-source"] == "upstream"
    assert again.headers["x-headrace-source"] == "cache"
    assert again.content == first.content


async def test_post_and_repeat_async(library, stage, ask):
    """The same for asyncio, and many at once."""
    async with library.async_client(stage.address) as client:
        first = await client.post(URL, json=ask("hello"))
        many = await asyncio.gather(*(client.post(URL, json=ask(f"number {number % 5}")) for number in range(25)))
    assert first.headers["x-headrace-source"] == "upstream"
    assert len({response.json()["id"] for response in many}) == 5


def test_same_as_over_http(library, stage, ask):
    """What comes over the socket is what comes over HTTP, byte for byte."""
    with library.client(stage.address) as ours, library.module.Client(headers=HEADERS) as theirs:
        for body in (ask("same"), ask("same", stream=True), ask("wrong", max_tokens=-1), {"no": "call"}):
            there = theirs.post(f"{stage.http}/v1/messages", json=body)
            here = ours.post(URL, json=body)
            assert (here.status_code, here.headers["content-type"]) == (there.status_code, there.headers["content-type"])
            drop = ("request_id",) if here.status_code >= 400 else ()
            assert _less(here.content, drop) == _less(there.content, drop)


def _less(body, names):
    return {name: value for name, value in json.loads(body).items() if name not in names} if names else body


def test_other_endpoints(library, stage):
    """Any endpoint and method gets through."""
    with library.client(stage.address) as client:
        assert client.get("http://daemon/v1/models/claude-haiku-4-5").json()["type"] == "model"
        assert client.get("http://daemon/v1/nothing").status_code == 404


def test_streamed_request(library, stage, ask):
    """A body that is made on the way arrives whole."""
    body = json.dumps(ask("x" * 3_000_000)).encode()
    with library.client(stage.address) as client:
        response = client.post(URL, content=(body[at : at + 70_000] for at in range(0, len(body), 70_000)))
        assert response.status_code == 200
        again = client.post(URL, content=body)  # in memory, and more than one part
    assert again.headers["x-headrace-source"] == "cache"


async def test_streamed_request_async(library, stage, ask):
    """The same for asyncio."""
    body = json.dumps(ask("y" * 3_000_000)).encode()

    async def pieces():
        for at in range(0, len(body), 70_000):
            yield body[at : at + 70_000]

    async with library.async_client(stage.address) as client:
        assert (await client.post(URL, content=pieces())).status_code == 200
        assert (await client.post(URL, content=body)).headers["x-headrace-source"] == "cache"


async def test_events_come_one_by_one(library, stage, ask):
    """The first events are here while upstream is still silent about the rest; leaving then hangs up."""
    stage.fault("hang", after_deltas=2)

    def listen():
        with library.client(stage.address) as client, client.stream("POST", URL, json=ask("events", stream=True)) as response:
            return next(line for line in response.iter_lines() if "text_delta" in line)

    assert "You said" in await asyncio.to_thread(listen)
    await stage.ended("events")


async def test_events_come_one_by_one_async(library, stage, ask):
    """The same for asyncio, left by leaving the block, and by cancelling the task."""
    stage.fault("hang", after_deltas=2)
    heard = asyncio.Event()

    async def listen(text, *, stay):
        async with client.stream("POST", URL, json=ask(text, stream=True)) as response:
            async for line in response.aiter_lines():
                if "text_delta" in line:
                    heard.set()
                    if not stay:
                        return

    async with library.async_client(stage.address) as client:
        await listen("leaving", stay=False)
        await stage.ended("leaving")
        heard.clear()
        task = asyncio.create_task(listen("cancelled", stay=True))
        await heard.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stage.ended("cancelled")


async def test_dropped_response_hangs_up(library, stage, ask):
    """A response that is neither read nor closed ends with whoever held it."""
    stage.fault("hang", after_deltas=2)
    client = library.client(stage.address)
    response = await asyncio.to_thread(
        lambda: client.send(client.build_request("POST", URL, json=ask("dropped", stream=True)), stream=True)
    )
    await stage.runs("dropped")
    del response
    gc.collect()
    await stage.ended("dropped")
    client.close()


async def test_dropped_response_hangs_up_async(library, stage, ask):
    """The same for asyncio."""
    stage.fault("hang", after_deltas=2)
    async with library.async_client(stage.address) as client:
        response = await client.send(client.build_request("POST", URL, json=ask("dropped", stream=True)), stream=True)
        await stage.runs("dropped")
        del response
        gc.collect()
        await stage.ended("dropped")


def test_closed_response_hangs_up(library, stage, ask):
    """A response that is closed is given up at once, even if somebody holds it still."""
    stage.fault("hang", after_deltas=2)
    with library.client(stage.address) as client:
        response = client.send(client.build_request("POST", URL, json=ask("closed", stream=True)), stream=True)
        lines = response.iter_lines()
        assert next(lines)
        response.close()
        asyncio.run(stage.ended("closed"))
    assert response.is_closed


async def test_read_timeout(library, stage, ask):
    """Silence is a ReadTimeout, before the head and after it; the daemon has hung up by then."""
    stage.fault("hang", text="silent")
    stage.fault("hang", text="falls", after_deltas=2)
    with library.client(stage.address, timeout=0.5) as client:
        for text, stream in (("silent", False), ("falls silent", True)):
            with pytest.raises(library.module.ReadTimeout):
                await asyncio.to_thread(client.post, URL, json=ask(text, stream=stream))
            await stage.ended(text)


async def test_read_timeout_async(library, stage, ask):
    """The same for asyncio."""
    stage.fault("hang", text="silent")
    stage.fault("hang", text="falls", after_deltas=2)
    async with library.async_client(stage.address, timeout=0.5) as client:
        for text, stream in (("silent", False), ("falls silent", True)):
            with pytest.raises(library.module.ReadTimeout):
                await client.post(URL, json=ask(text, stream=stream))
            await stage.ended(text)


async def test_cancelled_wait_hangs_up(library, stage, ask):
    """A task that is cancelled before the head hangs up, and stays cancelled."""
    stage.fault("hang")
    async with library.async_client(stage.address) as client:
        task = asyncio.create_task(client.post(URL, json=ask("before")))
        await stage.runs("before")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stage.ended("before")


def test_client_outlives_its_loop(library, stage, ask):
    """One client may serve one loop after another."""
    client = library.async_client(stage.address)
    for number in range(2):
        assert asyncio.run(client.post(URL, json=ask(f"loop {number}"))).status_code == 200
