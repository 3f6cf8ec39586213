"""
A caller, and the cache, have the events of one attempt, or a stream that broke off: whatever is killed in mid-stream.

Upstream says in each word which attempt it is of. Two daemons share one Redis; each has a key of its own, so that upstream can
tell which of them makes an attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field

import aiohttp
import pytest

from conftest import until
from fleet import daemon_beside
from listening import DOORS, WHOLE, body_of, over_http
from scripted import Line, serving

pytestmark = pytest.mark.slow

WORDS = 30
PACE_S = 0.15
FOLLOWERS = ("http", "StreamMessage", "ApiService.Call")


def event(name: str, **said: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name} | said)}\n\n".encode()


@dataclass
class Upstream:
    """Refuses the first attempt, and answers those after it slowly."""

    retry_after_s: float
    pace_s: float = PACE_S
    attempts: int = 0
    said: dict[int, int] = field(default_factory=dict)  # words, by attempt
    keys: dict[int, str] = field(default_factory=dict)

    async def talk(self, line: Line) -> None:
        self.attempts += 1
        number = self.attempts
        self.said[number], self.keys[number] = 0, line.headers["x-api-key"]
        if number == 1:
            body = b'{"type":"error","error":{"type":"rate_limit_error","message":"later"}}'
            await line.answer(429, body, f"retry-after: {self.retry_after_s:g}", "content-type: application/json")
        elif json.loads(line.body).get("stream"):
            await self._stream(line, number)
        else:
            await asyncio.sleep(self.pace_s)
            text = "".join(f"{number}:{word} " for word in range(WORDS))
            message = self._message(number) | {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
            await line.answer(200, json.dumps(message).encode(), "content-type: application/json")

    async def _stream(self, line: Line, number: int) -> None:
        await line.begin_stream()
        await line.chunk(event("message_start", message=self._message(number)))
        await line.chunk(event("content_block_start", index=0, content_block={"type": "text", "text": ""}))
        for word in range(WORDS):
            delta = {"type": "text_delta", "text": f"{number}:{word} "}
            await line.chunk(event("content_block_delta", index=0, delta=delta))
            self.said[number] += 1
            await asyncio.sleep(self.pace_s)
        await line.chunk(event("content_block_stop", index=0))
        usage = {"output_tokens": WORDS}
        await line.chunk(event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage))
        await line.chunk(event("message_stop"))
        await line.say(b"0\r\n\r\n")

    def _message(self, number: int) -> dict[str, object]:
        return {
            "id": f"msg_{number}", "type": "message", "role": "assistant", "model": "claude-haiku-4-5", "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 1},
        }  # fmt: skip


def check_text(text: str, *, is_whole: bool) -> None:
    """Check that a text is of one attempt: all of it, or its beginning."""
    words = text.split()
    [attempt] = {word.partition(":")[0] for word in words} or {"-"}
    assert words == [f"{attempt}:{number}" for number in range(len(words))]
    assert not is_whole or len(words) == WORDS, text


def check(heard) -> None:
    assert len(set(heard.ids)) <= 1, heard
    check_text(heard.text, is_whole=heard.ending == WHOLE)


async def whole_of(at, text: str, **headers: str) -> tuple[int, str, str]:
    """Ask for the same in one piece; return its status, its text and where it came from."""
    sent = {"anthropic-version": "2023-06-01"} | headers
    async with (
        aiohttp.ClientSession() as session,
        session.post(at.http + "/v1/messages", json=body_of(text), headers=sent) as response,
    ):
        said = await response.json()
        texts = [block["text"] for block in said.get("content", ())]
        return response.status, "".join(texts), response.headers.get("x-headrace-source", "")


async def test_worker_killed(valkey_url):
    """The process that makes a parked call's second attempt dies in mid-stream: who hears it elsewhere hears no other."""
    upstream = Upstream(retry_after_s=1)
    async with serving(upstream.talk) as server, contextlib.AsyncExitStack() as stack:
        fleet = {
            key: await stack.enter_async_context(daemon_beside(server.url, valkey_url, UPSTREAM__API_KEY=key))
            for key in ("key-one", "key-two")
        }
        streams = {key: [asyncio.create_task(DOORS[door](at, "killed")) for door in FOLLOWERS] for key, at in fleet.items()}
        await until(lambda: upstream.attempts >= 1, within=20)  # one of them leads, so what is asked for is a stream
        wholes = {key: asyncio.create_task(whole_of(at, "killed")) for key, at in fleet.items()}
        await until(lambda: upstream.said.get(2, 0) > 4, within=20)
        doomed = upstream.keys[2]
        fleet[doomed].served.process.kill()
        [alive] = [key for key in fleet if key != doomed]
        heard = await asyncio.wait_for(asyncio.gather(*streams[alive]), 60)
        status, text, _ = await asyncio.wait_for(wholes[alive], 60)
        await asyncio.gather(*streams[doomed], wholes[doomed], return_exceptions=True)
        print(f"{upstream.attempts} attempts; {[(one.door, one.ending, len(one.text.split())) for one in heard]}; {status}")

        for one in heard:
            check(one)
        assert status == 200
        check_text(text, is_whole=True)
        assert upstream.attempts == 3, "who had nothing of the stream waits for its ticket's next attempt"
        status, text, source = await whole_of(fleet[alive], "killed")
        assert (status, source) == (200, "cache")
        check_text(text, is_whole=True)


async def test_ticket_ends_in_mid_stream(valkey_url, long):
    """A dead leader's ticket runs out of time in mid-stream: its followers' streams break off, and nothing half is kept."""
    if not long:
        pytest.skip("it takes 40 seconds, until a dead leader's lease is over; --long runs it")
    upstream = Upstream(retry_after_s=18, pace_s=0.4)  # it goes on at 18 s, when the followers have the flight, for 12 s
    async with serving(upstream.talk) as server, contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(daemon_beside(server.url, valkey_url))
        two = await stack.enter_async_context(daemon_beside(server.url, valkey_url))
        leader = asyncio.create_task(over_http(one, "late", timeout_s=24))
        await until(lambda: upstream.attempts == 1)
        followers = [asyncio.create_task(DOORS[door](two, "late")) for door in FOLLOWERS]
        await asyncio.sleep(1)
        one.served.process.kill()
        heard = await asyncio.wait_for(asyncio.gather(*followers), 60)
        await asyncio.gather(leader, return_exceptions=True)
        print(f"{upstream.attempts} attempts; {[(each.door, each.ending, len(each.text.split())) for each in heard]}")

        for each in heard:
            check(each)
        assert any(each.ending != WHOLE for each in heard)
        status, text, _ = await whole_of(two, "late")
        assert status == 200
        check_text(text, is_whole=True)
