"""What becomes of a call whose RPC ends before it has an answer: as it said, or as is usual, at whatever point and door."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest

from conftest import until
from doors import BODY, grpc_door, open_door
from flow_parts import Daemon, Held, asking, in_turn, overloaded, running, say
from headrace.errors import InvalidCall
from headrace.model import Source
from headrace.retry.ticket import State
from headrace.v1 import api_service_pb2 as api
from headrace.v1 import messages_service_pb2 as messages
from headrace.v1 import messages_service_pb2_grpc as messages_grpc
from headrace.v1 import options_pb2
from scripted import hang

PARAMS = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": {"text": "hi"}}]}
GOES_ON = {
    ("", ""): False,
    ("k", ""): True,
    ("", "cancel"): False,
    ("k", "cancel"): False,
    ("", "continue"): True,
    ("k", "continue"): True,
}
CASES = [(*case, goes_on, stream) for (case, goes_on), stream in itertools.product(GOES_ON.items(), (False, True))]


async def states(one: Daemon, caller: str = "ann") -> list[State]:
    return [ticket.state for ticket in (await one.parts.tickets.listing.page(caller))[0]]


async def are(one: Daemon, *wanted: State, caller: str = "ann") -> None:
    async def look() -> bool:
        return await states(one, caller) == list(wanted)

    await until(look, what=str(wanted))


@pytest.mark.parametrize(("key", "said", "goes_on", "stream"), CASES)
async def test_at_upstream(valkey_url: str, tmp_path: Path, key: str, said: str, goes_on: bool, stream: bool) -> None:
    """While its first attempt is at upstream."""
    held = Held()
    async with running(valkey_url, tmp_path, held if goes_on else hang) as (one, server):
        first = asking(one, one.call({"stream": stream}, idempotency_key=key, on_disconnect=said))
        await until(lambda: server.calls == 1)
        first.cancel()
        if goes_on:
            await are(one, State.RUNNING)
            await asyncio.sleep(0.05)
            held.go.set()
            await are(one, State.SUCCEEDED)
        else:
            await asyncio.wait_for(server.hung_up.wait(), 5)
            await are(one, *[State.CANCELED] * bool(key))
        assert server.calls == 1


@pytest.mark.parametrize(("key", "said", "goes_on", "stream"), CASES)
async def test_parked(valkey_url: str, tmp_path: Path, key: str, said: str, goes_on: bool, stream: bool) -> None:
    """While it waits in the queue."""
    async with running(valkey_url, tmp_path, in_turn(overloaded, say), RETRY__BACKOFF="0.6s..0.6s") as (one, server):
        first = asking(one, one.call({"stream": stream}, idempotency_key=key, on_disconnect=said))
        await are(one, State.QUEUED)
        first.cancel()
        await are(one, State.SUCCEEDED if goes_on else State.CANCELED)
        assert server.calls == 1 + goes_on


async def test_others_wait(valkey_url: str, tmp_path: Path) -> None:
    """Who says that it ends with its caller does not end what another one waits for, who came with the same key."""
    held = Held()
    async with running(valkey_url, tmp_path, held) as (one, server):
        first, second = (asking(one, one.call(idempotency_key="k", on_disconnect="cancel")) for _ in range(2))
        await until(lambda: server.calls == 1 and "3 waiting" in repr(one.parts.flights))
        first.cancel()
        await asyncio.sleep(0.05)
        held.go.set()
        assert (await asyncio.wait_for(second, 5)).answer is not None
        assert server.calls == 1


async def test_watched_here(valkey_url: str, tmp_path: Path) -> None:
    """Nor does it end a ticket that somebody waits for by its id: that is queued again, and answered."""
    held = Held()
    async with running(valkey_url, tmp_path, in_turn(held, say)) as (one, server):
        first = asking(one, one.call(idempotency_key="k", on_disconnect="cancel"))
        await until(lambda: server.calls == 1)
        ((ticket,), _) = await one.parts.tickets.listing.page("ann")
        waiting = asyncio.create_task(one.parts.tickets.wait(ticket.id))
        await until(lambda: "1 waited for" in repr(one.parts.tickets))
        first.cancel()
        assert (await asyncio.wait_for(waiting, 10)).state is State.SUCCEEDED
        assert server.calls == 2


async def test_key_is_free(valkey_url: str, tmp_path: Path) -> None:
    """The key of a call that ended with its caller is free at once."""
    async with running(valkey_url, tmp_path, in_turn(hang, say)) as (one, server):
        first = asking(one, one.call(idempotency_key="k", on_disconnect="cancel"))
        await until(lambda: server.calls == 1)
        first.cancel()
        await are(one, State.CANCELED)
        again = await asyncio.wait_for(one.ask(one.call(idempotency_key="k")), 10)
        assert (again.source, server.calls) == (Source.UPSTREAM, 2)


async def test_nobody_joins(valkey_url: str, tmp_path: Path) -> None:
    """Two equal calls that go on, without keys, have a ticket each, and share what upstream says."""
    async with running(valkey_url, tmp_path) as (one, server):
        replies = [await one.ask(one.call(on_disconnect="continue")) for _ in range(2)]
        assert len({reply.ticket for reply in replies}) == 2
        assert server.calls == 1


def test_nonsense(valkey_url: str, tmp_path: Path) -> None:
    """What is neither is refused, by name."""

    async def try_it() -> None:
        async with running(valkey_url, tmp_path) as (one, _):
            with pytest.raises(InvalidCall) as refused:
                one.call(on_disconnect="perhaps")
            assert refused.value.metadata == {"field": "on_disconnect"}

    asyncio.run(try_it())


async def test_http(valkey_url: str, tmp_path: Path) -> None:
    """By HTTP it is a header."""
    held = Held()
    async with open_door(valkey_url, tmp_path, held) as (door, server, one), aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{door.port}/v1/messages"
        headers = {"x-headrace-on-disconnect": "Continue"}
        asked = asyncio.create_task(session.post(url, json=BODY, headers=headers))  # type: ignore[arg-type]
        await until(lambda: server.calls == 1)
        asked.cancel()
        await until(lambda: "1 in the air" not in repr(door))
        held.go.set()
        await are(one, State.SUCCEEDED, caller="default")
        for path, said in (("/v1/messages", "perhaps"), ("/v1/files", "continue")):
            headers = {"x-headrace-on-disconnect": said}
            async with session.post(f"http://127.0.0.1:{door.port}{path}", json=BODY | {"n": 1}, headers=headers) as refused:
                assert refused.status == 400
                assert "on_disconnect" in await refused.text()


@pytest.mark.parametrize("way", ["typed", "call"])
async def test_grpc(valkey_url: str, tmp_path: Path, way: str) -> None:
    """By gRPC it is an option, and within `ApiService.Call` the header."""
    held = Held()
    async with running(valkey_url, tmp_path, held) as (one, server), grpc_door(one, tmp_path) as channel:
        if way == "typed":
            stub: Any = messages_grpc.MessagesServiceStub(channel)
            options = options_pb2.CallOptions(on_disconnect=options_pb2.ON_DISCONNECT_CONTINUE)
            asked = stub.CreateMessage(messages.CreateMessageRequest(params=PARAMS, options=options))  # type: ignore[arg-type]
        else:
            said = {"x-headrace-on-disconnect": "continue", "content-type": "application/json"}
            headers = [api.Header(name=name, value=value) for name, value in said.items()]
            head = api.CallRequestHead(method="POST", path="/v1/messages", headers=headers, body=json.dumps(BODY).encode())
            asked = channel.stream_stream("/headrace.v1.ApiService/Call")(
                iter([api.CallRequest(head=head).SerializeToString()])
            )
            reading = asyncio.ensure_future(asked.read())
        await until(lambda: server.calls == 1)
        asked.cancel()
        if way == "call":
            await asyncio.gather(reading, return_exceptions=True)
        await asyncio.sleep(0.05)
        held.go.set()
        await are(one, State.SUCCEEDED, caller="default")


async def test_submitted(valkey_url: str, tmp_path: Path) -> None:
    """A submitted call goes on by its nature: to say otherwise makes no sense, and an unknown value is none."""
    async with running(valkey_url, tmp_path) as (one, _), grpc_door(one, tmp_path) as channel:
        stub: Any = messages_grpc.MessagesServiceStub(channel)
        for said in (options_pb2.ON_DISCONNECT_CANCEL, 99):
            options = options_pb2.CallOptions(on_disconnect=said)  # type: ignore[arg-type]
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.SubmitMessage(messages.SubmitMessageRequest(params=PARAMS, options=options))  # type: ignore[arg-type]
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        options = options_pb2.CallOptions(on_disconnect=options_pb2.ON_DISCONNECT_CONTINUE)
        await stub.SubmitMessage(messages.SubmitMessageRequest(params=PARAMS, options=options))  # type: ignore[arg-type]
        await are(one, State.SUCCEEDED, caller="default")
