"""Two installed daemons on one Redis, operated by commands: hosts, drained and back; calls explained; tickets acted on."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conftest import until
from daemon_process import environment, headrace
from fleet import Daemon, daemon_beside, simulated
from headrace.simulator import Options

LIMITS = [
    {"name": "org", "requests_per_minute": 600},
    {"name": "reports", "match": {"caller": "reports.*"}, "requests_per_minute": 1, "burst": "1m"},
]
SETTINGS = {
    "LIMIT": json.dumps(LIMITS), "AUTH__DEFAULT_ROLE": "operator", "DRAIN__DELAY": "300ms", "LOG__SLOW": "1ms",
    "RETRY__BACKOFF": "2s..3s",
}  # fmt: skip


class Pair:
    """Two daemons, callers at both, and the commands against either."""

    def __init__(self, session: aiohttp.ClientSession, simulator, one: Daemon, two: Daemon, path) -> None:
        self.session, self.simulator, self.one, self.two, self.path = session, simulator, one, two, path
        self.number = 0

    async def call(self, at: Daemon, caller: str = "ann", **headers: str) -> tuple[int, str]:
        """Make a call of its own; return its status, and the id by which it is known."""
        self.number += 1
        body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": f"{self.number}"}]}
        said = {"anthropic-version": "2023-06-01", "x-headrace-caller": caller, "x-headrace-timeout-ms": "60000"} | headers
        async with self.session.post(f"{at.http}/v1/messages", json=body, headers=said) as response:
            await response.read()
            return response.status, response.headers["x-headrace-request-id"]

    async def command(self, at: Daemon, *words: str, code: int = 0) -> str:
        environ = environment(self.path, HEADRACE_LISTEN__GRPC=json.dumps([at.grpc]))
        ran = await asyncio.to_thread(headrace, *words, environ=environ)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout if code == 0 else ran.stderr

    async def said(self, at: Daemon, *words: str):
        return json.loads(await self.command(at, *words, "--json"))

    async def ready(self, at: Daemon) -> str:
        async with self.session.get(f"{at.http}/readyz") as response:
            return f"{response.status} {await response.text()}"

    async def host(self, at: Daemon) -> dict:
        """Return what the other daemon says of this one."""
        other = self.two if at is self.one else self.one
        hosts = (await self.said(other, "hosts"))["hosts"]
        return next(host for host in hosts if host["pid"] == at.served.process.pid)


@pytest.fixture
async def pair(valkey_url, tmp_path):
    async with (
        simulated(Options.instant()) as simulator,
        daemon_beside(simulator.url, valkey_url, **SETTINGS) as one,
        daemon_beside(simulator.url, valkey_url, **SETTINGS) as two,
        aiohttp.ClientSession() as session,
    ):
        yield Pair(session, simulator, one, two, tmp_path)


def health(at: Daemon) -> int:
    with grpc.insecure_channel(at.grpc) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10).status


async def test_drained_and_back(pair: Pair) -> None:
    """Out of service from the other host: not ready on both doors, no new calls, what runs is finished; and back by a word."""
    await until(lambda: seen(pair, 2))
    name = (await pair.host(pair.two))["instance"]
    pair.simulator.faults.add("slow", path="/v1/messages", delay_s=6.0, count=1)
    running = asyncio.create_task(pair.call(pair.two))
    await until(lambda: pair.simulator.journal.visits)
    [waited] = (await pair.said(pair.one, "drain", name, "--reason", "disk", "--wait", "30s"))["hosts"]
    assert running.done()  # what it had, it has finished
    assert (await running)[0] == 200
    assert (waited["instance"], waited["state"], waited["drain"]["reason"]) == (name, "HOST_STATE_DRAINED", "disk")
    said = await pair.command(pair.one, "drain", name, "--reason", "disk", "--wait", "30s")
    assert f"{name} is drained" in said
    assert (await pair.ready(pair.two)).startswith("503")
    assert "disk" in await pair.ready(pair.two)
    await until(lambda: health(pair.two) == health_pb2.HealthCheckResponse.NOT_SERVING)
    assert (await pair.call(pair.two))[0] == 503
    assert (await pair.call(pair.one))[0] == 200
    host = await pair.host(pair.two)
    assert (host["state"], host["drain"]["reason"]) == ("HOST_STATE_DRAINED", "disk")
    assert "is drained" in await pair.command(pair.one, "status")
    await pair.command(pair.one, "status", "--check", code=5)
    # It can be asked, and told, itself.
    assert "is back in service" in await pair.command(pair.two, "drain", "--undo", name)
    await until(lambda: is_ready(pair, pair.two))
    await until(lambda: health(pair.two) == health_pb2.HealthCheckResponse.SERVING)
    assert (await pair.call(pair.two))[0] == 200
    acts = await pair.said(pair.one, "audit")
    assert [(act["what"], act["target"]) for act in acts[:2]] == [("host.resumed", name), ("host.drained", name)]
    assert "there are:" in await pair.command(pair.one, "drain", "nowhere", code=3)


async def seen(pair: Pair, count: int) -> bool:
    hosts = (await pair.said(pair.one, "hosts"))["hosts"]
    return len(hosts) == count and all(host["state"] == "HOST_STATE_SERVING" for host in hosts)


async def is_ready(pair: Pair, at: Daemon) -> bool:
    return (await pair.ready(at)).startswith("200")


async def test_explained(pair: Pair) -> None:
    """A call that was parked is explained from the other host, by its own id and its ticket's; and so is one that waits now."""
    pair.simulator.faults.add("overloaded", path="/v1/messages", count=1)
    status, name = await pair.call(pair.one, **{"x-request-id": "mine-1"})
    assert (status, name) == (200, "mine-1")

    async def is_known() -> bool:
        return (await pair.said(pair.two, "explain", "mine-1"))["calls"] != []

    await asyncio.sleep(1.5)  # what was noted is written once a second
    await until(is_known)
    told = (await pair.said(pair.two, "explain", "mine-1"))["calls"][0]
    assert [phase["what"] for phase in told["phases"] if phase["what"] != "wait"][:3] == ["attempt", "parked", "attempt"]
    assert [phase.get("status") for phase in told["phases"] if phase["what"] == "attempt"] == [529, 200]
    assert (told["caller"], told["attempts"]) == ("ann", 2)
    shown = await pair.command(pair.two, "explain", told["ticket"])
    assert "overloaded" in shown
    assert "parked" in shown
    await pair.command(pair.two, "explain", "hr_nothing", code=3)
    forecast = await pair.said(pair.one, "explain", "--caller", "reports.q", "--model", "claude-sonnet-4-5", "--tokens", "9")
    assert {bucket["limit"] for bucket in forecast["buckets"]} == {"org", "reports"}
    assert forecast.get("limit", "") == ""
    assert (await pair.call(pair.one, "reports.q"))[0] == 200
    line = await pair.command(pair.two, "explain", "--caller", "reports.q", "--model", "claude-sonnet-4-5")
    assert "for limit reports" in line


async def test_one_connection(pair: Pair) -> None:
    """A command that acts on many things asks over one connection, and says of each what came of it."""
    connections = 0

    async def passed_on(*ends) -> None:
        nonlocal connections
        connections += 1
        await join(at, *ends)

    at = pair.one.grpc
    names = [f"tkt_{number:024}" for number in range(40)]
    listening = await asyncio.start_server(passed_on, "127.0.0.1", 0)
    async with listening:
        environ = environment(pair.path, HEADRACE_LISTEN__GRPC=f'["127.0.0.1:{listening.sockets[0].getsockname()[1]}"]')
        done = await asyncio.to_thread(headrace, "tickets", "cancel", *names, environ=environ)
    assert done.returncode == 3
    assert done.stderr.count("there is no such ticket") == 40
    assert connections == 1


async def join(to: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes in at a connection, and back, until either end has no more to say."""
    host, _, port = to.rpartition(":")
    inner = await asyncio.open_connection(host, int(port))

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)

    ways = [asyncio.create_task(copy(reader, inner[1])), asyncio.create_task(copy(inner[0], writer))]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    for end in (writer, inner[1]):
        end.close()


async def test_tickets(pair: Pair) -> None:
    """Tickets of all callers, by filters: counted, asked about, cancelled and dropped, with whoever did it."""
    assert (await pair.call(pair.one, "reports.q"))[0] == 200  # takes the one that there is a minute
    began = time.monotonic()
    waiting = [
        asyncio.create_task(
            pair.call(pair.one, f"reports.{n}", **{"idempotency-key": f"k{n}", "x-headrace-timeout-ms": "500000"})
        )
        for n in range(3)
    ]

    async def are_there() -> bool:
        return len(await pair.said(pair.two, "tickets", "list", "--caller", "reports.*", "--state", "running")) == 3

    await until(are_there, within=20)
    running = await pair.said(pair.two, "tickets", "list", "--caller", "reports.*")
    assert {each.get("waits_for") for each in running if each["state"] == "TICKET_STATE_RUNNING"} == {"reports"}
    assert (await pair.said(pair.two, "tickets", "show", running[0]["id"]))["waits_for"] == "reports"
    assert "waits for reports" in await pair.command(pair.one, "explain", running[0]["id"])
    assert await pair.said(pair.two, "tickets", "list", "--caller", "other*") == []
    assert await pair.said(pair.two, "tickets", "list", "--caller", "reports.*", "--older", "10m") == []
    asked = await pair.command(pair.two, "tickets", "cancel", "--caller", "reports.*", code=4)
    assert "cancel 3 tickets?" in asked
    done = await pair.command(pair.two, "tickets", "cancel", "--caller", "reports.*", "--yes", "--reason", "flood")
    assert done.count("canceled") == 3
    assert {status for status, _ in await asyncio.gather(*waiting)} != {200}
    assert time.monotonic() - began < 60
    ids = [each["id"] for each in await pair.said(pair.one, "tickets", "list", "--state", "canceled")]
    assert len(ids) == 3
    assert (await pair.said(pair.one, "tickets", "show", ids[0]))["state"] == "TICKET_STATE_CANCELED"
    await pair.command(pair.one, "tickets", "requeue", ids[0], code=3)
    await pair.command(pair.one, "tickets", "drop", *ids, "--reason", "gone")
    await pair.command(pair.one, "tickets", "show", ids[0], code=3)
    acts = await pair.said(pair.one, "audit")
    assert [(act["what"], act["reason"]) for act in acts] == [("ticket.dropped", "gone")] * 3 + [
        ("ticket.canceled", "flood")
    ] * 3
