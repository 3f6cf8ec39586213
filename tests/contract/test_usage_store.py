"""Usage in Redis: posted exactly once, whatever is lost on the way, within bounds, and read back as it was."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import redis

from conftest import start_valkey, until
from headrace.clock import HandClock
from headrace.errors import RedisAway
from headrace.link import Link
from headrace.model import Usage
from headrace.outcome import Outcome, Spent
from headrace.prices import Prices
from headrace.usage import Granularity, Question, Store, Tally
from headrace.usage.store import _POST, MOST_CELLS
from headrace.usage.tally import AT, FIELDS, OTHER, Who
from headrace.usage.traffic import Traffic

NOON = datetime(2050, 3, 31, 12, 0, 30, tzinfo=UTC)  # far from now, by which Redis lets go of what is past its time
MODEL = "claude-sonnet-5"


def make(link, clock=None, **more):
    clock = clock or HandClock(NOON.timestamp())
    return Store(link, clock, Tally(Prices()), **more), clock


def spend(store, clock, output=1, caller="a", model=MODEL):
    store._tally.spend(Spent(caller, "standard", model, Usage(10, output), True, at=clock.now()))


async def outputs(store, **question):
    """Return output by group, and by the row's beginning where rows are cut by time."""
    since = question.pop("since", NOON - timedelta(hours=1))
    rows, _, _ = await store.ask(Question(since=since, until=question.pop("until", NOON + timedelta(days=1)), **question))
    timed = "granularity" in question
    return [((row.begins,) if timed else row.group, row.figures[AT["output"]]) for row in rows]


async def test_two_processes(link, valkey_url):
    """What two processes post is one sum, in minutes, days and months, and each is read as it was written."""
    here, clock = make(link)
    other = Link(valkey_url)
    there, _ = make(other, clock)
    spend(here, clock, 1)
    spend(there, clock, 10)
    await there.post()
    await clock.advance(86_400)
    spend(here, clock, 100, "b")

    assert await outputs(here, group_by=("caller",), since=NOON - timedelta(days=3)) == [(("b",), 100), (("a",), 11)]
    assert await outputs(here, granularity=Granularity.MINUTE, until=NOON + timedelta(days=1)) == [
        ((NOON.replace(second=0),), 11),
        ((NOON.replace(second=0) + timedelta(days=1),), 100),
    ]
    days = [NOON.replace(hour=0, second=0) + timedelta(days=day) for day in (0, 1)]
    assert await outputs(here, granularity=Granularity.DAY) == [((days[0],), 11), ((days[1],), 100)]
    months = [datetime(2050, month, 1, tzinfo=UTC) for month in (3, 4)]
    assert await outputs(here, granularity=Granularity.MONTH) == [((months[0],), 11), ((months[1],), 100)]
    await other.aclose()


async def test_what_goes(link):
    """Minutes go two days after they end, days and months after 13 months; nothing stays for good."""
    store, clock = make(link)
    clock_now = await link.do("TIME")
    await clock.advance(int(clock_now[0]) - clock.now())
    spend(store, clock)
    await store.post()
    names = [name.decode() for name in await link.do("KEYS", "headrace:{usage}:*")]
    ttls = {name.split(":")[2]: await link.do("TTL", name) / 86_400 for name in names}
    assert 2 <= ttls["minute"] < 2.1
    assert 396 <= ttls["day"] <= 397.1
    assert 396 <= ttls["month"] <= 428
    assert 1.9 < ttls["posted"] <= 2


async def test_a_post_counts_once(link):
    """A post whose reply is lost is sent again, and changes nothing; the next one counts."""
    store, clock = make(link)
    spend(store, clock, 5)
    store._put(store._tally.take(9))
    names, args = store._script(store._waiting)
    for _ in range(3):
        await link.run(_POST, names, args)
    spend(store, clock, 7)
    assert await outputs(store) == [((), 12)]


async def test_cancelled_in_the_middle(link):
    """Whoever is cancelled while a post is in the air leaves it to the next one, which does not count it twice."""
    store, clock = make(link)
    for number in range(20):
        spend(store, clock, 1)
        posting = asyncio.create_task(store.post())
        for _ in range(number % 5):
            await asyncio.sleep(0)
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
    assert await outputs(store) == [((), 20)]


async def test_redis_away(tmp_path_factory):
    """While Redis is away the tally goes on; once it is back, all is posted, once, in its minutes."""
    directory = tmp_path_factory.mktemp("v")
    durable = ("--appendonly", "yes", "--appendfsync", "always")
    process, url = start_valkey(directory, *durable)
    link = Link(url, timeout_s=0.5)
    store, clock = make(link)
    spend(store, clock, 1)
    await store.post()
    process.kill()
    process.wait()
    for _ in range(3):
        spend(store, clock, 10)
        with pytest.raises(RedisAway):
            await store.post()
        await clock.advance(60)
    process, url = start_valkey(directory, *durable)
    try:
        assert await outputs(store) == [((), 31)]
        assert [figure for _, figure in await outputs(store, granularity=Granularity.MINUTE, until=NOON + timedelta(1))] == [
            11, 10, 10,
        ]  # fmt: skip
        assert store.stats().posts == 0
    finally:
        await link.aclose()
        process.terminate()
        process.wait(10)


async def test_kept_every_second(link):
    """What is told is in Redis a second later, and the last of it when the daemon leaves."""
    store, clock = make(link)
    keeping = asyncio.create_task(store.keep())
    await asyncio.sleep(0)
    spend(store, clock)
    await clock.advance(1.0)
    await until(lambda: store.stats().posted == 1)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    spend(store, clock)
    await store.close()
    assert store.stats().posted == 2


async def test_bounded(link):
    """A minute has so many cells, over all processes; what is beyond is in one more, and nothing is lost."""
    store, clock = make(link)
    most = MOST_CELLS[Granularity.MINUTE]
    for number in range(most + 30):
        spend(store, clock, 1, f"caller-{number}")
        if number % 7 == 0:
            await store.post()
    found = await outputs(store, group_by=("caller",))
    assert len(found) == most + 1
    assert sum(output for _, output in found) == most + 30
    assert ((OTHER.caller,), 30) in found
    days = await outputs(store, group_by=("caller",), since=NOON - timedelta(days=9))
    assert len(days) == most + 30


async def test_figures_of_other_versions(link):
    """What an older version wrote has fewer figures, what a newer one wrote more; both are added to, and none is lost."""
    store, clock = make(link)
    spend(store, clock, 5)
    await store.post()
    [name] = await link.do("KEYS", "headrace:{usage}:minute:*")
    [(cell, figures)] = (await link.do("HGETALL", name)).items()
    await link.do("HSET", name, cell, b" ".join(figures.split()[: AT["output"] + 1]))
    spend(store, clock, 5)
    assert await outputs(store) == [((), 10)]
    figures = await link.do("HGET", name, cell)
    assert len(figures.split()) == len(FIELDS)
    await link.do("HSET", name, cell, figures + b" 17")
    spend(store, clock, 5)
    assert await outputs(store) == [((), 15)]
    figures = await link.do("HGET", name, cell)
    assert figures.split()[-1] == b"17"


async def test_large_sums_are_exact(link):
    """Nine million dollars in one cell are exact to the nano-dollar."""
    store, clock = make(link)
    figure = 4_503_599_627_370_495
    for _ in range(2):
        store._tally._cell(clock.now(), Who("a"))[AT["cost"]] += figure
        await store.post()
    rows, _, _ = await store.ask(Question(since=NOON, until=NOON))
    assert rows[0].figures[AT["cost"]] == 2 * figure


async def test_traffic(link):
    """Lines of the calls that upstream was asked for, and of the refused; the last ones are kept, hits are none."""
    traffic = Traffic(bound=3)
    store, _ = make(link, traffic=traffic)
    for number, ending in enumerate(("paid", "paid", "none", "kept", "paid")):
        reason = "BUDGET_EXHAUSTED" if ending == "none" else ""
        traffic.heed(
            Outcome(
                "http", "messages", "a", "batch", MODEL, cost_class=ending, reason=reason, usage=Usage(10, 5, 3, 100),
                began=float(number), waited_s=1.0, took_s=3.5, deadline_s=60.0,
                max_tokens=99, body_bytes=512, labels="env=prod",
            )
        )  # fmt: skip
    assert traffic.dropped == 1
    await store.post()
    lines = await store.lines()
    assert [line.split(b",")[0] for line in lines] == [b'{"at":1.0', b'{"at":2.0', b'{"at":4.0']
    assert lines[0] == (
        b'{"at":1.0,"caller":"a","lane":"batch","model":"claude-sonnet-5","endpoint":"messages","input_tokens":13,'
        b'"output_tokens":5,"seconds":2.5,"deadline_s":60.0,"max_tokens":99,"body_bytes":512,"labels":"env=prod"}'
    )


@pytest.mark.parametrize("which", [1, 2, 3, 4])
async def test_a_wrong_kind_in_the_way(link, valkey_url, which):
    """Where somebody else's value is in the way, nothing of a post is counted, and all of it once that is gone."""
    traffic = Traffic()
    store, clock = make(link, traffic=traffic)
    spend(store, clock, 5)
    traffic.heed(Outcome("http", "messages", "a", "batch", MODEL, cost_class="paid", began=1.0))
    names, _ = store._script((1, int(clock.now() // 60), (), ()))
    with redis.Redis.from_url(valkey_url) as client:
        client.set(names[which], "x")
        with pytest.raises(RedisAway):
            await store.post()
        client.delete(names[which])
    assert await outputs(store) == [((), 5)]
    assert len(await store.lines()) == 1
