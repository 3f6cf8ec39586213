"""The simulator's faults over real HTTP: errors, silence, what breaks off, and what is no answer at all."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import msgspec
import pytest

from conftest import until
from headrace.simulator import Simulator
from simulator_parts import KEY, call, post


@pytest.mark.parametrize(
    ("kind", "status", "type"),
    [
        ("rate_limit", 429, "rate_limit_error"),
        ("overloaded", 529, "overloaded_error"),
        ("api_error", 500, "api_error"),
        ("bad_gateway", 502, "api_error"),
        ("unavailable", 503, "api_error"),
        ("gateway_timeout", 504, "timeout_error"),
        ("request_timeout", 408, "timeout_error"),
        ("spend_limit", 429, "rate_limit_error"),
    ],
)
async def test_errors(simulator: Simulator, web: aiohttp.ClientSession, kind: str, status: int, type: str) -> None:
    """An error fault has its status and type; only a 429 that waiting clears says how long."""
    simulator.faults.add(kind, count=1)
    got, said, headers = await post(web, simulator, call())
    assert (got, said["error"]["type"]) == (status, type)
    assert ("retry-after" in headers) == (kind == "rate_limit")
    assert simulator.journal.visits[-1].outcome == kind
    assert simulator.journal.visits[-1].status == status


async def test_spend_limit(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """A spend limit says so in its details."""
    simulator.faults.add("spend_limit", count=1)
    _, said, _ = await post(web, simulator, call())
    assert said["error"]["details"] == {"error_code": "enforced_spend_limit_reached"}


@pytest.mark.parametrize("stream", [False, True])
async def test_hang(simulator: Simulator, web: aiohttp.ClientSession, stream: bool) -> None:
    """A call that hangs is answered nothing, and ends when its caller leaves."""
    simulator.faults.add("hang", count=1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(post(web, simulator, call(stream=stream)), 0.2)
    await until(lambda: simulator.counts.running == 0)
    assert (simulator.journal.visits[-1].outcome, simulator.journal.visits[-1].status) == ("hang", 0)


async def test_reset(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """A reset is a reset: before the headers nothing is sent, after them the body breaks off."""
    simulator.faults.add("reset", count=1)
    with pytest.raises(aiohttp.ClientOSError, match="reset"):
        await post(web, simulator, call())
    assert simulator.journal.visits[-1].status == 0
    simulator.faults.add("reset", count=1, after_deltas=0)
    async with web.post(simulator.url + "/v1/messages", json=call(), headers=KEY) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_half_json(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """Half a body comes, then the end."""
    simulator.faults.add("half_json", count=1)
    async with web.post(simulator.url + "/v1/messages", json=call(), headers=KEY) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def read_stream(web: aiohttp.ClientSession, simulator: Simulator) -> tuple[list[str], bytes, bool]:
    """Return a stream's events, its bytes, and whether it was cut off."""
    seen, was_cut = b"", False
    async with web.post(simulator.url + "/v1/messages", json=call(stream=True), headers=KEY) as response:
        assert response.status == 200
        try:
            async for part in response.content.iter_any():
                seen += part
        except aiohttp.ClientError:
            was_cut = True
    names = [line.removeprefix(b"event: ").decode() for line in seen.split(b"\n") if line.startswith(b"event: ")]
    return names, seen, was_cut


@pytest.mark.parametrize(("clean", "after"), [(False, 2), (True, 2), (False, 0), (False, 999)])
async def test_half_stream(simulator: Simulator, web: aiohttp.ClientSession, clean: bool, after: int) -> None:
    """A stream breaks off after as many deltas as asked, at the latest before its end; with or without good manners."""
    simulator.faults.add("half_stream", count=1, after_deltas=after, clean=clean)
    names, _, was_cut = await read_stream(web, simulator)
    deltas = names.count("content_block_delta")
    assert deltas == after or (after == 999 and deltas > 5)
    assert was_cut != clean
    assert "message_delta" not in names


@pytest.mark.parametrize(("after", "type"), [(0, "overloaded_error"), (3, "api_error")])
async def test_stream_error(simulator: Simulator, web: aiohttp.ClientSession, after: int, type: str) -> None:
    """A stream that began well ends in an error event."""
    simulator.faults.add("stream_error", count=1, after_deltas=after, error_type=type)
    names, raw, was_cut = await read_stream(web, simulator)
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names.count("content_block_delta") == after
    assert names[-1] == "error"
    assert not was_cut
    assert msgspec.json.decode(raw.strip().rpartition(b"data: ")[2])["error"]["type"] == type


async def test_silence_in_mid_stream(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """A stream may also fall silent."""
    simulator.faults.add("hang", count=1, after_deltas=1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read_stream(web, simulator), 0.2)
    await until(lambda: simulator.counts.running == 0)


async def test_garbage(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """A body may be no JSON at all, under any status."""
    simulator.faults.add("garbage", count=1, status=502)
    status, said, headers = await post(web, simulator, call())
    assert (status, headers["content-type"]) == (502, "text/html")
    assert said.startswith(b"<html>")


async def test_slow(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """A slow answer is late and whole."""
    simulator.faults.add("slow", count=1, delay_s=0.2)
    began = time.monotonic()
    assert (await post(web, simulator, call()))[0] == 200
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("stream", [False, True])
async def test_drip(simulator: Simulator, web: aiohttp.ClientSession, stream: bool) -> None:
    """An answer that drips comes in many pieces, cut anywhere, and is the same in the end."""
    asked = call(stream=stream)
    whole = await post(web, simulator, asked)
    simulator.faults.add("drip", count=1, delay_s=0.2)
    began = time.monotonic()
    dripped = await post(web, simulator, asked)
    assert time.monotonic() - began >= 0.2
    assert dripped[0] == whole[0] == 200
    assert len(str(dripped[1])) == len(str(whole[1]))
