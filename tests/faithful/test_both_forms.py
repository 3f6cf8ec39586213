"""
One answer in two forms: whole as the unary API says it, and as the events of its stream, over either edge.

For each shape of answer upstream is asked directly, and a daemon in front of it is asked first in one form, which makes the
entry, and then in both forms over both edges, which must be told from that entry.
"""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from faithful import sdk
from fleet import daemon, simulated
from headrace import forms
from headrace.edge import translate
from headrace.v1 import messages_pb2, options_pb2
from headrace.v1 import messages_service_pb2 as service
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the SDK's, about models
]

TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}, "n": {"type": "number"}}}}
BARE = {"name": "wait", "input_schema": {"type": "object"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}}, "b": {"type": "string"}}}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}
SCRIPTS: dict[str, dict[str, Any]] = {
    "text": {},
    "odd text": {"messages": [{"role": "user", "content": 'a "quote" \\ \n\u2028 \U0001f30a é \x00'}]},
    "tool use": {"tools": [TOOL], "tool_choice": {"type": "any"}},
    "tool use without input": {"tools": [BARE], "tool_choice": {"type": "tool", "name": "wait"}},
    "thinking": THINKING,
    "thinking, then a tool": THINKING | {"tools": [TOOL], "tool_choice": {"type": "any"}},
    "json": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "stop sequence": {"stop_sequences": ["said"]},
    "stop at once": {"stop_sequences": ["You"]},
    "max_tokens": {"max_tokens": 3},
    "no room for the tool": {"max_tokens": 1, "tools": [TOOL], "tool_choice": {"type": "any"}},
    "thinking fills it": {"thinking": {"type": "adaptive"}, "max_tokens": 5},
}
WAYS = [("http", False), ("http", True), ("grpc", False), ("grpc", True)]  # edge, whether as a stream


@dataclass
class Said:
    """An answer in one form, and where it came from."""

    payload: bytes
    is_stream: bool
    source: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events but pings, every id replaced."""
        said = [json.loads(event.data) for event in forms.split(self.payload) if event.data]
        return [_nameless(event) for event in said if event["type"] != "ping"]

    @functools.cached_property
    def message(self) -> dict[str, Any]:
        """The message as the SDK has it in the end, every id replaced."""
        return _nameless(next(sdk.told([self.payload])) if self.is_stream else sdk.whole(self.payload))


def _nameless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: "an id" if name == "id" else _nameless(member) for name, member in value.items()}
    return [_nameless(item) for item in value] if isinstance(value, list) else value


def told_in_one(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same events as if each block came in one delta of a kind; how much of the output was counted at first is open."""
    merged: list[dict[str, Any]] = []
    for event in json.loads(json.dumps(events)):
        if event["type"] == "message_start":
            event["message"]["usage"]["output_tokens"] = 0
        last = merged[-1] if merged else event
        if event["type"] == last["type"] == "content_block_delta" and event["delta"]["type"] == last["delta"]["type"]:
            (name,) = event["delta"].keys() - {"type"}
            last["delta"][name] += event["delta"][name]
        else:
            merged.append(event)
    return merged


class Stage:
    """An upstream, and a daemon in front of it."""

    def __init__(self, http: httpx.AsyncClient, channel: grpc.aio.Channel, upstream: str, door: str) -> None:
        self._http, self._messages = http, MessagesServiceStub(channel)
        self._upstream, self._door = upstream, door
        self._said: dict[tuple[str, bool], Said] = {}

    async def directly(self, body: dict[str, Any], is_stream: bool) -> Said:
        """Ask upstream itself, once for each body and form."""
        asked = (json.dumps(body), is_stream)
        if asked not in self._said:
            headers = {"x-api-key": "k", "anthropic-version": "2026-10-21"}
            self._said[asked] = await self._over_http(self._upstream, headers, body, is_stream)
        return self._said[asked]

    async def ask(self, edge: str, caller: str, body: dict[str, Any], is_stream: bool) -> Said:
        """Ask the daemon."""
        if edge == "http":
            return await self._over_http(self._door, {"x-headrace-caller": caller}, body, is_stream)
        return await self._over_grpc(caller, body, is_stream)

    async def _over_http(self, url: str, headers: dict[str, str], body: dict[str, Any], is_stream: bool) -> Said:
        asked = json.dumps(body | ({"stream": True} if is_stream else {}))
        answer = await self._http.post(f"{url}/v1/messages", content=asked, headers=headers)
        assert answer.status_code == 200, answer.text
        return Said(answer.content, is_stream, answer.headers.get("x-headrace-source", ""))

    async def _over_grpc(self, caller: str, body: dict[str, Any], is_stream: bool) -> Said:
        params = translate.read(json.dumps(body).encode(), messages_pb2.MessageParams)
        options = options_pb2.CallOptions(caller=caller)
        if not is_stream:
            reply = await self._messages.CreateMessage(service.CreateMessageRequest(params=params, options=options), timeout=20)
            return Said(translate.write(reply.message), is_stream, _source(reply))
        request = service.StreamMessageRequest(params=params, options=options)
        replies = [reply async for reply in self._messages.StreamMessage(request, timeout=20)]
        said = [translate.write(reply.event) for reply in replies]
        stream = forms.join(forms.make_event(json.loads(data)["type"], data) for data in said)
        return Said(stream, is_stream, _source(replies[0]))


def _source(reply: Any) -> str:
    return str(options_pb2.AnswerSource.Name(reply.origin.source)).removeprefix("ANSWER_SOURCE_").lower()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with simulated() as simulator:
        with daemon(simulator.url) as running:
            async with httpx.AsyncClient() as http, grpc.aio.insecure_channel(running.grpc) as channel:
                yield Stage(http, channel, simulator.url, running.http)


@pytest.mark.parametrize("first", WAYS, ids=lambda way: f"{way[0]}-{'stream' if way[1] else 'whole'}")
@pytest.mark.parametrize("script", SCRIPTS)
async def test_both_forms(stage: Stage, script: str, first: tuple[str, bool]) -> None:
    """Whatever form made the entry, each edge tells from it in each form what upstream would have said."""
    body = {"model": "claude-opus-4-8", "max_tokens": 400, "messages": [{"role": "user", "content": "hello"}]} | SCRIPTS[script]
    caller = f"{first[0]}-{first[1]}-{script.replace(' ', '-').replace(',', '')}"
    whole, stream = await stage.directly(body, False), await stage.directly(body, True)
    assert whole.message == stream.message

    made = await stage.ask(first[0], caller, body, first[1])
    assert made.source == "upstream"
    assert made.message == whole.message
    if made.is_stream:
        assert made.events == stream.events
    for edge, is_stream in WAYS:
        again = await stage.ask(edge, caller, body, is_stream)
        assert again.source == "cache"
        assert again.message == whole.message
        if is_stream:
            assert told_in_one(again.events) == told_in_one(stream.events)
        else:
            assert _nameless(json.loads(again.payload)) == _nameless(json.loads(whole.payload))
