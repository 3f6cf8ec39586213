"""What lies in the queue and is none of ours is neither imported nor run, stays out of the way, and is seen."""

from __future__ import annotations

import sys
import time

import pytest
from rq import Callback, Retry
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry

from conftest import until
from headrace.retry.rq import FUNCTION


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that leaves a mark when it is imported, and one more when it is called."""
    (tmp_path / "trap.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\n"
        f"def spring(*args, **kwargs): open({str(tmp_path / 'called')!r}, 'w').close()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda: sorted(each.name for each in tmp_path.iterdir() if each.name in ("imported", "called"))
    sys.modules.pop("trap", None)


FOREIGN = {
    "another function": ("trap.spring", ("tkt_2", 1, 0.0), {}),
    "none there": ("no.such.function", (), {}),
    "of a builtin module": ("time.time", (), {}),
    "too few": (FUNCTION, ("tkt_2", 1), {}),
    "too many": (FUNCTION, ("tkt_2", 1, 0.0, 0), {}),
    "by name": (FUNCTION, (), {"ticket_id": "tkt_2", "attempt": 1, "not_before": 0.0}),
    "no ticket": (FUNCTION, ("../tkt 2", 1, 0.0), {}),
    "a ticket that is a number": (FUNCTION, (2, 1, 0.0), {}),
    "no attempt": (FUNCTION, ("tkt_2", 0, 0.0), {}),
    "an attempt that is true": (FUNCTION, ("tkt_2", True, 0.0), {}),
    "a time that is text": (FUNCTION, ("tkt_2", 1, "0"), {}),
    "never": (FUNCTION, ("tkt_2", 1, float("inf")), {}),
    "in a year": (FUNCTION, ("tkt_2", 1, 4e9), {}),
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_foreign_jobs(crew, queue, stock, made, trap, name):
    """A job that is none of ours is neither imported nor run nor tried again: it lies among the failed ones, and ours go on."""
    function, args, kwargs = FOREIGN[name]
    stock.enqueue(function, args=args, kwargs=kwargs, job_id="foreign", retry=Retry(max=99))
    await queue.schedule("tkt_1", 1, 0.0)
    await until(lambda: FailedJobRegistry(queue=stock).get_job_ids() == ["foreign"])
    await until(lambda: len(made.attempts) == 1)
    assert made.attempts[0][0] == "tkt_1"
    assert trap() == []
    await until(lambda: stock.connection.llen(f"{stock.key}:intermediate") == 0)
    assert crew.is_healthy


async def test_foreign_callbacks(crew, queue, stock, made, trap):
    """Callbacks that somebody wrote into a job are not there for us, whether it is ours or not, ends well or dies."""
    options = {
        "on_success": Callback("trap.spring"),
        "on_failure": Callback("trap.spring"),
        "on_stopped": Callback("trap.spring"),
    }
    stock.enqueue(FUNCTION, args=("tkt_1", 1, 0.0), job_id="ours", **options)
    stock.enqueue("trap.spring", job_id="foreign", **options)
    await until(lambda: FailedJobRegistry(queue=stock).get_job_ids() == ["foreign"])
    await until(lambda: stock.finished_job_registry.get_job_ids() == ["ours"])

    # One whose worker died in mid-attempt: maintenance finds it.
    abandoned = stock.create_job(FUNCTION, args=("tkt_2", 1, 0.0), job_id="dead", status="started", **options)
    abandoned.save()
    stock.connection.zadd(StartedJobRegistry(queue=stock).key, {"dead:execution": 1})
    await until(lambda: "dead" in FailedJobRegistry(queue=stock).get_job_ids(), within=20)
    assert trap() == []


GARBAGE = {
    "no hash": lambda client: client.set("rq:job:x", "text"),
    "no data": lambda client: client.hset("rq:job:x", "status", "queued"),
    "data that is no JSON": lambda client: client.hset("rq:job:x", "data", b"\x80\x04K\x01."),
    "a date that is none": lambda client: client.hset(
        "rq:job:x", mapping={"data": b'["a.b", null, [], {}]', "created_at": "?"}
    ),
    "a status that is none": lambda client: client.hset("rq:job:x", mapping={"data": b'["a.b", null, [], {}]', "status": "?"}),
    "nothing": lambda client: None,
}


@pytest.mark.parametrize("place", ["queue", "schedule", "taken"])
@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage(crew, queue, stock, made, place, name):
    """What cannot be read as a job goes, wherever it lies, and holds nothing up; nor does an id that is none."""
    client = stock.connection
    GARBAGE[name](client)
    for strange in ("x", b"\xff\xfe", "no id!", ""):
        if place == "schedule":
            client.zadd(ScheduledJobRegistry(queue=stock).key, {strange: 1})
        else:
            client.rpush(stock.key if place == "queue" else f"{stock.key}:intermediate", strange)
    await queue.schedule("tkt_1", 1, 0.0)
    await queue.schedule("tkt_2", 1, time.time() + 2.1)
    await until(lambda: len(made.attempts) == 2, within=60)
    left = {"schedule": lambda: client.zcard(ScheduledJobRegistry(queue=stock).key), "queue": lambda: client.llen(stock.key)}
    await until(lambda: left.get(place, lambda: 0)() == 0)
    if place == "taken" and name in ("no hash", "no data", "nothing"):
        await until(lambda: client.llen(f"{stock.key}:intermediate") == 0, within=60)
    assert crew.is_healthy
