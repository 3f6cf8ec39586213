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

from asked_all import wrong_rpcs, wrong_views
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
from looking import admin_url
from planted import RUBBISH, TICKETS, Spring, families, named, plant_jobs, plant_tickets, put

BODY = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
LIMIT = '[{name = "org", requests_per_minute = 1000}, {name = "crowd", concurrency = 50, per = ["caller"]}]'

ADMIN = {"LISTEN__ADMIN": '["127.0.0.1:0"]'}
SHARED = LIMIT.replace("}", ', on_redis_loss = "share"}')


async def ask(session: aiohttp.ClientSession, http: str, key: str, text: str) -> int:
    body = BODY | {"messages": [{"role": "user", "content": text}]}
    async with session.post(f"{http}/v1/messages", json=body, headers={"x-api-key": key}) as response:
        said = await response.read()
        if response.status >= 500:
            print(said.decode(errors="replace"))
        return response.status


def crashes(log: str) -> list[str]:
    return [line[:3000] for line in log.splitlines() if re.search("part.crashed|flight.crashed|Traceback", line)]


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
        settings = {"AUTH__REQUIRED": "true", "LIMIT": LIMIT, "CALLER": "{checkout = {role = 'admin'}}"} | ADMIN
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
                assert await wrong_rpcs(channel, mine) == []
                assert await wrong_views(session, admin_url(one), {"x-api-key": key}) == []
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
    settings = ADMIN | {"LIMIT": SHARED, "AUTH__DEFAULT_ROLE": "admin"}
    async with simulated() as simulator, daemon_beside(simulator.url, valkey_url, **settings) as one:
        async with aiohttp.ClientSession() as session, grpc.aio.insecure_channel(one.grpc) as channel:
            for text in ("a", "a", "b"):
                assert await ask(session, one.http, "", text) == 200
            await asyncio.sleep(1.5)  # whatever looks now and then has looked
            assert await ask(session, one.http, "", "c") == 200
            assert await wrong_rpcs(channel, ()) == []
            assert await wrong_views(session, admin_url(one), {}) == []
        log = one.served.log
    assert not crashes(log), crashes(log)[:5]
    assert len(log.splitlines()) < 150
    assert json.loads(log.splitlines()[0])


IN_PLACE = (b"nan", b"-1", b"x", b"9" * 30, b"1e400", b"\xff\xfe", b"{}", b"", b"1 2 3 4")


async def test_in_place(valkey_url, tmp_path):
    """Where the daemon's own records, by their own names and fields, say nonsense at once, no call fails, and no list."""
    settings = ADMIN | {"LIMIT": EVERY_LIMIT, "AUTH__DEFAULT_ROLE": "admin", "RETRY__BACKOFF": "0.05s..0.1s"}
    wrong: list[str] = []
    async with simulated() as simulator, daemon_beside(simulator.url, valkey_url, **settings) as one:
        async with aiohttp.ClientSession() as session, grpc.aio.insecure_channel(one.grpc) as channel:
            steer, batch = BudgetsServiceStub(channel), {"requests": [{"custom_id": "1", "params": BODY}]}
            for number, value in enumerate(IN_PLACE):
                assert await ask(session, one.http, "", f"{number}") == 200
                await submitted(channel, f"s{number}")
                async with session.post(f"{one.http}/v1/messages/batches", json=batch) as made:
                    assert made.status == 200
                await steer.SetLimit(
                    budgets.SetLimitRequest(limit="org", figures=budgets.LimitFigures(requests_per_minute=900))
                )
                await steer.HoldCaller(budgets.HoldCallerRequest(caller="nobody"))
                await asyncio.sleep(1.1)  # what is told once a second has been told
                with redis.Redis.from_url(valkey_url) as client:
                    say_in_place(client, value)
                for text in (f"{number}", f"{number}a", f"{number}b"):
                    if (status := await ask(session, one.http, "", text)) != 200:
                        wrong.append(f"{value!r}: {status}")
                await submitted(channel, f"t{number}")
                wrong += [f"{value!r}: {each}" for each in await wrong_rpcs(channel, ())]
                wrong += [f"{value!r}: {each}" for each in await wrong_views(session, admin_url(one), {})]
                with redis.Redis.from_url(valkey_url) as client:
                    client.flushdb()  # the next one begins with what can be read
        log = one.served.log
    print(*wrong, *crashes(log)[:9], sep="\n")
    assert wrong == []
    assert not crashes(log), crashes(log)[:5]


EVERY_LIMIT = """[
  {name = "org", requests_per_minute = 1000, input_tokens_per_minute = 1000000, output_tokens_per_minute = 1000000},
  {name = "crowd", concurrency = 50, per = ["caller"]}, {name = "money", spend_per_day = 1000},
]""".replace("\n", "")


def say_in_place(client: redis.Redis, value: bytes) -> None:
    """Put a value in the place of every value that there is: keys, fields, members and types stay as they are."""
    for name in list(client.scan_iter("headrace:*")):
        match client.type(name):
            case b"string":
                client.set(name, value, keepttl=True)
            case b"hash":
                client.hset(name, mapping=dict.fromkeys(client.hkeys(name), value))
            case b"zset":
                client.zadd(name, dict.fromkeys(client.zrange(name, 0, -1), float("inf")))
            case b"list":
                for at in range(client.llen(name)):
                    client.lset(name, at, value)
            case b"stream":
                fields = [dict.fromkeys(entry, value) for _, entry in client.xrange(name)]
                for entry in fields:
                    client.xadd(name, entry)


async def submitted(channel: grpc.aio.Channel, text: str) -> None:
    params = MessageParams(model="claude-sonnet-4-5", max_tokens=9)
    params.messages.add(role="user").content.text = text
    made = (await MessagesServiceStub(channel).SubmitMessage(messages.SubmitMessageRequest(params=params), timeout=5)).ticket
    waited = await TicketsServiceStub(channel).WaitTicket(tickets.WaitTicketRequest(id=made.id), timeout=20)
    assert waited.ticket.state == tickets_v1.TICKET_STATE_SUCCEEDED, waited
