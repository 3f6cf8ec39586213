"""
What a process says of itself: which program with which configuration, where it listens, and how it stands. Pure.

Nothing in it is secret, and nothing of callers: who may look at hosts need not be allowed to look at calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase

import msgspec

from headrace import codec
from headrace.clock import is_moment
from headrace.errors import HostNotFound


class State(StrEnum):
    """
    How a process stands. DRAINING takes no new calls, or is about to, and finishes what it has; DRAINED has finished; UNREADY
    should not be asked for another reason; of UNKNOWN ones, as of another version, no more is known than that they live.
    """

    SERVING = "SERVING"
    UNREADY = "UNREADY"
    DRAINING = "DRAINING"
    DRAINED = "DRAINED"
    UNKNOWN = "UNKNOWN"


class Drain(msgspec.Struct, frozen=True, omit_defaults=True):
    """Since when (Unix seconds) a process is to be out of service, by whose word, and why."""

    since: float
    by: str = ""
    reason: str = ""


class Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What a process says of itself.

    Args:
        instance: the process: its host, number, and a few digits that no other has.
        kind: "daemon" or "worker".
        commit: of the program, "unknown" if nobody knows; config: the hash of what has to be the same on all hosts.
        wrong: why it should not be asked; degraded: what it lacks though it can be; troubles: upstream's, as it met them.
        drain: who put it out of service, if anybody did.
        redis_ms: how long its last round trip to Redis took; None if there was none.
        worker: why it makes no attempts of tickets, in a line; "" if it does.
        running: calls and attempts that it has in hand; waiting: of these, what waits.
        started, at: since when it runs, and when it said this (Unix seconds).
    """

    instance: str
    host: str
    pid: int = 0
    kind: str = "daemon"
    version: str = ""
    commit: str = ""
    config: str = ""
    state: State = State.UNKNOWN
    wrong: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()
    drain: Drain | None = None
    redis_ms: float | None = None
    worker: str = ""
    addresses: tuple[str, ...] = ()
    running: int = 0
    waiting: int = 0
    started: float = 0.0
    at: float = 0.0


def encode(fact: Fact) -> bytes:
    """Return a fact as Redis keeps it."""
    return msgspec.json.encode(fact)


def decode(raw: bytes) -> Fact:
    """Return the fact; raises `ValueError` if it is none."""
    fact = codec.decode(raw, Fact)
    moments = (fact.started, fact.at, fact.drain.since if fact.drain else 0.0)
    if not all(map(is_moment, moments)) or not 0 <= (fact.redis_ms or 0.0) < 1e9:
        raise ValueError("no moment, or no time")
    if not all(0 <= count < 2**31 for count in (fact.pid, fact.running, fact.waiting)):
        raise ValueError("no count of ours")
    return fact


def unknown(instance: str) -> Fact:
    """Return what is known of a process that lives and has not said more."""
    host, _, _ = instance.rpartition("-")[0].rpartition("-")
    return Fact(instance=instance, host=host or instance)


def named(facts: Sequence[Fact], name: str) -> list[Fact]:
    """
    Return the processes that a name means: one by its whole name or the beginning of it, or all on a host; globs of both.

    Raises `HostNotFound`, which says whom there are.
    """
    for fits in (_is_it, _is_on, _begins):
        if found := [fact for fact in facts if name and fits(fact, name)]:
            return found
    there = ", ".join(fact.instance for fact in facts) or "none"
    raise HostNotFound(f"there is no host or process {name[:80]!r}; there are: {there}", metadata={"host": name[:80]})


def _is_it(fact: Fact, name: str) -> bool:
    return fact.instance == name


def _is_on(fact: Fact, name: str) -> bool:
    return fnmatchcase(fact.host, name) or fnmatchcase(fact.instance, name)


def _begins(fact: Fact, name: str) -> bool:
    return fact.instance.startswith(name)


def configs(facts: Iterable[Fact]) -> set[str]:
    """Return the hashes of the configurations that are in force; more than one is a fault of whoever wrote them."""
    return {fact.config for fact in facts if fact.config}
