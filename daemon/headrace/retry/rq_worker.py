"""
The retry worker of one process: an `AsyncioWorker`, and RQ's scheduler beside it, both in threads.

Several processes may run it. A lock decides who drives the schedule; when its holder died the others take over once it lapsed,
and until then the sweeper rings what is overdue.
"""

from __future__ import annotations

import asyncio
import threading
import time

import redis
import structlog
from rq.scheduler import RQScheduler
from rq.scripts import acquire_or_refresh_lock, release_lock

from headrace import observe
from headrace.retry.asyncio_worker import AsyncioWorker
from headrace.retry.rq import NAME, SERIALIZER, connect

log = structlog.get_logger()

_SCHEDULE_EVERY_S = 0.5
_LOCK_S = 10  # RQ's own is a minute
_SILENT_S = 10.0


class _Scheduler(RQScheduler):
    # RQ's scheduler, driven from a thread of ours in place of a process of its own.

    def tick(self) -> bool:
        """Enqueue what is due, if the lock is ours; return whether it is."""
        key = self.get_locking_key(NAME)
        is_ours = acquire_or_refresh_lock(self.connection, key, self.name, _LOCK_S) in ("acquired", "refreshed")
        self._acquired_locks = {NAME} if is_ours else set()
        if is_ours:
            self.enqueue_scheduled_jobs()  # type: ignore[no-untyped-call]
        return is_ours

    def leave(self) -> None:
        """Let another take over at once."""
        release_lock(self.connection, self.get_locking_key(NAME), self.name)


class Worker:
    """
    Makes attempts when their alarms ring.

    Args:
        concurrency: attempts at once, those that sleep their last second included.
    """

    def __init__(self, url: str, *, concurrency: int = 200) -> None:
        self._url = url
        self._concurrency = concurrency
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._worker: AsyncioWorker | None = None
        self._is_away = True

    def __repr__(self) -> str:
        return f"<Worker [{self.why or 'healthy'}] {self._worker!r}>"

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
        return "the schedule cannot be read" if self._is_away else ""

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        client = connect(self._url, timeout_s=5.0)
        while self._worker is None and not self._stopping.is_set():
            try:
                self._worker = AsyncioWorker(client, loop, self._stopping, concurrency=self._concurrency)
            except (redis.RedisError, OSError):  # it asks Redis for its own address
                self._stopping.wait(_SCHEDULE_EVERY_S)
        if self._worker is not None:
            threading.Thread(target=self._worker.send_heartbeats, name="rq-heartbeat", daemon=True).start()
            self._worker.take_jobs()

    def _schedule(self) -> None:
        client = connect(self._url, timeout_s=5.0)
        scheduler = _Scheduler([NAME], connection=client, logging_level="WARNING", serializer=SERIALIZER)
        is_ours = False
        while not self._stopping.wait(_SCHEDULE_EVERY_S):
            try:
                is_ours = scheduler.tick()
                self._is_away = False
            except (redis.RedisError, OSError):
                self._is_away = True
            except Exception:
                self._is_away = True
                log.exception(observe.WORKER_CRASHED, part="scheduler")
        if is_ours:
            try:
                scheduler.leave()
            except (redis.RedisError, OSError):
                log.debug(observe.REDIS_LOST, part="scheduler")

    async def stop(self, grace_s: float = 30.0) -> None:
        """Take no more jobs; finish those that run within *grace_s*, and put the others back."""
        self._stopping.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        if self._worker is not None:
            await self._worker.finish(grace_s)
            await asyncio.to_thread(self._worker.retire)
            self._worker.connection.close()
        log.info(observe.WORKER_STOPPED)
