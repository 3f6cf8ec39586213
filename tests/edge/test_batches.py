"""Message batches: what they used is in usage and in windows of spend, once, when their results have passed by."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import httpx
import pytest

from conftest import start_valkey, until
from doors import grpc_server, http_door, open_door
from fleet import simulated
from flow_parts import Daemon, daemon
from headrace.edge.http_server import HttpServer
from headrace.model import Usage
from headrace.prices import Prices
from headrace.simulator import Options, Simulator
from headrace.usage.question import Question
from headrace.usage.tally import FIELDS
from headrace.v1 import message_batches_service_pb2 as pb
from headrace.v1.message_batches_service_pb2_grpc import MessageBatchesServiceStub

MODEL = "claude-haiku-4-5"
CALL = {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": "Hello"}]}
LIMITS = json.dumps(
    [
        {"name": "all", "spend_per_day": 5},
        {"name": "each", "per": ["caller"], "spend_per_month": 10},
        {"name": "teams", "match": {"team": "search"}, "spend_per_day": 1},
        {"name": "batches", "match": {"endpoint": "batches"}, "spend_per_day": 1},
        {"name": "messages", "match": {"endpoint": "messages"}, "spend_per_day": 1},
        {"name": "shadow", "match": {"model": "*haiku*"}, "spend_per_day": 1, "shadow": True},
        {"name": "others", "match": {"model": "*opus*"}, "spend_per_day": 1},
    ]
)
_NOT = ("messages", "others")
SETTINGS = {"LIMIT": LIMITS, "CALLER__ANN__TEAM": "search", "CALLER__ANN__LABELS": '["feature"]'}


def a_batch(*models: str) -> dict[str, Any]:
    return {"requests": [{"custom_id": f"n-{n}", "params": CALL | {"model": model}} for n, model in enumerate(models)]}


@dataclass
class Spent:
    """What the lines of results say: tokens by model, and what they cost as a batch's."""

    tokens: dict[str, tuple[int, int]]
    cost: int

    @classmethod
    def of(cls, results: str) -> Spent:
        tokens: dict[str, tuple[int, int]] = {}
        cost = 0
        for line in results.splitlines():
            if message := json.loads(line)["result"].get("message"):
                model, usage = message["model"], message["usage"]
                before = tokens.get(model, (0, 0))
                tokens[model] = before[0] + usage["input_tokens"], before[1] + usage["output_tokens"]
                cost += Prices().cost(model, Usage(usage["input_tokens"], usage["output_tokens"]), is_batch=True) or 0
        return cls(tokens, cost)


@dataclass
class House:
    """A daemon's parts and its door."""

    one: Daemon
    door: HttpServer
    web: httpx.AsyncClient

    async def make(self, *models: str, by: str = "ann", **headers: str) -> str:
        said = {"x-headrace-caller": by} | {name.replace("_", "-"): value for name, value in headers.items()}
        made = await self.web.post("/v1/messages/batches", json=a_batch(*models or [MODEL] * 5), headers=said)
        assert made.status_code == 200, made.text
        return str(made.json()["id"])

    async def fetch(self, batch: str, by: str = "bob", **headers: str) -> str:
        said = {"x-headrace-caller": by} | {name.replace("_", "-"): value for name, value in headers.items()}
        results = await self.web.get(f"/v1/messages/batches/{batch}/results", headers=said)
        assert results.status_code == 200, results.text
        return results.text

    async def rows(self, *by: str) -> dict[tuple[str, ...], tuple[int, int, int, int]]:
        """Return requests, input and output tokens, and cost, by group, where upstream was asked for any."""
        await self.idle()
        moment = datetime.fromtimestamp(self.one.parts.clock.now(), UTC)
        question = Question(since=moment - timedelta(hours=1), until=moment + timedelta(hours=1), group_by=by)
        rows, _, _ = await self.one.parts.usage.ask(question)
        found = {row.group: dict(zip(FIELDS, row.figures, strict=False)) for row in rows}
        return {
            group: (row["attempts"], row["input"], row["output"], row["cost"])
            for group, row in found.items()
            if row["attempts"]
        }

    async def idle(self) -> None:
        await until(lambda: not self.one.parts.batches.stats().pending)

    async def spent(self) -> dict[str, int]:
        """Return what each limit has counted, in nano-USD."""
        state = await self.one.parts.board.state()
        return {
            f"{shown.limit.name}{''.join(budget.whose.values())}": budget.seen.capacity - budget.level.left
            for shown in state.shown
            for budget in shown.budgets
            if budget.seen.capacity != budget.level.left
        }


@contextlib.asynccontextmanager
async def house(valkey_url: str, simulator: Simulator, path, **settings: str):
    path.mkdir(exist_ok=True)
    settings = SETTINGS | settings
    async with (
        daemon(valkey_url, simulator.url, path, **settings) as one,
        http_door(one, **settings) as door,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{door.port}", timeout=20) as web,
    ):
        web.headers["anthropic-version"] = "2023-06-01"
        yield House(one, door, web)


@pytest.fixture
async def pair(valkey_url, tmp_path):
    """Two daemons on one Redis, and the simulator behind them."""
    async with (
        simulated(Options.instant(encodings=("gzip", "br"))) as simulator,
        house(valkey_url, simulator, tmp_path / "1") as one,
        house(valkey_url, simulator, tmp_path / "2") as two,
    ):
        yield one, two


async def test_counted_once(pair):
    """However often and wherever results are fetched, they count once, for who made the batch, at half the price."""
    one, two = pair
    batch = await one.make(MODEL, MODEL, "claude-sonnet-4-5", x_headrace_labels="feature=search", x_headrace_lane="batch")
    texts = await asyncio.gather(*(each.fetch(batch) for each in (one, two) for _ in range(3)))
    spent = Spent.of(texts[0])
    assert all(text == texts[0] for text in texts)
    assert spent.cost > 0
    await two.idle()
    await two.rows()  # it posts what it has
    total = await one.rows("caller", "team", "lane", "labels")
    sums = [sum(each) for each in zip(*spent.tokens.values(), strict=True)]
    assert total == {("ann", "search", "batch", "feature=search"): (3, *sums, spent.cost)}
    by_model = await one.rows("model")
    assert {group[0]: row[1:3] for group, row in by_model.items()} == spent.tokens
    assert sum(each.one.parts.batches.stats().counted for each in pair) == 1


async def test_limits(pair):
    """What a batch cost is in each window that it belongs to: not in those of other callers, models and endpoints."""
    one, _ = pair
    text = await one.fetch(await one.make())
    await one.idle()
    cost = Spent.of(text).cost
    expected = {"all": cost, "teams": cost, "batches": cost}

    async def agrees() -> bool:
        return {name: spent for name, spent in (await one.spent()).items() if name in expected or name in _NOT} == expected

    await until(agrees)
    reserved = await one.one.parts.link.do("KEYS", "headrace:{budget}:bucket:each:*")
    assert [key.split(b":caller=")[1].split(b":")[0] for key in reserved] == [b"ann"]
    assert await one.one.parts.link.do("KEYS", "headrace:{budget}:bucket:shadow:*")


async def test_debt(valkey_url, tmp_path):
    """A batch may cost more than there is: then who made it waits for the next window, and nobody else."""
    limit = json.dumps([{"name": "money", "per": ["caller"], "spend_per_month": 0.0001}])
    async with simulated(Options.instant()) as simulator, house(valkey_url, simulator, tmp_path, LIMIT=limit) as one:
        await one.fetch(await one.make(*[MODEL] * 40))
        await one.idle()
        asked = {"x-headrace-caller": "ann", "x-headrace-timeout-ms": "2000"}
        refused = await one.web.post("/v1/messages", json=CALL | {"max_tokens": 1}, headers=asked)
        assert refused.status_code == 429, refused.text
        others = await one.web.post("/v1/messages", json=CALL | {"max_tokens": 1}, headers=asked | {"x-headrace-caller": "bob"})
        assert others.status_code == 200


async def test_made_elsewhere(pair, tmp_path):
    """Of a batch that was not made through us, what it used counts for who fetches its results first."""
    one, two = pair
    simulator = one.one.parts.settings.upstream.base_url
    async with httpx.AsyncClient(headers={"x-api-key": "k", "anthropic-version": "2023-06-01"}) as direct:
        batch = (await direct.post(f"{simulator}/v1/messages/batches", json=a_batch(MODEL))).json()["id"]
    await one.fetch(batch, "bob")
    await one.idle()
    await two.fetch(batch, "ann")
    await two.rows()
    assert {group[0]: row[0] for group, row in (await one.rows("caller")).items()} == {"bob": 1}


async def test_left(pair):
    """Results that are not read to their end do not count; read again, they do."""
    one, two = pair
    batch = await one.make(*[MODEL] * 20_000)
    async with one.web.stream("GET", f"/v1/messages/batches/{batch}/results") as results:
        async for _ in results.aiter_raw():
            break
    await until(lambda: not one.one.held(), what=one.one.held())
    assert await one.rows() == {}
    text = await two.fetch(batch)
    [row] = (await two.rows()).values()
    assert row[0] == 20_000
    assert row[3] == pytest.approx(Spent.of(text).cost, abs=1)


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, br", "identity"])
async def test_packed(pair, encoding):
    """However the caller takes them, results are read."""
    one, _ = pair
    text = await one.fetch(await one.make(), accept_encoding=encoding)
    [row] = (await one.rows()).values()
    assert row[3] == Spent.of(text).cost > 0


async def test_grpc(pair, tmp_path):
    """Results that a typed call reads count as well."""
    one, _ = pair
    batch = await one.make()
    async with grpc_server(one.one, tmp_path) as door, grpc.aio.insecure_channel(f"127.0.0.1:{door.ports[0]}") as channel:
        request = pb.StreamMessageBatchResultsRequest(id=batch)
        lines = [line async for line in MessageBatchesServiceStub(channel).StreamMessageBatchResults(request, timeout=10)]
    assert len(lines) == 5
    assert {group[0]: row[0] for group, row in (await one.rows("caller")).items()} == {"ann": 5}


async def test_unread(valkey_url, tmp_path):
    """What is packed in a way that nobody asked for, and what is no success, passes as it came, and counts nothing."""
    answers = [(200, b"\x0b\x01\x80text\x03", "content-encoding: br"), (206, b'{"result":{}}\n', "x-a: b")]

    async def talk(line) -> None:
        status, body, header = answers.pop(0)
        await line.answer(status, body, header)

    async with open_door(valkey_url, tmp_path, talk) as (door, _, one), httpx.AsyncClient() as web:
        for status in (200, 206):
            passed = await web.get(f"http://127.0.0.1:{door.port}/v1/messages/batches/msgbatch_1/results")
            assert passed.status_code == status
        assert one.parts.batches.stats().pending == one.parts.batches.stats().counted == 0


async def test_redis_away(tmp_path):
    """Results that pass while Redis is away count when it is back, once."""
    process, url = start_valkey(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    try:
        async with simulated(Options.instant()) as simulator, house(url, simulator, tmp_path / "1") as one:
            batch = await one.make()
            process.kill()
            process.wait()
            texts = [await one.fetch(batch) for _ in range(2)]
            assert one.one.parts.batches.stats().pending == 2
            process, _ = await asyncio.to_thread(start_valkey, tmp_path, "--appendonly", "yes", "--appendfsync", "always")
            [row] = (await one.rows("caller")).values()
            assert row[3] == Spent.of(texts[0]).cost
            assert one.one.parts.batches.stats().counted == 1
    finally:
        process.kill()
        process.wait()
