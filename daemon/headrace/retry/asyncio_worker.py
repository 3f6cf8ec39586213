"""
An RQ worker whose jobs are coroutines on the daemon's own loop: hundreds wait in one process, none has a process or a thread.

RQ's stock workers fork for a job or run one at a time. This one keeps RQ's bookkeeping (executions, registries, retries,
results), which blocks, in threads: one takes jobs, one sends heartbeats, a few write results. It installs no signal handlers,
never forks, changes no process title, and takes no orders from RQ's command channel: that is the daemon's to do. Of what lies
in the queue it runs alarms of ours only (alarm.py). It uses hooks that RQ does not promise to keep; hence its pinned version.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import redis
import structlog
from rq import Queue
from rq.executions import Execution
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.timeouts import BaseDeathPenalty
from rq.utils import now
from rq.worker.base import BaseWorker
from rq.worker_registration import clean_worker_registry

from headrace import observe, replies
from headrace.retry.alarm import NAME, RESULT_TTL_S, SERIALIZER, Alarm, Attempt, fetch
from headrace.retry.contact import Contact

log = structlog.get_logger()

_WORKER_TTL_S = 17
_DEQUEUE_S = 1  # how long a stop may have to wait
_MAINTENANCE_S = 5
_HEARTBEAT_S = 5
_DEAD_AFTER_S = 20  # a job without a heartbeat
_LOCK_S = 10  # of maintenance: RQ's own is a quarter of an hour, in which a killed worker would keep all others from it
_JOB_S = 3600  # a job that is begun, and of which nobody hears any more
_HEARD_S = 15  # a worker without one
_PAUSE_S = 0.5
_IO_THREADS = 4


class _NoPenalty(BaseDeathPenalty):
    """RQ's time limits are signals, or threads; ours are deadlines."""

    def setup_death_penalty(self) -> None: ...

    def cancel_death_penalty(self) -> None: ...


@dataclass(frozen=True, slots=True)
class AsyncioWorkerStats:
    """How many jobs run, and how many may."""

    running: int
    most: int


class AsyncioWorker(BaseWorker):
    """
    Takes jobs in a thread and runs them on a loop.

    Args:
        stopping: once set, no more are taken.
        concurrency: jobs at once; a worker with no free slot leaves jobs to the others.
    """

    death_penalty_class = _NoPenalty

    def __init__(
        self, connection: redis.Redis, loop: asyncio.AbstractEventLoop, stopping: threading.Event, *, concurrency: int
    ) -> None:
        super().__init__(
            [Queue(NAME, connection=connection, job_class=Alarm, serializer=SERIALIZER)],
            connection=connection,
            job_class=Alarm,
            serializer=SERIALIZER,
            default_result_ttl=RESULT_TTL_S,
            worker_ttl=_WORKER_TTL_S,
            maintenance_interval=_MAINTENANCE_S,
            job_monitoring_interval=_HEARTBEAT_S,
            log_job_description=False,
        )
        self.tasks: set[asyncio.Task[None]] = set()
        self.last_turn = time.monotonic()
        self._loop = loop
        self._stopping = stopping
        self._concurrency = concurrency
        self._slots = threading.BoundedSemaphore(concurrency)
        self._io = ThreadPoolExecutor(_IO_THREADS, "rq-io")
        self._running: dict[str, tuple[Job, Execution]] = {}
        self._last_beat = 0.0
        self._taken: set[Any] = set()  # at the last look, and not begun
        self._is_done = threading.Event()
        self.taking = Contact("worker", connection)
        """Whether jobs are taken."""
        self._bookkeeping = Contact("bookkeeping", connection)
        self._upkeep = Contact("maintenance", connection)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<AsyncioWorker [{stats.running} of {stats.most} running]>"

    def stats(self) -> AsyncioWorkerStats:
        """Return its state now."""
        return AsyncioWorkerStats(len(self._running), self._concurrency)

    # What RQ would do, and we do not.

    @property
    def dequeue_timeout(self) -> int:
        return _DEQUEUE_S

    @property
    def connection_timeout(self) -> int:
        return _DEQUEUE_S + 4

    def procline(self, message: str) -> None: ...

    def subscribe(self) -> None: ...

    def unsubscribe(self) -> None: ...

    def handle_exception(self, job: Job, *exc_info: Any) -> None: ...  # it logs messages, which may quote what was asked

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Say that the worker lives; of a dead one RQ would know nothing for over a minute."""
        super().heartbeat(_HEARD_S, pipeline)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        return _DEAD_AFTER_S

    # Taking jobs: one thread.

    def take_jobs(self) -> None:
        """Take jobs until told to stop; a Redis that goes away is waited for."""
        while not self._stopping.is_set():
            try:
                self._register()
                while not self._stopping.is_set():
                    self._turn()
                    self.taking.made()
            except Exception as error:
                self.taking.lost(error)
                self._stopping.wait(_PAUSE_S)

    def _register(self) -> None:
        # After a loss of Redis what it knew of us may be there or not.
        self.connection.delete(self.key)
        self.register_birth()  # type: ignore[no-untyped-call]  # the library's own gap

    def _turn(self) -> None:
        self.last_turn = time.monotonic()
        if self.last_turn - self._last_beat > 1:
            self._last_beat = self.last_turn
            self.heartbeat()
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()
        # The slot first: a job that is taken is run, and one that would have to wait is left to others.
        if not self._slots.acquire(timeout=1):
            return
        try:
            taken = self._dequeue()
            if taken is None:
                self._slots.release()
                return
            self._execute(*taken)
        except BaseException:
            self._slots.release()
            raise

    def _dequeue(self) -> tuple[Alarm, Attempt] | None:
        # As RQ's own, but that an entry which is no job, or none of ours, is put out of the way here and now.
        queue = self.queues[0]
        taken: Any = self.connection.blmove(queue.key, queue.intermediate_queue_key, self.dequeue_timeout)
        if taken is None:
            return None
        job = fetch(taken, self.connection)
        attempt = job.attempt() if job else None
        if job is None or attempt is None:
            self._move_aside(taken, job, queue)
            return None
        return job, attempt

    def _move_aside(self, job_id: bytes, job: Alarm | None, queue: Queue) -> None:
        # Among RQ's failed jobs, where a person finds it.
        if job is not None:
            log.warning(observe.JOB_FOREIGN)
            job.retries_left = None
            self.handle_job_failure(job, queue, exc_string="none of headrace's own jobs: not run")
        self._forget_taken(queue, job_id)

    def _forget_taken(self, queue: Queue, job_id: Any) -> None:
        self.connection.lrem(queue.intermediate_queue_key, 1, job_id)

    def _execute(self, job: Alarm, attempt: Attempt) -> None:
        # Its slot is given back at its end.
        execution = self.prepare_execution(job)
        self.prepare_job_execution(job, remove_from_intermediate_queue=True)
        self.connection.expire(job.key, _JOB_S)  # RQ lets it live for ever while it runs
        job.started_at = now()
        self._running[execution.id] = job, execution
        self._loop.call_soon_threadsafe(self._begin, job, attempt, execution)

    def run_maintenance_tasks(self) -> None:
        """Put what dead workers left behind back into the queue; RQ's own sees to groups and limits too, and we have none."""
        queue = self.queues[0]
        try:
            if self._lock(queue):
                try:
                    self._maintain(queue)
                finally:
                    queue.release_maintenance_lock()  # type: ignore[no-untyped-call]  # the library's own gap
            self._upkeep.made()
        except Exception as error:
            if replies.is_away(error):
                raise
            self._upkeep.lost(error)
        self.last_cleaned_at = now()  # type: ignore[assignment]  # the library says None only

    def _lock(self, queue: Queue) -> bool:
        key = queue.registry_cleaning_key
        if self.connection.set(key, 1, nx=True, ex=_LOCK_S):
            return True
        if int(self.connection.pttl(key)) > 1000 * _LOCK_S:  # an earlier version's, which may have been killed
            self.connection.expire(key, _LOCK_S)
        return False

    def _maintain(self, queue: Queue) -> None:
        taken: set[Any] = set(self.connection.lrange(queue.intermediate_queue_key, 0, -1))
        for job_id in taken:
            if fetch(job_id, self.connection) is None:
                self._forget_taken(queue, job_id)
            elif job_id in self._taken:  # whoever took it between the last look and the one before is dead: RQ waits a minute
                self.connection.rpush(queue.key, job_id)
                self._forget_taken(queue, job_id)
        self._taken = taken
        for kind in (FinishedJobRegistry, StartedJobRegistry, FailedJobRegistry):
            kind(queue=queue, job_class=Alarm).cleanup()
        clean_worker_registry(queue)
        queue.intermediate_queue.cleanup(self, queue)

    # Running them: the loop.

    def _begin(self, job: Alarm, attempt: Attempt, execution: Execution) -> None:
        task = self._loop.create_task(self._run(job, attempt, execution))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        # Not in a `finally` of the task: one that is cancelled before its first step never gets there.
        task.add_done_callback(lambda _: self._ended(execution))

    async def _run(self, job: Alarm, attempt: Attempt, execution: Execution) -> None:
        queue = self.queues[0]
        try:
            # RQ imports what the name says; there is an attempt only if that is our own function.
            value = await job.func(*attempt)
        except asyncio.CancelledError:
            await self._write(partial(self._put_back, job, queue, execution))
            raise
        except BaseException:
            await self._write(partial(self._fail, job, queue, execution, sys.exc_info()))
        else:
            await self._write(partial(self._finalize_success, job, queue, execution, value))

    def _ended(self, execution: Execution) -> None:
        self._running.pop(execution.id, None)
        self._slots.release()

    async def _write(self, bookkeeping: Callable[[], None]) -> None:
        try:
            await self._loop.run_in_executor(self._io, bookkeeping)
            self._bookkeeping.made()
        except Exception as error:
            # The job is done or not, whatever RQ thinks of it; RQ's maintenance will find it without heartbeats.
            self._bookkeeping.lost(error)

    def _fail(
        self,
        job: Job,
        queue: Queue,
        execution: Execution,
        error: tuple[type[BaseException] | None, BaseException | None, TracebackType | None],
    ) -> None:
        frames = traceback.extract_tb(error[2])
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        log.error(observe.WORKER_CRASHED, job=job.id, error=error[0].__name__ if error[0] else "", where=where)
        self._finalize_failure(job, queue, execution, error)

    def _put_back(self, job: Job, queue: Queue, execution: Execution) -> None:
        job.ended_at = now()
        self.handle_job_failure(job, queue, queue.started_job_registry, exc_string="the worker stopped", execution=execution)

    # Keeping them alive: one thread.

    def send_heartbeats(self) -> None:
        """Tell RQ that the running jobs are alive, until `retire`."""
        contact = Contact("heartbeats", self.connection)
        while not self._is_done.wait(_HEARTBEAT_S):
            for job, execution in list(self._running.values()):
                try:
                    self.maintain_heartbeats(job, execution)
                    contact.made()
                except Exception as error:
                    contact.lost(error)
                    if replies.is_away(error):
                        break

    # Leaving.

    async def finish(self, grace_s: float) -> None:
        """Wait so long for the running jobs; then put those that are left back into the queue."""
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=grace_s)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def retire(self) -> None:
        """Tell RQ that this worker is gone, and end the threads."""
        self._is_done.set()
        self._io.shutdown()
        with contextlib.suppress(redis.RedisError, OSError):
            self.register_death()  # type: ignore[no-untyped-call]  # the library's own gap
