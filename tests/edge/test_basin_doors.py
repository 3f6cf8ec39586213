"""The basin behind real sockets: while it is full, whoever sends more is not read, at both doors, and gets through after it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from conftest import until
from doors import grpc_server, http_door
from flow_parts import Daemon, Held, daemon
from headrace import observe
from headrace.v1 import api_service_pb2, messages_service_pb2
from headrace.v1.api_service_pb2_grpc import ApiServiceStub
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from scripted import say_message, serving

MB = 1_000_000
MOST, SIZE, PIECE = MB, 24 * MB, 1 << 18
BETWEEN = 16 * MB  # that may lie in the sockets' own buffers, and in a piece or two that were read


def body(text: str, size: int) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": text * size}]}).encode()


class Sender:
    """Sends one body as fast as it is taken; `sent` is how much was, `status` what was said to it."""

    def __init__(self, raw: bytes, caller: str, port: int) -> None:
        self.raw, self.caller, self.port = raw, caller, port
        self.sent = 0

    async def ask(self) -> int:
        raise NotImplementedError


class OverHttp(Sender):
    async def ask(self) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        with contextlib.closing(writer):
            head = f"x-headrace-caller: {self.caller}\r\nconnection: close\r\ncontent-length: {len(self.raw)}\r\n\r\n"
            writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\n" + head.encode())
            for at in range(0, len(self.raw), PIECE):
                writer.write(self.raw[at : at + PIECE])
                await writer.drain()
                self.sent += PIECE
            return int((await reader.read()).split()[1])


class OverGrpc(Sender):
    async def ask(self) -> int:
        headers = [api_service_pb2.Header(name="x-headrace-caller", value=self.caller)]
        head = api_service_pb2.CallRequestHead(method="POST", path="/v1/messages", headers=headers)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            asking = ApiServiceStub(channel).Call()
            await asking.write(api_service_pb2.CallRequest(head=head))
            for at in range(0, len(self.raw), PIECE):
                await asking.write(api_service_pb2.CallRequest(chunk=self.raw[at : at + PIECE]))
                self.sent += PIECE
            await asking.done_writing()
            return (await asking.read()).head.status


class Typed(Sender):
    """Sends a body as one message of gRPC's."""

    async def ask(self) -> int:
        said = json.loads(self.raw)
        content = {"text": said["messages"][0]["content"]}
        params = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}
        request = messages_service_pb2.CreateMessageRequest(params=params, options={"caller": self.caller})
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            answer = await MessagesServiceStub(channel).CreateMessage(request, timeout=60)
        return 200 if answer.message.id else 500


DOORS = {"http": OverHttp, "grpc": OverGrpc}


class House:
    """A daemon with a small basin, and both its doors open."""

    def __init__(self, one: Daemon, http: int, grpc: int) -> None:
        self.basin = one.parts.basin
        self.last_word = one.parts.exchange.last_word
        self.ports = {"http": http, "grpc": grpc}

    def sender(self, door: str, caller: str) -> Sender:
        return DOORS[door](body(caller[0], SIZE), caller, self.ports[door])

    @contextlib.asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """Somebody has filled the basin, and it is their turn until they are read."""
        with self.basin.place("elsewhere") as place:
            await place.add(MOST + 1)
            place.fill()
            yield


@pytest.fixture
async def house(valkey_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with (
        serving(say_message) as server,
        daemon(valkey_url, server.url, tmp_path, LISTEN__MAX_COMING_BYTES="1MB", LISTEN__BODY_TIMEOUT="20s") as one,
        http_door(one) as http,
        grpc_server(one, tmp_path) as grpc_one,
    ):
        yield House(one, http.port, grpc_one.ports[0])


@pytest.mark.parametrize("doors", [("http", "http"), ("grpc", "grpc"), ("http", "grpc")], ids="+".join)
async def test_who_finds_it_full_is_not_read_until_there_is_room(house: House, doors: tuple[str, str]) -> None:
    """Two senders find the basin full: what they have sent lies with them and in their sockets; then both get through."""
    senders = [house.sender(door, f"{name}-{door}") for name, door in zip("ab", doors, strict=True)]
    async with asyncio.TaskGroup() as group, house.full():
        asking = [group.create_task(one.ask()) for one in senders]
        await until(lambda: house.basin.stats().waiting == 2, what=repr(house.basin))
        assert house.basin.stats().bytes <= MOST + 2 * MB
        assert observe.COMING_BYTES.read() == house.basin.stats().bytes
        # A second's sending would bring all of it, and whoever waits wakes now and then to see whether it may go on.
        for _ in range(15):
            await asyncio.sleep(0.1)
            assert house.basin.stats().bytes <= MOST + 2 * MB
        assert all(one.sent < BETWEEN for one in senders), [one.sent for one in senders]
    assert [task.result() for task in asking] == [200, 200]
    assert house.basin.stats().bytes == 0


async def test_two_at_once_come_one_after_the_other(house: House) -> None:
    """Of two that come together one is read to its end before the other goes on: the basin never holds both."""
    most = 0

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, house.basin.stats().bytes)
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    said = await asyncio.gather(*(house.sender(door, door).ask() for door in DOORS))
    looking.cancel()
    assert said == [200, 200]
    assert most < SIZE + 4 * MB
    assert house.basin.stats().bytes == 0


async def test_what_comes_whole_waits_to_be_read(house: House) -> None:
    """A typed request is one message, which nobody can hold up: it is counted when it has come, and read when there is room."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{house.ports['grpc']}") as channel:
        content = {"text": "x" * MB}
        params = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}
        request = messages_service_pb2.CreateMessageRequest(params=params)
        async with house.full():
            asking = asyncio.ensure_future(MessagesServiceStub(channel).CreateMessage(request, timeout=60))
            await until(lambda: house.basin.stats().waiting == 1, what=repr(house.basin))
            assert not asking.done()
        assert (await asking).message.id


@pytest.mark.parametrize("name", ["CreateMessage", "StreamMessage"])
async def test_who_waits_to_be_read_hears_the_last_word(house: House, name: str) -> None:
    """At the end of a drain those are told why, too, whose requests have come whole, and find no room."""
    content = {"text": "x" * MB}
    params = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{house.ports['grpc']}") as channel, house.full():
        request = getattr(messages_service_pb2, f"{name}Request")(params=params)
        asked = getattr(MessagesServiceStub(channel), name)(request, timeout=60)
        said = asyncio.ensure_future(asked if name == "CreateMessage" else asked.read())
        await until(lambda: house.basin.stats().waiting == 1, what=repr(house.basin))
        house.last_word.say()
        with pytest.raises(grpc.aio.AioRpcError, match="the daemon leaves") as refused:
            await asyncio.wait_for(said, 30)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert house.basin.stats().bytes == 0


async def test_who_finds_no_room_in_time_is_refused(valkey_url: str, tmp_path: Path) -> None:
    """A basin that stays full refuses, at both doors, and says when to come again."""
    async with (
        serving(say_message) as server,
        daemon(valkey_url, server.url, tmp_path, LISTEN__MAX_COMING_BYTES="1MB", LISTEN__BODY_TIMEOUT="1s") as one,
        http_door(one) as http,
        grpc_server(one, tmp_path) as grpc_one,
    ):
        house = House(one, http.port, grpc_one.ports[0])
        async with house.full():
            for door, raw in (("http", body("h", MB // 2)), ("grpc", body("g", MB // 2))):
                sender = DOORS[door](raw, door, house.ports[door])
                assert await asyncio.wait_for(sender.ask(), 30) == 429
        assert house.basin.stats().bytes == 0


@pytest.mark.parametrize("door", DOORS)
async def test_what_is_with_upstream_is_not_in_it(valkey_url: str, tmp_path: Path, door: str) -> None:
    """A body lies there until it is known what it asks, and not until it is answered: that may take minutes."""
    held = Held(say_message)
    async with (
        serving(held) as server,
        daemon(valkey_url, server.url, tmp_path, LISTEN__MAX_COMING_BYTES="1MB", LISTEN__BODY_TIMEOUT="20s") as one,
        http_door(one) as http,
        grpc_server(one, tmp_path) as grpc_one,
        asyncio.TaskGroup() as group,
    ):
        house = House(one, http.port, grpc_one.ports[0])
        senders = [DOORS[door](body(letter, MB // 2), letter, house.ports[door]) for letter in "abcd"]
        asking = [group.create_task(sender.ask()) for sender in senders]
        await until(lambda: server.calls == 4, within=60, what=repr(house.basin))  # the helper that reads them has to start
        assert house.basin.stats().bytes == 0
        assert house.basin.stats().held_bytes == observe.HELD_BYTES.read() == sum(len(sender.raw) for sender in senders)
        held.go.set()
    assert [task.result() for task in asking] == [200] * 4
    assert house.basin.stats().held_bytes == 0


@pytest.mark.parametrize("door", [*DOORS, "typed"])
async def test_whose_calls_hold_much_sends_no_more(valkey_url: str, tmp_path: Path, door: str) -> None:
    """One caller's calls hold as much as they may: its next body lies with it, until one is over; another's goes through."""
    held = Held(say_message)
    async with (
        serving(held) as server,
        daemon(valkey_url, server.url, tmp_path, LISTEN__MAX_HELD_BYTES="10MB") as one,
        http_door(one) as http,
        grpc_server(one, tmp_path) as grpc_one,
        asyncio.TaskGroup() as group,
    ):
        house = House(one, http.port, grpc_one.ports[0])
        senders = [
            DOORS.get(door, Typed)(body(letter, 8 * MB), "one", house.ports.get(door, grpc_one.ports[0])) for letter in "ab"
        ]
        asking = [group.create_task(senders[0].ask())]
        await until(lambda: server.calls == 1, within=60)
        asking.append(group.create_task(senders[1].ask()))
        await until(lambda: house.basin.stats().waiting == 1)
        assert house.basin.stats().held_bytes >= 8 * MB
        if door != "typed":  # which comes as one message
            assert house.basin.stats().bytes < 2 * MB
        other = house.sender("http", "other")
        other.raw = body("c", 2 * MB)
        asking.append(group.create_task(other.ask()))
        await until(lambda: server.calls == 2, within=60)
        held.go.set()
    assert [task.result() for task in asking] == [200] * 3
    assert (house.basin.stats().held_bytes, house.basin.stats().bytes) == (0, 0)
