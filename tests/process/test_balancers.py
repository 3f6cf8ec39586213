"""
Behind a balancer that looks every second, daemons are restarted under load, and no call fails, at either door.

Balancers are a HAProxy of the system's and an Envoy out of `.venv-tools`, each as docs/operate/state.md has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import shutil
import socket
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import grpc
import pytest

from conftest import missing, start_valkey
from fleet import daemon, simulated
from headrace.simulator import Options
from headrace.v1 import content_pb2, messages_pb2, messages_service_pb2
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub

pytestmark = pytest.mark.slow

RESTARTS, LONG_RESTARTS = 2, 20
PER_SECOND = 10  # at each door
TAKES_S = 0.9

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "operate" / "state.md"
HOSTS = {"a": "10.0.0.1", "b": "10.0.0.2"}

# In front of the backends that the page shows.
HAPROXY = """
global
    stats socket {socket} level admin
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
frontend http
    bind 127.0.0.1:{http}
    default_backend headrace
frontend grpc
    bind 127.0.0.1:{grpc} proto h2
    default_backend headrace-grpc
"""
# Before what the page shows, to ask it.
ENVOY = """
admin:
  address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}
"""


@dataclass
class Told:
    """What callers were told."""

    http: Counter = field(default_factory=Counter)
    grpc: Counter = field(default_factory=Counter)

    @property
    def failed(self):
        return {
            f"{door}: {said}": many
            for door in ("http", "grpc")
            for said, many in getattr(self, door).items()
            if said not in ("200", "OK")
        }


def free_ports(count):
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def shown(beginning: str, ports) -> str:
    """Return a block of the page, by its first words, at the ports of this machine."""
    (block,) = [text for text in re.findall(r"^```\w*\n(.*?)^```", DOCS.read_text(), re.M | re.S) if text.startswith(beginning)]
    for name, host in HOSTS.items():
        http, grpc_ = ports[f"{name}_http"], ports[f"{name}_grpc"]
        block = block.replace(f"{host}:7400", f"127.0.0.1:{grpc_}").replace(f"{host}:7480", f"127.0.0.1:{http}")
        block = re.sub(rf"(server {name} .*) port 7480", rf"\1 port {http}", block)
        for said, real in (("7400", grpc_), ("7480", http)):
            block = block.replace(f"address: {host}, port_value: {said}", f"address: 127.0.0.1, port_value: {real}")
    return block.replace("port_value: 8080", f"port_value: {ports['http']}")


@contextlib.asynccontextmanager
async def running(*command):
    """Run a program as long as the block runs."""
    process = await asyncio.create_subprocess_exec(*command)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def haproxy(directory: Path, ports):
    """Run HAProxy, and return a way to ask how many doors of servers it takes for open."""
    binary = shutil.which("haproxy") or missing("haproxy (Debian: apt install haproxy)")
    admin, written = directory / "admin.sock", directory / "haproxy.cfg"
    written.write_text(HAPROXY.format(socket=admin, **ports) + shown("backend headrace", ports))

    async def up() -> int:
        reader, writer = await asyncio.open_unix_connection(str(admin))
        writer.write(b"show stat\n")
        rows = [line.split(",") for line in (await reader.read()).decode().splitlines() if line and not line.startswith("#")]
        writer.close()
        return sum(row[1] in HOSTS and row[17].startswith("UP") for row in rows)

    async with running(binary, "-db", "-f", str(written)):
        yield up


@contextlib.asynccontextmanager
async def envoy(directory: Path, ports):
    """The same with Envoy, which has one port for both doors."""
    binary = ROOT / ".venv-tools" / "bin" / "envoy"
    if not binary.exists():
        missing("envoy (make .venv-tools/installed)")
    ports["grpc"], written = ports["http"], directory / "envoy.yaml"
    written.write_text(ENVOY.format(admin=ports["admin"]) + shown("static_resources:", ports))
    checked = await asyncio.create_subprocess_exec(binary, "--mode", "validate", "-c", str(written), "--log-level", "error")
    assert await checked.wait() == 0

    async def up() -> int:
        async with (
            aiohttp.ClientSession() as web,
            web.get(f"http://127.0.0.1:{ports['admin']}/clusters") as response,
        ):
            return (await response.text()).count("::health_flags::healthy\n")

    # By itself: its number in shared memory is that of no other one.
    alone = ("--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error")
    async with running(binary, "-c", str(written), *alone):
        yield up


async def all_up(up):
    give_up = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError, aiohttp.ClientError):
            if await up() == 4:
                return
        assert time.monotonic() < give_up, await up()
        await asyncio.sleep(0.1)


async def load(ports, told, is_over, numbers):
    """Ask at both doors, so often a second, until it is over; and wait for what was asked."""
    async with aiohttp.ClientSession() as web, grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        stub = MessagesServiceStub(channel)
        asking = set()

        async def by_http(text):
            body = {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": text}]}
            try:
                async with web.post(f"http://127.0.0.1:{ports['http']}/v1/messages", json=body) as response:
                    await response.read()
                    told.http[str(response.status)] += 1
            except aiohttp.ClientError as error:
                told.http[type(error).__name__] += 1

        async def by_grpc(text):
            said = messages_pb2.InputMessage(role="user", content=content_pb2.Content(text=text))
            params = messages_pb2.MessageParams(model="claude-haiku-4-5", max_tokens=5, messages=[said])
            try:
                await stub.CreateMessage(messages_service_pb2.CreateMessageRequest(params=params), timeout=30)
                told.grpc["OK"] += 1
            except grpc.aio.AioRpcError as error:
                told.grpc[f"{error.code().name} {error.details()}"] += 1

        while not is_over.is_set():
            for ask in (by_http, by_grpc):
                task = asyncio.create_task(ask(f"call {next(numbers)}"))
                asking.add(task)
                task.add_done_callback(asking.discard)
            await asyncio.sleep(1 / PER_SECOND)
        await asyncio.gather(*asking)


def started(simulator, redis_url, ports, name):
    return daemon(
        simulator.url, redis_url, LISTEN__GRPC=f'["127.0.0.1:{ports[f"{name}_grpc"]}"]',
        LISTEN__HTTP=f"127.0.0.1:{ports[f'{name}_http']}", DRAIN__DELAY="3s",
    )  # fmt: skip


@pytest.mark.parametrize("balancing", [haproxy, pytest.param(envoy, marks=pytest.mark.long)])
async def test_restarts(balancing, long, tmp_path_factory, capsys):
    """drain.delay = "3s", a check a second: 0 failed calls."""
    names = ("http", "grpc", "admin", "a_http", "b_http", "a_grpc", "b_grpc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    valkey, url = await asyncio.to_thread(start_valkey, tmp_path_factory.mktemp("v"))
    told, is_over, restarts = Told(), asyncio.Event(), LONG_RESTARTS if long else RESTARTS
    serving = {}
    try:
        async with simulated(replace(Options.instant(), first_token_s=TAKES_S)) as simulator:
            for name in HOSTS:
                serving[name] = started(simulator, url, ports, name)
                await asyncio.to_thread(serving[name].__enter__)
            async with balancing(tmp_path_factory.mktemp("h"), ports) as up:
                await all_up(up)
                loading = asyncio.create_task(load(ports, told, is_over, itertools.count(1)))
                for number in range(restarts):
                    name = "ab"[number % 2]
                    await asyncio.to_thread(serving[name].__exit__, None, None, None)
                    serving[name] = started(simulator, url, ports, name)
                    await asyncio.to_thread(serving[name].__enter__)
                    await all_up(up)
                is_over.set()
                await loading
    finally:
        leaving = (asyncio.to_thread(each.__exit__, None, None, None) for each in serving.values())
        await asyncio.gather(*leaving, return_exceptions=True)
        valkey.kill()
        valkey.wait()
    with capsys.disabled():
        asked = f"{told.http.total()} calls by HTTP, {told.grpc.total()} by gRPC"
        print(f"\n{restarts} restarts behind {balancing.__name__}: {asked}, failed: {told.failed or 0}")
    assert not told.failed
    assert told.http["200"] > 20 * restarts
    assert told.grpc["OK"] > 20 * restarts
