"""
One job of the queue as we read it: an alarm of ours, or something foreign.

A queue in Redis is written by whoever may write there, and RQ does what a job says: it imports the function and the callbacks
that are named, sends web hooks, tries as often as it is told. The process that reads it holds the API key. So of a job only
those fields are read that our own jobs have, only one function is ever run, and only with arguments of the right shape;
whatever else lies there is moved aside, and neither imported nor tried.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import redis
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job

from headrace import replies
from headrace.clock import Clock, SystemClock

NAME = "headrace"
SERIALIZER = "json"
FUNCTION = "headrace.worker.run_attempt"
RESULT_TTL_S = 60
FAILURE_TTL_S = 7 * 86_400
ENDLESS = -1  # a job's time is bounded by its ticket's deadline
TRIES = 3  # for a job that failed by itself, be it that Redis went away; upstream's failures are the ticket's business

_READ = frozenset(
    {b"data", b"created_at", b"enqueued_at", b"started_at", b"ended_at", b"last_heartbeat", b"status", b"worker_name"}
    | {b"number_of_retries", b"retries_left"}
)
_FIXED = {
    b"origin": NAME.encode(),
    b"timeout": b"%d" % ENDLESS,
    b"result_ttl": b"%d" % RESULT_TTL_S,
    b"failure_ttl": b"%d" % FAILURE_TTL_S,
}
_ID = re.compile(rb"[A-Za-z0-9_-]{1,128}")
_TICKET = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_ATTEMPTS = 10**9
_FAR_S = 3600.0  # an alarm rings a little before it is due; what is hours ahead is none, and would hold a slot all the while


class Attempt(NamedTuple):
    """What an alarm says: which attempt of which ticket, and not before when (Unix seconds)."""

    ticket: str
    number: int
    not_before: float


class Alarm(Job):
    """
    A job of the queue. `attempt` says what it asks for, if it is ours.

    `clock` is the process's: by the host's own clock, which may be wrong, what is due now may be hours ahead.
    """

    clock: ClassVar[Clock] = SystemClock()

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Read a job's hash: what we write there, in the shape in which we write it, and nothing else."""
        known = {name: value for name, value in raw_data.items() if name in _READ}
        try:
            super().restore(known | _FIXED)
        except NoSuchJobError:
            raise
        except Exception:  # a date or a number that is none
            super().restore({b"data": known[b"data"], **_FIXED})
        if self.retries_left is not None:
            self.retries_left = min(self.retries_left, TRIES)

    def attempt(self) -> Attempt | None:
        """Return what the job asks for; None if it is none of ours."""
        try:
            is_ours = self.func_name == FUNCTION and self.instance is None and self.kwargs == {}
            return _attempt(self.args, self.clock.now()) if is_ours else None
        except DeserializationError:
            return None


def _attempt(args: Any, now: float) -> Attempt | None:
    match args:
        case [str(ticket), int(number), int() | float() as due] if not isinstance(number, bool) and not isinstance(due, bool):
            is_right = _TICKET.fullmatch(ticket) and 1 <= number <= _MOST_ATTEMPTS and 0 <= due < now + _FAR_S
            return Attempt(ticket, number, due) if is_right else None
    return None


def fetch(job_id: bytes, connection: redis.Redis) -> Alarm | None:
    """Return a job by its id; None if there is none, or nothing that can be read. Raises Redis's errors."""
    if not _ID.fullmatch(job_id):
        return None
    try:
        job = Alarm.fetch(job_id.decode(), connection=connection, serializer=SERIALIZER)
        return job if isinstance(job, Alarm) else None
    except NoSuchJobError:
        return None
    except redis.ResponseError as error:
        if replies.code(error) != "WRONGTYPE":  # there is something else where the job should be
            raise
        return None


def fetch_all(job_ids: list[bytes], connection: redis.Redis) -> dict[bytes, Alarm]:
    """Return those of many jobs that are there and can be read, by id. Raises Redis's errors."""
    readable = [each for each in job_ids if _ID.fullmatch(each)]
    try:
        jobs = Alarm.fetch_many([each.decode() for each in readable], connection=connection, serializer=SERIALIZER)
    except (NoSuchJobError, redis.ResponseError):  # one spoils them all: one by one, then
        jobs = [fetch(each, connection) for each in readable]
    return {each: job for each, job in zip(readable, jobs, strict=True) if isinstance(job, Alarm)}
