"""
What somebody planted in Redis, in every family of keys: a daemon starts, serves, lists, cancels, revokes, and runs none of it.

Two plants: values of the right type that are rubbish (pickles among them), and values of every wrong type.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import time

import aiohttp
import grpc.aio
import pytest
import redis

from conftest import until
from fleet import daemon_beside, simulated
from headrace import keys
from headrace.callers import KeyStore
from headrace.link import Link
from headrace.v1 import budgets_service_pb2 as budgets
from headrace.v1 import messages_service_pb2 as messages
from headrace.v1 import tickets_pb2 as tickets_v1
from headrace.v1 import tickets_service_pb2 as tickets
from headrace.v1.budgets_service_pb2_grpc import BudgetsServiceStub
from headrace.v1.messages_pb2 import MessageParams
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from headrace.v1.tickets_service_pb2_grpc import TicketsServiceStub
from planted import RUBBISH, TICKETS, Spring, families, named, plant_jobs, plant_tickets, put

BODY = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
LIMIT = '[{name = "org", requests_per_minute = 1000}, {name = "crowd", concurrency = 50, per = ["caller"]}]'

SHARED = LIMIT.replace("}", ', on_redis_loss = "share"}')


async def ask(session: aiohttp.ClientSession, http: str, key: str, text: str) -> int:
    body = BODY | {"messages": [{"role": "user", "content": text}]}
    async with session.post(f"{http}/v1/messages", json=body, headers={"x-api-key": key}) as response:
        said = await response.read()
        if response.status >= 500:
            print(said.decode(errors="replace"))
        return response.status


def crashes(log: str) -> list[str]:
    return [line[:600] for line in log.splitlines() if re.search("part.crashed|flight.crashed|Traceback", line)]


async def test_rubbish(valkey_url, tmp_path):
    """Of rubbish everywhere each record costs itself alone: it is skipped, counted, and told in a few lines."""
    mark = str(tmp_path / "mark")
    with redis.Redis.from_url(valkey_url) as client:
        rubbish = [*RUBBISH, pickle.dumps(Spring(mark))]
        for family, kind in families().items():
            for number, name in enumerate(named(family)):
                put(client, name.encode(errors="surrogateescape"), kind, rubbish[number:] + rubbish[:number])
        client.hset(keys.OVERRIDES, mapping={b"limit:org": b"0 {}", b"caller:checkout": b'0 {"by":5}', b"limit:\xff": b"\xff"})
        plant_tickets(client)
        plant_jobs(client, mark)
        link = Link(valkey_url)
        store = KeyStore(link)
        key = await store.create("checkout")
        settings = {"AUTH__REQUIRED": "true", "LIMIT": LIMIT, "CALLER": "{checkout = {role = 'admin'}}"}
        async with simulated() as simulator, daemon_beside(simulator.url, valkey_url, **settings) as one:
            async with aiohttp.ClientSession() as session, grpc.aio.insecure_channel(one.grpc) as channel:
                for text in ("a", "a", "b"):
                    assert await ask(session, one.http, key, text) == 200
                mine = (("x-api-key", key),)
                tickets_of = TicketsServiceStub(channel)
                listed = await tickets_of.ListTickets(tickets.ListTicketsRequest(), metadata=mine, timeout=5)
                assert not {each.id for each in listed.tickets} & set(TICKETS)
                params = MessageParams(model="claude-sonnet-4-5", max_tokens=9)
                params.messages.add(role="user").content.text = "c"
                asked = messages.SubmitMessageRequest(params=params)
                made = (await MessagesServiceStub(channel).SubmitMessage(asked, metadata=mine, timeout=5)).ticket
                waited = await tickets_of.WaitTicket(tickets.WaitTicketRequest(id=made.id), metadata=mine, timeout=20)
                assert waited.ticket.state == tickets_v1.TICKET_STATE_SUCCEEDED, waited
                await tickets_of.CancelTicket(tickets.CancelTicketRequest(id=made.id), metadata=mine, timeout=5)
                shown = await BudgetsServiceStub(channel).ListBudgets(budgets.ListBudgetsRequest(), metadata=mine, timeout=5)
                assert shown.limits
                async with session.get(f"{one.http}/metrics") as response:
                    metrics = await response.text()
                for kind in ("key", "purge", "ticket", "override"):
                    assert re.search(rf'headrace_bad_records_total{{kind="{kind}"}} [1-9]', metrics), kind
                assert await store.revoke("checkout") == 1

                async def is_refused() -> bool:
                    return await ask(session, one.http, key, "a") == 401

                give_up = time.monotonic() + 5
                while not await is_refused():
                    assert time.monotonic() < give_up
                    await asyncio.sleep(0.05)
            left = [name.encode(errors="surrogateescape") for name in TICKETS]
            await until(lambda: not any(client.zmscore(keys.TICKETS, left)), what=f"{client.zmscore(keys.TICKETS, left)}")
            log = one.served.log
        await link.aclose()
    assert not crashes(log), crashes(log)[:5]
    assert len(log.splitlines()) < 150
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", ["string", "hash", "list", "set", "zset", "stream"])
async def test_wrong_type(valkey_url, tmp_path, kind):
    """Where all keys hold another type of value, calls are answered all the same, and no part dies."""
    with redis.Redis.from_url(valkey_url) as client:
        for family, right in families().items():
            if right != kind:
                for name in named(family):
                    put(client, name.encode(errors="surrogateescape"), kind, RUBBISH)
        for name in ("rq:queue:headrace", "rq:scheduled:headrace", "rq:workers", "rq:job:x"):
            put(client, name.encode(), kind, RUBBISH)
    async with simulated() as simulator, daemon_beside(simulator.url, valkey_url, LIMIT=SHARED) as one:
        async with aiohttp.ClientSession() as session:
            for text in ("a", "a", "b"):
                assert await ask(session, one.http, "", text) == 200
            await asyncio.sleep(1.5)  # whatever looks now and then has looked
            assert await ask(session, one.http, "", "c") == 200
        log = one.served.log
    assert not crashes(log), crashes(log)[:5]
    assert len(log.splitlines()) < 150
    assert json.loads(log.splitlines()[0])
