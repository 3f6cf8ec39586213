"""The gRPC server itself: its addresses, health, reflection and drain."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conftest import until
from grpc_fakes import FakeFlow, event, reply, serving
from headrace.errors import StartupError
from headrace.v1 import messages_service_pb2, messages_service_pb2_grpc

SERVICES = {"headrace.v1.MessagesService", "headrace.v1.TicketsService", "headrace.v1.CacheService"}
CALL = messages_service_pb2.CreateMessageRequest(
    params={"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": {"text": "hi"}}]}
)


async def ask(channel: grpc.aio.Channel) -> str:
    response = await messages_service_pb2_grpc.MessagesServiceStub(channel).CreateMessage(CALL)
    return response.message.id


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    response = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return response.status


async def test_health(tmp_path: Path) -> None:
    """Health is told overall and per service; it follows what it is told."""
    async with serving(tmp_path) as (server, channel):
        for service in ("", *SERVICES):
            assert await health(channel, service) == health_pb2.HealthCheckResponse.SERVING
        await server.set_serving(False)
        for service in ("", *SERVICES):
            assert await health(channel, service) == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_unknown_method(tmp_path: Path) -> None:
    """What is not served is UNIMPLEMENTED."""
    async with serving(tmp_path) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/headrace.v1.MessagesService/NoSuchMethod")(b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_socket(tmp_path: Path) -> None:
    """A relative socket lies in the runtime directory, with its mode, and goes with the server; its lock stays, and is free."""
    path = tmp_path / "headrace.sock"
    async with serving(tmp_path, addresses=("unix:headrace.sock",), socket_mode="0640") as (_, channel):
        assert await ask(channel) == "msg_1"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not path.exists()
    async with serving(tmp_path, addresses=("unix:headrace.sock",)) as (_, channel):
        assert await ask(channel) == "msg_1"


async def test_two_addresses(tmp_path: Path) -> None:
    """One server answers on a socket and on a port."""
    async with serving(tmp_path, addresses=("unix:h.sock", "127.0.0.1:0")) as (server, channel):
        assert await ask(channel) == "msg_1"
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.ports[1]}") as other:
            assert await ask(other) == "msg_1"


async def test_second_daemon(tmp_path: Path) -> None:
    """A second daemon on the same socket is told who has it, and takes nothing away from the first."""
    async with serving(tmp_path, addresses=("unix:h.sock",)) as (_, channel):
        with pytest.raises(StartupError, match=r"in use by process \d+"):
            async with serving(tmp_path, addresses=("unix:h.sock",)):
                pass
        assert await ask(channel) == "msg_1"


async def test_stale_socket(tmp_path: Path) -> None:
    """A socket that a killed daemon left is in nobody's way."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "h.sock"))
    async with serving(tmp_path, addresses=("unix:h.sock",)) as (_, channel):
        assert await ask(channel) == "msg_1"


async def test_anothers_socket(tmp_path: Path) -> None:
    """A socket on which another program listens is left alone, and so is a file that is no socket."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "h.sock"))
        other.listen()
        with pytest.raises(StartupError, match="another program"):
            async with serving(tmp_path, addresses=("unix:h.sock",)):
                pass
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StartupError, match="not a socket"):
        async with serving(tmp_path, addresses=("unix:file",)):
            pass
    assert (tmp_path / "file").read_text() == "precious"


async def test_occupied_port(tmp_path: Path) -> None:
    """An occupied port is a clear error, and the addresses taken before it are let go of."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with serving(tmp_path, addresses=("unix:h.sock", f"127.0.0.1:{port}")):
                pass
    async with serving(tmp_path, addresses=("unix:h.sock", f"127.0.0.1:{port}")) as (_, channel):
        assert await ask(channel) == "msg_1"


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        (f"unix:{'x' * 120}", {}, "longer than"),
        ("unix:h.sock", {"socket_group": "no-such-group"}, "no group 'no-such-group'"),
        ("256.0.0.1:1", {}, "cannot listen"),
    ],
)
async def test_bad_address(tmp_path: Path, address: str, options: dict[str, str], message: str) -> None:
    """What cannot be listened on is named."""
    with pytest.raises(StartupError, match=message):
        async with serving(tmp_path, addresses=(address,), **options):
            pass


async def test_drain(tmp_path: Path) -> None:
    """Draining lets what runs finish and takes nothing new."""
    flow, go = FakeFlow(), asyncio.Event()

    async def slow():  # type: ignore[no-untyped-def]
        yield event({"type": "ping"})
        await go.wait()
        yield event({"type": "message_stop"})

    flow.respond = lambda call: reply(events=slow())
    async with serving(tmp_path, flow) as (server, channel):
        stub = messages_service_pb2_grpc.MessagesServiceStub(channel)
        running = stub.StreamMessage(messages_service_pb2.StreamMessageRequest(params=CALL.params))
        await running.read()
        draining = asyncio.create_task(server.drain(30))
        await until(lambda: "stopped" in repr(server))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.ports[0]}") as late:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(late)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        go.set()
        assert (await running.read()).event.HasField("message_stop")
        await draining


async def test_drain_ends(tmp_path: Path) -> None:
    """What has not finished when the time is over ends with UNAVAILABLE, and its part of the flow is left."""
    flow = FakeFlow()

    async def endless():  # type: ignore[no-untyped-def]
        yield event({"type": "ping"})
        await asyncio.Event().wait()

    flow.respond = lambda call: reply(events=endless())
    async with serving(tmp_path, flow) as (server, channel):
        stub = messages_service_pb2_grpc.MessagesServiceStub(channel)
        running = stub.StreamMessage(messages_service_pb2.StreamMessageRequest(params=CALL.params))
        await running.read()
        await server.drain(0.1)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await running.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        await until(lambda: flow.left == 1)


async def test_repr(tmp_path: Path) -> None:
    """It shows its state."""
    async with serving(tmp_path, addresses=("unix:h.sock",)) as (server, _):
        assert repr(server) == f"<GrpcServer [serving] unix:{tmp_path}/h.sock>"
    assert "stopped" in repr(server)
