"""All that daemons, a worker and the commands do, the Redis user of docs/installation.md may: nothing is forbidden."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import aiohttp
import grpc
import pytest
import redis

from audit import AUDIT
from daemon_process import HEADRACE, environment, headrace, serving
from fleet import Daemon, daemon_beside, simulated
from headrace.v1 import content_pb2, messages_pb2, messages_service_pb2, tickets_service_pb2
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from headrace.v1.tickets_service_pb2_grpc import TicketsServiceStub

INSTALLATION = Path(__file__).parents[2] / "docs" / "installation.md"
MODEL = "claude-sonnet-4-5"
LIMITS = [
    {
        "name": "org",
        "requests_per_minute": 100_000,
        "input_tokens_per_minute": 9_000_000,
        "output_tokens_per_minute": 9_000_000,
    },
    {"name": "crowd", "concurrency": 20, "per": ["caller"]},
    {"name": "money", "spend_per_day": 1000, "spend_per_month": 5000, "estimate": "ceiling"},
    {"name": "tight", "requests_per_minute": 60, "burst": "1s", "match": {"caller": "eve"}},
    {"name": "tried", "total_tokens_per_minute": 10, "shadow": True},
]
SETTINGS = {"AUTH__DEFAULT_ROLE": "admin", "USAGE__TRAFFIC": "on", "LIMIT": json.dumps(LIMITS), "CACHE__STALE": "1m"}
COMMANDS = """
keys create ann
keys create bob --expires 1d --role observer
keys list
keys revoke ann
limits
limits show org
limits set org --requests-per-minute 90000 --for 1h
limits unset org
hold bob --for 1h
release bob
usage --by caller,model
cache stats
cache purge --model nothing
cache purge --all
"""


@pytest.fixture
def url(valkey_url):
    """The URL of the documented user; at the end nothing must have been forbidden."""
    (line,) = re.findall(r"ACL SETUSER (headrace on >PASSWORD [^`]+)", INSTALLATION.read_text())
    with redis.Redis.from_url(valkey_url) as client:
        client.execute_command("ACL", "SETUSER", *line.split(), f"~{AUDIT}")
        client.execute_command("ACL", "LOG", "RESET")
        yield valkey_url.replace("unix://", "unix://headrace:PASSWORD@")
        denied = client.execute_command("ACL", "LOG")
        client.execute_command("ACL", "DELUSER", "headrace")
    assert [(entry[b"reason"], entry[b"object"], entry[b"count"]) for entry in denied] == []


def body(text: str, **more: object) -> dict[str, object]:
    return {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": text}], **more}


async def calls(session: aiohttp.ClientSession, at: Daemon) -> None:
    """Make calls of every kind: answered, repeated, shared, streamed, carried, idempotent, batched."""

    async def ask(method: str, path: str, said: object = None, **headers: str) -> dict:
        async with session.request(method, at.http + path, json=said, headers=headers) as response:
            text = await response.text()
            assert response.status < 400, text
            return json.loads(text) if text.startswith("{") else {}

    for _ in range(2):
        await ask("POST", "/v1/messages", body("repeated"))
    await asyncio.gather(*(ask("POST", "/v1/messages", body("shared")) for _ in range(4)))
    await asyncio.gather(*(ask("POST", "/v1/messages", body("a stream", stream=True)) for _ in range(3)))
    await asyncio.gather(*(ask("POST", "/v1/messages", body(f"{n}"), **{"x-headrace-caller": "eve"}) for n in range(4)))
    for _ in range(2):
        await ask("POST", "/v1/messages", body("once"), **{"idempotency-key": "k"})
    await ask("POST", "/v1/messages/count_tokens", {name: said for name, said in body("count").items() if name != "max_tokens"})
    made = await ask("POST", "/v1/messages/batches", {"requests": [{"custom_id": "a", "params": body("batched")}]})
    await ask("GET", f"/v1/messages/batches/{made['id']}")
    await ask("GET", "/v1/messages/batches")


@pytest.mark.slow
async def test_all_that_is_done(url, tmp_path):
    """Two daemons, a worker and every command do what they do, and Redis has forbidden nothing."""
    worker = environment(tmp_path, HEADRACE_REDIS__URL=url, HEADRACE_UPSTREAM__API_KEY="sk-test")
    async with (
        simulated() as simulator,
        daemon_beside(simulator.url, url, **SETTINGS) as one,
        daemon_beside(simulator.url, url, **SETTINGS) as two,
        aiohttp.ClientSession(headers={"anthropic-version": "2023-06-01", "x-headrace-caller": "ann"}) as session,
    ):
        working = serving(worker | {"HEADRACE_UPSTREAM__BASE_URL": simulator.url}, (HEADRACE, "worker"))
        await asyncio.to_thread(working.__enter__)
        await asyncio.gather(calls(session, one), calls(session, two))
        await tickets(one)
        environ = one.served.environ | {"HEADRACE_LISTEN__GRPC": json.dumps([one.grpc])}
        for command in (*COMMANDS.strip().splitlines(), f"usage --export-traffic {tmp_path}/traffic"):
            done = await asyncio.to_thread(headrace, *command.split(), environ=environ)
            assert done.returncode == 0, done.stderr
        await asyncio.to_thread(working.__exit__, None, None, None)
        assert "redis.lacks" not in one.served.log + two.served.log


async def tickets(at: Daemon) -> None:
    """Submit, list, wait, follow and cancel."""
    message = messages_pb2.InputMessage(role="user", content=content_pb2.Content(text="submitted"))
    request = messages_service_pb2.SubmitMessageRequest(
        params=messages_pb2.MessageParams(model=MODEL, max_tokens=8, messages=[message])
    )
    request.answer_timeout.FromSeconds(20)
    async with grpc.aio.insecure_channel(at.grpc) as channel:
        held, stub = MessagesServiceStub(channel), TicketsServiceStub(channel)
        ids = [(await held.SubmitMessage(request, timeout=20)).ticket.id for _ in range(3)]
        await stub.CancelTicket(tickets_service_pb2.CancelTicketRequest(id=ids[0]), timeout=20)
        await stub.WaitTicket(tickets_service_pb2.WaitTicketRequest(id=ids[1]), timeout=20)
        await stub.GetTicket(tickets_service_pb2.GetTicketRequest(id=ids[1]), timeout=20)
        listed = await stub.ListTickets(tickets_service_pb2.ListTicketsRequest(page_size=1), timeout=20)
        assert listed.next_page_token
        again = tickets_service_pb2.ListTicketsRequest(page_size=1, page_token=listed.next_page_token)
        assert (await stub.ListTickets(again, timeout=20)).tickets
