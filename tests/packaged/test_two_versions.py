"""
An earlier version installed beside this one, both on one Redis: what either makes the other reads. `make upgrade` runs it.

The earlier one is a commit that the repository has; a checkout without that history skips this. It runs with the libraries of
now, so this is about what lies in Redis, and about nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import sys
import tarfile
import venv
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
import redis
from tests.packaged.place import ROOT

from conftest import until
from daemon_process import HEADRACE, environment, serving
from fleet import addresses, simulated
from headrace import schema
from headrace.simulator import Options
from headrace.v1 import content_pb2, messages_pb2, messages_service_pb2, options_pb2, tickets_pb2, tickets_service_pb2
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from headrace.v1.tickets_service_pb2_grpc import TicketsServiceStub

pytestmark = pytest.mark.long

EARLIER = "d7518c8a3c2febcfe2c5519fd335808c7013af5c"  # the last one that put no mark of its schema into Redis
WAIT_S = 4.0  # a ticket waits so long for its second attempt, and its maker leaves meanwhile
FEW = 4
LIMIT = f'[{{name = "few", requests_per_minute = {FEW}, match = {{caller = "budgeted*"}}}}]'
BOTH = [("earlier", "now"), ("now", "earlier")]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The program of either version; the earlier one in an environment of its own, which has all else from ours."""
    found = subprocess.run(["git", "cat-file", "-e", f"{EARLIER}^{{commit}}"], cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"the repository here has no commit {EARLIER[:12]} (a checkout without history)")
    directory = tmp_path_factory.mktemp("earlier")
    packed = subprocess.run(["git", "archive", EARLIER], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(directory / "source", filter="data")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory / "dist")]
    subprocess.run(build, cwd=directory / "source", check=True, capture_output=True, timeout=120)
    (wheel,) = (directory / "dist").glob("*.whl")
    return {"earlier": installed(directory / "venv", wheel), "now": HEADRACE}


def installed(place: Path, wheel: Path) -> str:
    """Install a wheel into an environment that is made for it; returns the program."""
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(f"{pytest.__file__.rpartition('/pytest/')[0]}\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(place / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    return str(place / "bin" / "headrace")


@dataclass
class Host:
    """A daemon of one version."""

    program: str
    environ: dict[str, str]
    http: str
    channel: grpc.aio.Channel

    async def command(self, *words: str) -> str:
        """Run a command of this version, and return what it prints."""
        command = [self.program, *words]
        done = await asyncio.to_thread(
            subprocess.run, command, env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    async def ask(self, text: str, key: str, **headers: str) -> tuple[int, str, dict[str, Any]]:
        """Return the status, where the answer is from, and what was said."""
        body = {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": text}]}
        sent = {"anthropic-version": "2023-06-01", "x-api-key": key, **headers}
        async with (
            aiohttp.ClientSession() as web,
            web.post(f"{self.http}/v1/messages", json=body, headers=sent) as response,
        ):
            return response.status, response.headers.get("x-headrace-source", ""), await response.json()

    async def submit(self, text: str, key: str, name: str = "") -> str:
        """Submit a call, with an idempotency key if one is named, and return its ticket."""
        said = messages_pb2.InputMessage(role="user", content=content_pb2.Content(text=text))
        asked = messages_service_pb2.SubmitMessageRequest(
            params=messages_pb2.MessageParams(model="claude-haiku-4-5", max_tokens=5, messages=[said]),
            options=options_pb2.CallOptions(idempotency_key=name),
        )
        stub = MessagesServiceStub(self.channel)
        return (await stub.SubmitMessage(asked, metadata=[("x-api-key", key)], timeout=10)).ticket.id

    async def ticket(self, ticket: str, key: str, *states: tickets_pb2.TicketState, attempts: int = 1) -> tickets_pb2.Ticket:
        """Wait until a ticket is in one of these states, after so many attempts."""
        asked = tickets_service_pb2.GetTicketRequest(id=ticket)
        async with asyncio.timeout(40):
            while True:
                stub = TicketsServiceStub(self.channel)
                found = (await stub.GetTicket(asked, metadata=[("x-api-key", key)], timeout=10)).ticket
                if found.state in states and found.attempts >= attempts:
                    return found
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(program: str, directory: Path, **settings: str) -> AsyncIterator[Host]:
    environ = environment(directory, **{f"HEADRACE_{name}": value for name, value in settings.items()})
    if program != HEADRACE:
        del environ["HEADRACE_LISTEN__ADMIN"]  # which it does not know yet
    entered = serving(environ, [program, "serve"], within=60)
    served = await asyncio.to_thread(entered.__enter__)
    try:
        *_, door, http = addresses(served)
        async with grpc.aio.insecure_channel(door) as channel:
            yield Host(program, environ, http, channel)
    finally:
        await asyncio.to_thread(entered.__exit__, None, None, None)


@dataclass
class World:
    """An upstream, and hosts of either version that share a Redis and a seal."""

    programs: dict[str, str]
    directory: Path
    settings: dict[str, str]
    simulator: Any
    count: int = 0

    def host(self, version: str) -> contextlib.AbstractAsyncContextManager[Host]:
        self.count += 1
        return running(self.programs[version], self.directory / str(self.count), **self.settings)


@pytest.fixture
async def world(programs: dict[str, str], valkey_url: str, tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "key").write_text("a key that all hosts have, of more than 32 bytes")
    (tmp_path / "key").chmod(0o600)
    async with simulated(Options.instant()) as simulator:
        settings = {
            "REDIS__URL": valkey_url,
            "STATE__MAC_KEY_FILE": str(tmp_path / "key"),
            "UPSTREAM__BASE_URL": simulator.url,
            "UPSTREAM__API_KEY": "sk-test",
            "UPSTREAM__OVERLOAD_GATE": "off",
            "AUTH__REQUIRED": "true",
            "LIMIT": LIMIT,
        }
        yield World(programs, tmp_path, settings, simulator)


SUCCEEDED, QUEUED = tickets_pb2.TICKET_STATE_SUCCEEDED, tickets_pb2.TICKET_STATE_QUEUED


@pytest.mark.parametrize(("maker", "reader"), BOTH)
async def test_side_by_side(world: World, valkey_url: str, maker: str, reader: str) -> None:
    """Keys, kept answers, budgets, idempotency keys and tickets with answers, made by the one and read by the other."""
    async with world.host(maker) as one, world.host(reader) as other:
        key = await one.command("keys", "create", "team")
        status, source, said = await one.ask("kept", key)
        assert (status, source) == (200, "upstream")
        assert await other.ask("kept", key) == (200, "cache", said)

        ticket = await one.submit("once", key, "one-order")
        assert await other.submit("once", key, "one-order") == ticket
        answered = await one.ticket(ticket, key, SUCCEEDED)
        assert (await other.ticket(ticket, key, SUCCEEDED)).message == answered.message

        await budget(one, other, await other.command("keys", "create", f"budgeted-{maker}"))

        (listed,) = [line for line in (await other.command("keys", "list")).splitlines() if " team " in line]
        await other.command("keys", "revoke", listed.split()[0])

        async def is_refused() -> bool:
            return (await one.ask("kept", key))[0] == 401

        await until(is_refused)
    with redis.Redis.from_url(valkey_url) as client:
        assert client.get("headrace:schema") == b"%d" % schema.SCHEMA


async def budget(one: Host, other: Host, key: str) -> None:
    """What both grant of one bucket is what it holds, and then neither does."""
    granted = [await (one, other)[number % 2].ask(f"budget {number}", key) for number in range(FEW)]
    assert [status for status, _, _ in granted] == [200] * FEW
    for host in (one, other):
        status, _, said = await host.ask("too many", key, **{"x-headrace-timeout-ms": "1500"})
        assert status == 429, said
        assert "limit few" in said["error"]["message"]


@pytest.mark.parametrize(("maker", "reader"), BOTH)
async def test_flight(world: World, maker: str, reader: str) -> None:
    """Identical calls in the air at both are one at upstream."""
    world.simulator.options = Options.instant(first_token_s=1.0)
    async with world.host(maker) as one, world.host(reader) as other:
        key = await one.command("keys", "create", "team")
        said = await asyncio.gather(*(host.ask("the same", key) for host in (one, other) for _ in range(5)))
        assert {status for status, _, _ in said} == {200}
        assert len({answer["id"] for _, _, answer in said}) == 1
        assert world.simulator.counts.total == 1


@pytest.mark.parametrize(("maker", "reader"), BOTH)
async def test_waiting_tickets(world: World, maker: str, reader: str) -> None:
    """Who submitted leaves before the second attempt: the other version makes it, and has the answer."""
    world.simulator.faults.add("overloaded", text="later", count=1, retry_after_s=WAIT_S)
    async with contextlib.AsyncExitStack() as leaving, world.host(reader) as other:
        one = await leaving.enter_async_context(world.host(maker))
        key = await one.command("keys", "create", "team")
        ticket = await one.submit("later", key)
        await one.ticket(ticket, key, QUEUED)
        await leaving.aclose()
        found = await other.ticket(ticket, key, SUCCEEDED, attempts=2)
        assert found.message.id
        assert await other.submit("later", key) != ticket
