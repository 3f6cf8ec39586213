"""
The retry worker of one process: an `AsyncioWorker`, and RQ's scheduler beside it, both in threads.

Several processes may run it. A lock decides who drives the schedule; when its holder died the others take over once it lapsed,
and until then the sweeper rings what is overdue.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass

import redis
import structlog
from rq import Queue
from rq.registry import ScheduledJobRegistry
from rq.scheduler import RQScheduler
from rq.scripts import acquire_or_refresh_lock, release_lock

from headrace import observe
from headrace.clock import Clock, SystemClock
from headrace.retry.alarm import NAME, SERIALIZER, Alarm, fetch_all
from headrace.retry.asyncio_worker import AsyncioWorker
from headrace.retry.contact import Contact
from headrace.retry.rq import connect

log = structlog.get_logger()

_SCHEDULE_EVERY_S = 0.5
_LOCK_S = 10  # RQ's own is a minute
_SILENT_S = 10.0
_AT_ONCE = 1000


class _Scheduler(RQScheduler):
    # RQ's scheduler, driven from a thread of ours in place of a process of its own, and by our clock.

    clock: Clock = SystemClock()

    def tick(self) -> bool:
        """Enqueue what is due, if the lock is ours; return whether it is."""
        key = self.get_locking_key(NAME)
        is_ours = acquire_or_refresh_lock(self.connection, key, self.name, _LOCK_S) in ("acquired", "refreshed")
        self._acquired_locks = {NAME} if is_ours else set()
        if is_ours:
            self.enqueue_scheduled_jobs()
        return is_ours

    def enqueue_scheduled_jobs(self) -> None:
        """Ring what is due; an entry that is no job is dropped, lest it hold up the others."""
        queue = Queue(NAME, connection=self.connection, job_class=Alarm, serializer=SERIALIZER)
        key = ScheduledJobRegistry(queue=queue).key  # type: ignore[no-untyped-call]  # the library's own gap
        while due := self.connection.zrangebyscore(key, "-inf", self.clock.now(), 0, _AT_ONCE):
            jobs = fetch_all(due, self.connection)
            with self.connection.pipeline() as pipe:
                for job_id in due:
                    if job_id in jobs:
                        queue._enqueue_job(jobs[job_id], pipeline=pipe)
                    pipe.zrem(key, job_id)
                pipe.execute()

    def leave(self) -> None:
        """Let another take over at once."""
        release_lock(self.connection, self.get_locking_key(NAME), self.name)


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """Why it does not take jobs ("" if it does); how many run, and how many may."""

    why: str
    running: int
    most: int


class Worker:
    """
    Makes attempts when their alarms ring.

    Args:
        concurrency: attempts at once, those that sleep their last second included.
    """

    def __init__(self, url: str, clock: Clock | None = None, *, concurrency: int = 1000) -> None:
        self._clock = Alarm.clock = clock or SystemClock()
        self._concurrency = concurrency
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._worker: AsyncioWorker | None = None
        self._client = connect(url, timeout_s=5.0)
        self._connecting = Contact("worker", self._client)
        self._scheduling = Contact("scheduler", self._client, why="not read yet")

    def __repr__(self) -> str:
        return f"<Worker [{self.why or 'healthy'}] {self._worker!r}>"

    def stats(self) -> WorkerStats:
        """Return its state now."""
        return WorkerStats(self.why, self._worker.stats().running if self._worker else 0, self._concurrency)

    def start(self) -> None:
        """Start taking jobs; they run on the loop that runs now. Redis need not be there yet."""
        loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._work, args=(loop,), name="rq-worker", daemon=True),
            threading.Thread(target=self._schedule, name="rq-scheduler", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        observe.WORKER_UP.read = lambda: float(self.is_healthy)
        log.info(observe.WORKER_STARTED, concurrency=self._concurrency)

    @property
    def is_healthy(self) -> bool:
        return not self.why

    @property
    def why(self) -> str:
        """Why it is not healthy; "" if it is."""
        worker = self._worker
        if self._stopping.is_set() or not self._threads:
            return "stopped"
        if not all(thread.is_alive() for thread in self._threads):
            return "a thread of the worker died"
        if worker is None:
            return "not connected to Redis yet"
        if time.monotonic() - worker.last_turn > _SILENT_S:
            return "no turn for a while: Redis is away, or hangs"
        if worker.taking.why:
            return f"the queue cannot be read: {worker.taking.why}"
        return f"the schedule cannot be read: {self._scheduling.why}" if self._scheduling.why else ""

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._worker is None and not self._stopping.is_set():
            try:
                self._worker = AsyncioWorker(self._client, loop, self._stopping, concurrency=self._concurrency)
                self._connecting.made()
            except Exception as error:  # it asks Redis for its own address
                self._connecting.lost(error)
                self._stopping.wait(_SCHEDULE_EVERY_S)
        if self._worker is not None:
            threading.Thread(target=self._worker.send_heartbeats, name="rq-heartbeat", daemon=True).start()
            self._worker.take_jobs()

    def _schedule(self) -> None:
        scheduler = _Scheduler([NAME], connection=self._client, logging_level="WARNING", serializer=SERIALIZER)
        scheduler._connection = self._client  # type: ignore[assignment]  # or it would make one of its own
        scheduler.clock = self._clock
        is_ours = False
        while True:
            try:
                is_ours = scheduler.tick()
                self._scheduling.made()
            except Exception as error:
                self._scheduling.lost(error)
            if self._stopping.wait(_SCHEDULE_EVERY_S):
                break
        if is_ours:
            with contextlib.suppress(redis.RedisError, OSError):
                scheduler.leave()

    async def stop(self, grace_s: float = 30.0) -> None:
        """Take no more jobs; finish those that run within *grace_s*, and put the others back."""
        self._stopping.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        if self._worker is not None:
            await self._worker.finish(grace_s)
            await asyncio.to_thread(self._worker.retire)
        self._client.close()
        log.info(observe.WORKER_STOPPED)
