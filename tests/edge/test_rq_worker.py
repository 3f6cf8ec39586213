"""The retry worker on a real Valkey: jobs run once, on the loop, never early; Redis and workers may go away."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest
import redis
from rq.job import Job
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry

from conftest import start_valkey, until
from headrace import worker
from headrace.errors import RedisAway
from headrace.retry.rq import FUNCTION, Queue, job_id
from headrace.retry.rq_worker import Worker


async def test_never_early(crew, queue, made):
    """Attempts are made at their time, whether slept through or scheduled; not a millisecond before."""
    now = time.time()
    dues = {f"t{n}": now + 0.05 + n * 0.2 for n in range(20)}
    await asyncio.gather(*(queue.schedule(ticket_id, 1, due) for ticket_id, due in dues.items()))
    await until(lambda: len(made.attempts) == 20)
    late = [when - dues[ticket_id] for ticket_id, _, when in made.attempts]
    assert min(late) >= 0
    assert sorted(late)[15] < 0.5
    assert made.threads == {"MainThread"}


async def test_job_is_an_alarm(queue, stock, valkey_url):
    """A job holds a ticket, an attempt and a time, as JSON; there is no pickle in it."""
    await queue.schedule("tkt_1", 2, 5.0)
    job = stock.fetch_job(job_id("tkt_1", 2))
    assert (job.func_name, job.args, job.kwargs) == (FUNCTION, ["tkt_1", 2, 5.0], {})
    with redis.Redis.from_url(valkey_url) as client:
        assert b"pickle" not in repr(client.hgetall(job.key)).encode()


async def test_schedule(queue, stock, valkey_url):
    """What is due in a while lies in the schedule, and is there when `schedule` returns."""
    await queue.schedule("tkt_1", 1, time.time() + 60)
    assert ScheduledJobRegistry(queue=stock).get_job_ids() == ["tkt_1-1"]
    await queue.schedule("tkt_1", 1, time.time() + 61)  # once more: one job, at the new time
    assert ScheduledJobRegistry(queue=stock).get_job_ids() == ["tkt_1-1"]


async def test_batch_in_any_order(queue, stock):
    """Alarms that are set together are all set, be they due soon or late, in whatever order."""
    soon, late = time.time(), time.time() + 60

    await asyncio.gather(*(queue.schedule(f"t{n}", 1, soon if n % 2 else late) for n in range(6)))

    assert sorted(stock.job_ids) == ["t1-1", "t3-1", "t5-1"]
    assert sorted(ScheduledJobRegistry(queue=stock).get_job_ids()) == ["t0-1", "t2-1", "t4-1"]


async def test_wrong_alarm(queue):
    """Whoever sets an alarm is told, whatever goes wrong, and the queue goes on."""
    with pytest.raises(ValueError, match="Job ID"):
        await asyncio.wait_for(queue.schedule("no id!", 1, 0.0), 5)
    await queue.schedule("tkt_1", 1, 0.0)
    assert repr(queue) == "<Queue headrace [0 to set]>"


async def test_concurrency(valkey_url, queue, stock, made):
    """A worker takes no more jobs than it has slots; the others stay in the queue for others."""
    made._seconds = 0.3
    crew = Worker(valkey_url, concurrency=5)
    crew.start()
    await asyncio.gather(*(queue.schedule(f"t{n}", 1, 0.0) for n in range(20)))
    await until(lambda: made.running == 5)
    assert stock.job_ids[-1:] == ["t19-1"]
    await until(lambda: len(made.attempts) == 20)
    assert made.most == 5
    await crew.stop()


async def test_failing_job(crew, queue, stock, made):
    """A runner that raises is tried again, then the job is among RQ's failed ones; none stays stuck."""
    made.calls = 0

    async def fail(ticket_id: str, attempt: int) -> None:
        made.calls += 1
        raise RuntimeError("a bug")

    worker.serve_with(fail)
    await queue.schedule("tkt_1", 1, 0.0)
    failed = FailedJobRegistry(queue=stock)
    await until(lambda: failed.get_job_ids() == ["tkt_1-1"])
    assert made.calls == 4
    assert StartedJobRegistry(queue=stock).count == 0
    await until(lambda: repr(crew) == "<Worker [healthy] <AsyncioWorker [0 of 50 running]>>")
    assert 6 * 86_400 < stock.connection.zscore(failed.key, "tkt_1-1") - time.time() <= 7 * 86_400


async def test_no_runner():
    """Without a runner there is a clear error."""
    with pytest.raises(RuntimeError, match="no runner is registered"):
        await worker.run_attempt("tkt_1", 1, 0.0)


async def test_done_job(crew, queue, stock, made):
    """A job that is done leaves nothing but its result, and that for a minute."""
    await queue.schedule("tkt_1", 1, 0.0)
    await until(lambda: stock.finished_job_registry.count == 1)
    await until(lambda: StartedJobRegistry(queue=stock).count == 0)
    assert 0 < stock.connection.ttl(Job.key_for("tkt_1-1")) <= 60
    assert stock.connection.llen(f"{stock.key}:intermediate") == 0


def children() -> set[str]:
    return {pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()}


async def test_leaves_the_process_alone(valkey_url, made, queue):
    """The worker installs no signal handlers and starts no processes."""
    before = children(), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    crew = Worker(valkey_url)
    crew.start()
    await queue.schedule("tkt_1", 1, 0.0)
    await until(lambda: made.attempts)
    assert (children(), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    await crew.stop()


async def test_stop(valkey_url, queue, stock, made):
    """A worker that stops does so promptly: it finishes what it can in its grace, and puts the rest back."""
    made._seconds = 60
    crew = Worker(valkey_url)
    crew.start()
    await queue.schedule("tkt_1", 1, 0.0)
    await until(lambda: made.running == 1)
    started = time.monotonic()
    await crew.stop(0.2)
    assert time.monotonic() - started < 4
    assert made.running == 0
    assert stock.job_ids == ["tkt_1-1"]
    assert StartedJobRegistry(queue=stock).count == 0
    assert (crew.is_healthy, crew.why) == (False, "stopped")
    assert stock.connection.scard("rq:workers") == 0


async def test_takeover(valkey_url, queue, made):
    """A scheduler that leaves makes room for the next at once."""
    first, second = Worker(valkey_url), Worker(valkey_url)
    first.start()
    await until(lambda: first.is_healthy)
    second.start()
    await until(lambda: second.is_healthy)
    await first.stop()
    due = time.time() + 2.5
    await queue.schedule("tkt_1", 1, due)
    await until(lambda: made.attempts)
    assert 0 <= made.attempts[0][2] - due < 1.5
    await second.stop()


async def test_redis_restarts(tmp_path, made):
    """Redis is killed and comes back, having forgotten or not: the worker works on, and said meanwhile that it could not."""
    made._seconds = 0.5
    process, url = start_valkey(tmp_path)
    crew, queue = Worker(url), Queue(url)
    crew.start()
    try:
        for attempt in (1, 2):
            await until(lambda: crew.is_healthy, within=20)
            await queue.schedule("tkt_1", attempt, 0.0)
            await until(lambda attempt=attempt: len(made.attempts) == attempt)
            process.kill()  # while an attempt runs, and its bookkeeping is to come
            process.wait()
            await until(lambda: not crew.is_healthy)
            with pytest.raises(RedisAway):
                await queue.schedule("tkt_2", 1, 0.0)
            process, _ = start_valkey(tmp_path)
        await until(lambda: crew.is_healthy, within=20)
        await queue.schedule("tkt_1", 3, time.time() + 2.2)
        await until(lambda: len(made.attempts) == 3)
        await until(lambda: repr(crew).startswith("<Worker [healthy] <AsyncioWorker [0 of"))
    finally:
        await crew.stop()
        await queue.aclose()
        process.kill()
        process.wait()


async def test_starts_without_redis(tmp_path, made):
    """A worker that starts before Redis waits for it."""
    crew = Worker(f"unix://{tmp_path}/valkey.sock")
    crew.start()
    assert (crew.is_healthy, crew.why) == (False, "not connected to Redis yet")
    process, url = start_valkey(tmp_path)
    queue = Queue(url)
    try:
        await until(lambda: crew.is_healthy)
        await queue.schedule("tkt_1", 1, 0.0)
        await until(lambda: made.attempts)
    finally:
        await crew.stop()
        await queue.aclose()
        process.kill()
        process.wait()
