"""A real Redis that will not, or not here, or not now: what the link, the queue and the worker make of it."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
import redis
from structlog.testing import capture_logs

from conftest import start_valkey, until
from headrace import worker
from headrace.clock import HandClock, SystemClock
from headrace.errors import RedisAway, RedisRefused
from headrace.link import Link, Script
from headrace.redis_check import RedisCheck, look
from headrace.retry.rq import Queue
from headrace.retry.rq_worker import Worker

WRITE = Script("headrace.budget", "hosts.lua")
ALL = "~headrace:* ~rq:* &headrace:* +@all -@admin -@dangerous +info"  # as docs/installation.md has it


@pytest.fixture
def own(tmp_path):
    """A Valkey of the test's own: its URL, and a client of its administrator."""
    process, url = start_valkey(tmp_path, "--enable-protected-configs", "yes")
    with redis.Redis.from_url(url) as client:
        yield url, client
    process.kill()
    process.wait()


def full(client):
    client.config_set("maxmemory", 1)


def few_replicas(client):
    client.config_set("min-replicas-to-write", 1)


def demoted(client):
    client.execute_command("REPLICAOF", "127.0.0.1", "1")


def cut_off(client):
    client.config_set("replica-serve-stale-data", "no")
    demoted(client)


def cannot_save(client):
    client.config_set("dir", "/proc")
    client.config_set("save", "1 1")
    client.set("a", 1)
    with contextlib.suppress(redis.ResponseError):
        client.bgsave()
    give_up = time.monotonic() + 10
    while client.info("persistence")["rdb_last_bgsave_status"] == "ok" and time.monotonic() < give_up:
        time.sleep(0.05)


MOODS = {"OOM": full, "NOREPLICAS": few_replicas, "READONLY": demoted, "MASTERDOWN": cut_off, "MISCONF": cannot_save}


def well(client):
    client.execute_command("REPLICAOF", "NO", "ONE")
    client.config_set("maxmemory", 0)
    client.config_set("min-replicas-to-write", 0)
    client.config_set("stop-writes-on-bgsave-error", "no")


@pytest.mark.parametrize("code", MOODS)
async def test_not_now(own, code):
    """A script, a command and an alarm are told that Redis is away, and go through once it can again, on all connections."""
    url, client = own
    link, queue = Link(url), Queue(url)
    asks = (
        lambda: link.run(WRITE, ["headrace:hosts"], ["me", 1_000_000]),
        lambda: link.do("HSET", "headrace:x", "a", 1),
        lambda: queue.schedule("tkt_1", 1, 0.0),
        lambda: queue.schedule("tkt_2", 1, time.time() + 60),
    )
    for ask in asks:
        await ask()
    MOODS[code](client)
    for ask in asks:
        with pytest.raises(RedisAway, match=f"{code}|READONLY") as told:  # which of two comes first depends on the command
            await ask()
        assert type(told.value) is RedisAway
    assert link.trouble
    well(client)
    for ask in asks:
        await ask()
    await queue.aclose()
    await link.aclose()


async def test_busy(own):
    """A Redis that is busy with a script of somebody else's is away as well."""
    url, client = own
    client.config_set("busy-reply-threshold", 10)
    link, queue = Link(url), Queue(url)
    await link.do("PING")
    await queue.schedule("tkt_1", 1, 0.0)
    with redis.Redis.from_url(url) as other:
        busy = asyncio.create_task(asyncio.to_thread(lambda: other.eval("while true do end", 0)))
        said = ""
        while "BUSY" not in said:
            with contextlib.suppress(redis.RedisError):
                await asyncio.sleep(0.05)
                await asyncio.to_thread(lambda: redis.Redis.from_url(url, socket_timeout=0.2).ping())
            try:
                await link.do("PING")
            except RedisAway as error:
                said = str(error)
        with pytest.raises(RedisAway, match="BUSY"):
            await queue.schedule("tkt_2", 1, 0.0)
        await asyncio.to_thread(lambda: redis.Redis.from_url(url).execute_command("SCRIPT", "KILL"))
        with pytest.raises(redis.RedisError):
            await busy
    assert await link.do("PING") == b"PONG"
    await queue.aclose()
    await link.aclose()


@pytest.fixture
def two(tmp_path):
    """Two Valkeys, and a socket that leads to the first: its URL, and a client of each."""
    servers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        servers.append(start_valkey(tmp_path / name))
    door = tmp_path / "door.sock"
    door.symlink_to(tmp_path / "one" / "valkey.sock")
    clients = [redis.Redis.from_url(url) for _, url in servers]

    def fail_over():
        clients[0].execute_command("REPLICAOF", "127.0.0.1", "1")
        door.unlink()
        door.symlink_to(tmp_path / "two" / "valkey.sock")

    yield f"unix://{door}", clients, fail_over
    for client in clients:
        client.close()
    for process, _ in servers:
        process.kill()
        process.wait()


async def test_fail_over(two):
    """A primary that is demoted and keeps its connections is left at the first word of it: nothing fails."""
    url, (_, second), fail_over = two
    made = []

    async def run(ticket, attempt):
        made.append(ticket)

    worker.serve_with(run)
    link, queue, crew = Link(url), Queue(url), Worker(url)
    crew.start()
    await until(lambda: crew.is_healthy)
    await queue.schedule("tkt_1", 1, 0.0)
    await link.do("HSET", "headrace:x", "a", 1)
    await until(lambda: made == ["tkt_1"])
    fail_over()

    with capture_logs() as logs:
        assert await link.do("HSET", "headrace:x", "a", 1) == 1
        await queue.schedule("tkt_2", 1, 0.0)
        await until(lambda: made == ["tkt_1", "tkt_2"], within=20)
        await until(lambda: crew.is_healthy, within=20)
    assert second.exists("headrace:x")
    assert link.trouble == ""
    assert not [line for line in logs if line["event"] == "worker.crashed"]
    await crew.stop()
    await queue.aclose()
    await link.aclose()
    worker.serve_with(None)


async def test_one_line_a_state(own):
    """A worker whose Redis is read-only for long says so once a part, and once that it is back; health has the code."""
    url, client = own
    crew = Worker(url)
    crew.start()
    await until(lambda: crew.is_healthy)
    with capture_logs() as logs:
        demoted(client)
        await until(lambda: "READONLY" in crew.why or "UNBLOCKED" in crew.why)
        await until(lambda: {line.get("part") for line in logs} >= {"worker", "scheduler"}, within=20)
        await asyncio.sleep(2)  # four tries of each
        lost = [line for line in logs if line["event"] == "redis.lost"]
        assert len([line for line in lost if line["part"] == "scheduler"]) == 1
        assert len([line for line in lost if line["part"] == "worker"]) <= 2, "UNBLOCKED first, then READONLY"
        assert not [line for line in logs if line["log_level"] == "error"]
        well(client)
        await until(lambda: crew.is_healthy, within=20)
    assert {line["part"] for line in logs if line["event"] == "redis.back"} == {"worker", "scheduler"}
    await crew.stop()


@pytest.fixture
def user(own):
    """Let a user in with these rights; returns its URL."""
    url, client = own

    def let_in(*rights):
        client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", *" ".join(rights).split())
        return url.replace("unix://", "unix://app:secret@")

    return let_in


async def test_refused(user):
    """What the ACL forbids is refused at once, and named by its code; no key, no argument is quoted."""
    link, queue = Link(user(ALL, "-hset -evalsha -eval")), Queue(user(ALL, "-hset -evalsha -eval"))
    for ask in (
        lambda: link.do("HSET", "headrace:x", "prompt", "secret"),
        lambda: link.run(WRITE, ["headrace:hosts"], ["secret", 1]),
        lambda: queue.schedule("tkt_secret", 1, 0.0),
    ):
        with pytest.raises(RedisRefused, match="NOPERM") as told:
            await ask()
        assert "secret" not in str(told.value)
        assert told.value.retry_after_s is None
    assert link.is_up, "it answers"
    assert "Redis refuses EVALSHA: NOPERM" in link.trouble
    user(ALL)
    await queue.schedule("tkt_1", 1, 0.0)
    await queue.aclose()
    await link.aclose()


async def test_foreign_value(own):
    """A key that holds something else is refused by its code, and is no trouble of Redis's."""
    url, client = own
    client.set("headrace:x", "text")
    link = Link(url)
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        await link.do("HSET", "headrace:x", "a", 1)
    assert link.trouble == ""
    await link.aclose()


async def test_wrong_password(user):
    """A wrong password is a refusal, not an absence; a right one is enough, without a restart."""
    url = user(ALL).replace("secret", "wrong")
    link, queue = Link(url), Queue(url)
    for ask in (lambda: link.do("PING"), lambda: queue.schedule("tkt_1", 1, 0.0)):
        with pytest.raises(RedisRefused, match="WRONGPASS"):
            await ask()
    assert not link.is_up
    user(ALL, ">wrong")
    assert await link.do("PING") == b"PONG"
    await queue.schedule("tkt_1", 1, 0.0)
    await queue.aclose()
    await link.aclose()


async def test_enough(user):
    """The rights that the documentation gives are enough, for the worker too."""
    url = user(ALL)
    assert await look(url) == ()
    crew = Worker(url)
    crew.start()
    await until(lambda: crew.is_healthy)
    await crew.stop()


@pytest.mark.parametrize(
    ("rights", "lacks", "is_fatal"),
    [
        ("-xadd -evalsha -blmove", "its user may not run BLMOVE, EVALSHA, XADD", True),
        ("resetkeys ~headrace:*", "its user may not touch the keys rq:*", True),
        ("resetkeys ~rq:*", "its user may not touch the keys headrace:*", True),
        ("resetchannels", "its user may not subscribe to the channels headrace:*", False),
        ("-multi", "its user may not run MULTI", True),
        ("-info", "its user may not run INFO", False),
    ],
)
async def test_lacks(user, own, rights, lacks, is_fatal):
    """What the ACL lacks is said by its name, and nothing is done to find out."""
    found = await look(user(ALL, rights))
    assert (lacks, is_fatal) in [(lack.text, lack.is_fatal) for lack in found]
    assert own[1].keys() == []


async def test_evicts(own):
    """A server that may evict our keys is said to be one."""
    url, client = own
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    (lack,) = await look(url)
    assert "allkeys-lru" in lack.text
    assert not lack.is_fatal


async def test_check(user):
    """The check goes on until nothing is missing, and tells each change once."""
    clock = HandClock()
    check = RedisCheck(user(ALL, "-xadd"), clock)
    with capture_logs() as logs:
        running = asyncio.create_task(check.run())
        await until(lambda: check.fatal)
        await until(lambda: repr(clock) == "<HandClock [1 asleep]>")
        assert repr(check) == "<RedisCheck [its user may not run XADD]>"
        assert check.stats().lacks == check.lacks
        await clock.advance(5)
        await until(lambda: repr(clock) == "<HandClock [1 asleep]>")
        user(ALL)
        await clock.advance(5)
        await asyncio.wait_for(running, 10)
    assert check.fatal == ()
    assert [line["lacks"] for line in logs if line["event"] == "redis.lacks"] == [["its user may not run XADD"], []]


async def test_cluster(tmp_path):
    """A Cluster is named as such; what it says is a refusal, or that it cannot now."""
    process, url = start_valkey(tmp_path, "--cluster-enabled", "yes")
    link = Link(url)
    try:
        (lack, *_) = await look(url)
        assert "Redis Cluster" in lack.text
        assert lack.is_fatal
        with pytest.raises(RedisAway, match="CLUSTERDOWN"):
            await link.do("GET", "headrace:x")
        await link.do("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: answers(link, "GET", "headrace:x"))
        with pytest.raises(RedisRefused, match=r"CROSSSLOT.*Cluster"):
            await link.do("DEL", "headrace:x", "headrace:y")
    finally:
        await link.aclose()
        process.kill()
        process.wait()


async def answers(link, *command):
    with contextlib.suppress(RedisAway):
        await link.do(*command)
        return True
    return False


async def test_deaf_user(user):
    """A user who may not subscribe is told of once; commands go on, and Redis is not away."""
    link = Link(user(ALL, "resetchannels"), clock=SystemClock())
    with capture_logs() as logs:
        listening = asyncio.create_task(link.listen())
        await until(lambda: logs)
        await link.do("PING")
        await asyncio.sleep(0.5)
    assert [line["event"] for line in logs] == ["listener.lost"]
    assert (link.is_up, link.is_listening, link.trouble) == (True, False, "")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await link.aclose()


@pytest.mark.parametrize("code", MOODS)
async def test_well_at_once(own, code):
    """What is refused for the state of the server is over as soon as it takes a write again, and is no trouble any more."""
    url, client = own
    link = Link(url)
    try:
        await link.run(WRITE, ["headrace:hosts"], ["me", 1_000_000])
        MOODS[code](client)
        with pytest.raises(RedisAway):
            await link.run(WRITE, ["headrace:hosts"], ["me", 1_000_000])
        with pytest.raises(RedisAway):
            await link.probe()
        assert code in link.trouble
        well(client)

        async def is_well():
            with contextlib.suppress(RedisAway):
                await link.probe()
            return not link.trouble

        await until(is_well, within=5)
    finally:
        await link.aclose()
