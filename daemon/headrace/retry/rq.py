"""
The queue: durable alarm clocks for tickets, as RQ jobs.

A job says "make attempt n of ticket t, not before T" and nothing else; its id is "<ticket>-<n>". RQ's own schedule is good to
a second or so, and may fire early. So a job is scheduled a little before its time and sleeps the rest in the worker, to the
millisecond; a short wait is slept through altogether.

RQ's client blocks, so it is called from a thread; what comes together while it works leaves together.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import redis
import rq
from redis.backoff import NoBackoff
from redis.retry import Retry

from headrace import replies, servers
from headrace.background import Background
from headrace.clock import Clock, SystemClock
from headrace.errors import RedisAway
from headrace.replies import Meaning
from headrace.retry.alarm import ENDLESS, FAILURE_TTL_S, FUNCTION, NAME, RESULT_TTL_S, SERIALIZER, TRIES
from headrace.retry.contact import drop

__all__ = ["FUNCTION", "NAME", "SERIALIZER", "Queue", "QueueStats", "connect", "job_id"]

_AHEAD_S = 1.5  # RQ cuts to whole seconds and looks twice a second: measured up to 1 s early, 0.8 s late
_LEFT_S = 3600  # after its time a job that nobody took goes: what it was to ring for has been found by then
_SLEPT_S = 2.0  # a wait that is not worth scheduling

_T = TypeVar("_T")

# RQ tells of every job at INFO.
for _name in ("rq.worker", "rq.queue", "rq.job", "rq.scheduler", "rq.registry"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def connect(url: str, *, timeout_s: float) -> redis.Redis:
    """Return a client of its own for RQ: its blocking calls and its retries are nobody else's business."""
    return servers.blocking(url, socket_timeout=timeout_s, socket_connect_timeout=2.0, retry=Retry(NoBackoff(), 1))


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many alarms are yet to be set."""

    to_set: int


class Queue:
    """Sets alarms; any number of workers hear them."""

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._client = connect(url, timeout_s=5.0)
        self._queue = rq.Queue(NAME, connection=self._client, serializer=SERIALIZER)
        self._thread = ThreadPoolExecutor(1, "rq-queue")
        self._asked: list[tuple[tuple[Any, ...], asyncio.Future[None]]] = []
        self._background = Background("queue")
        self._flushing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Queue {NAME} [{self.stats().to_set} to set]>"

    def stats(self) -> QueueStats:
        """Return its state now."""
        return QueueStats(len(self._asked))

    async def schedule(self, ticket_id: str, attempt: int, due: float) -> None:
        """Have an attempt made, not before *due* (Unix seconds); durable when it returns. Raises `RedisAway`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(((ticket_id, attempt, due), done))
        if self._flushing is None:
            self._flushing = self._background.start(self._flush(), "flush")
        await done

    async def _flush(self) -> None:
        try:
            while self._asked:
                batch, self._asked = self._asked, []
                await self._set_all(batch)
        finally:
            self._flushing = None

    async def _set_all(self, batch: list[tuple[tuple[Any, ...], asyncio.Future[None]]]) -> None:
        # Whatever happens, everybody who waits is told.
        error: BaseException | None = None
        try:
            await self._run(lambda: self._set([alarm for alarm, _ in batch]))
        except BaseException as raised:
            error = raised
            if not isinstance(raised, Exception):
                raise
        finally:
            for _, done in batch:
                if done.done():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error if isinstance(error, Exception) else RedisAway("the queue was closed"))

    def _set(self, alarms: list[tuple[Any, ...]]) -> None:
        with self._client.pipeline() as pipe:
            # RQ starts the transaction itself when the first job is to be queued at once, but that fails if one to be
            # scheduled came before it.
            pipe.multi()
            for ticket_id, attempt, due in alarms:
                options = {
                    "args": (ticket_id, attempt, due),
                    "job_id": job_id(ticket_id, attempt),
                    "job_timeout": ENDLESS,
                    "result_ttl": RESULT_TTL_S,
                    "ttl": max(0, math.ceil(due - self._clock.now())) + _LEFT_S,
                    "failure_ttl": FAILURE_TTL_S,
                    "retry": rq.Retry(max=TRIES),
                    "description": "",
                    "pipeline": pipe,
                }
                if due - self._clock.now() <= _SLEPT_S:
                    self._queue.enqueue(FUNCTION, **options)
                else:
                    self._queue.enqueue_at(datetime.fromtimestamp(due - _AHEAD_S, UTC), FUNCTION, **options)
            pipe.execute()

    async def _run(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._twice, work)
        except Exception as error:
            said = replies.ours(error, "the queue")
            if said is None:
                raise
            raise said from None

    def _twice(self, work: Callable[[], _T]) -> _T:
        # The second try is for a server that has become a replica: a new connection finds the new primary. Nothing of the
        # first was done, since what is written goes in one transaction.
        try:
            return work()
        except redis.RedisError as error:
            if replies.meaning(error) is not Meaning.NOT_HERE:
                raise
            drop(self._client, error)
        return work()

    async def aclose(self) -> None:
        """Close the connection; what was asked is done first."""
        if self._flushing is not None:
            await self._flushing
        self._thread.shutdown()
        self._client.close()


def job_id(ticket_id: str, attempt: int) -> str:
    """Return the id of the job that rings for this attempt."""
    return f"{ticket_id}-{attempt}"
