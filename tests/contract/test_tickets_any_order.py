"""
Whatever happens in whatever order, every ticket that has not ended is sure to be looked at soon, and in the end each has ended.

Processes submit, claim, take, answer and park tickets. Commands are lost, done for nobody, or done late; processes are stopped
and killed between any two commands; they leave, callers leave, and Redis is killed and started anew on its data. Only time is
turned by hand. After every step each ticket is held against the table in docs/tickets.md: who has it, and what will ring for
it, by when. No two runs of one example are quite the same, since Redis and the loop have their own time: so no rule has a
precondition, and a rule for which there is nothing does nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from headrace import keys
from headrace.retry import ringer
from headrace.retry.ticket import Timing
from ticket_world import Process, Work, World
from turned import TurnedValkey

BEGIN_US = 1_800_000_000_000_000
TICK_S = 0.25
RUNG_WITHIN_S = ringer._AHEAD_S + ringer._HOLD_S  # of its time, if whoever takes it dies
LOOKED_AT_WITHIN_S = 10.5  # of its time, by a sweeper that then died
ALL_END_WITHIN_S = 45.0  # a lease, a stray's two looks, and a few attempts

WHICH = st.integers(0, 9)
TROUBLES = st.lists(st.sampled_from(["", "", "unsent", "lost", "late"]), min_size=1, max_size=6)
MOST_IN_S = 9.0  # a wait is said as a span, so one that Redis hears of late ends late; by so much at most, here
IN_S = st.sampled_from([0.0, 0.3, 2.0, 4.0, MOST_IN_S])
LONG_S = st.sampled_from([0.25, 0.5, 1.0, 2.5, 4.0, 8.0])


class AnyOrder(RuleBasedStateMachine):
    """Three processes, their tickets, and what befalls them."""

    valkey: TurnedValkey  # one for all examples
    ended: ClassVar[Counter[str]] = Counter()  # in all examples: by state

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.valkey.empty(BEGIN_US)
        self.world = World(self.valkey, BEGIN_US)
        self.numbers = itertools.count()
        self.processes: list[Process] = []
        self.asking: list[asyncio.Task[Any]] = []
        self._do(self._begin(3))
        self._pass(3.0)  # they are heard, and the pulse is settled

    async def _begin(self, count: int) -> None:
        self.processes += [Process(self.world, next(self.numbers)) for _ in range(count)]

    def _do(self, work: Any) -> None:
        async def quietly() -> None:
            await work
            await self.world.quiet()

        self.loop.run_until_complete(quietly())
        self._tell()

    def _tell(self) -> None:
        """Pass on what was published, to those who are not stopped; others hear it when they wake, or never."""
        for inbox, message in self.valkey.heard():
            for process in self.processes:
                if process.link.inbox == inbox and process.running.is_set():
                    self.loop.call_soon(process.hear, message)

    async def _start(self, process: Process, work: Any) -> None:
        self.asking.append(process.begin(work))

    def _process(self, which: int) -> Process:
        return self.processes[which % len(self.processes)]

    def _from(self, which: int) -> list[Process]:
        first = which % len(self.processes)
        return [*self.processes[first:], *self.processes[:first]]

    # Calls.

    @rule(which=WHICH, troubles=TROUBLES, count=st.integers(1, 4))
    def submit(self, which, troubles, count):
        process = self._process(which)
        process.troubles.extend(troubles)
        for _ in range(count):
            self._do(self._start(process, process.submit()))

    @rule(which=WHICH, troubles=TROUBLES, key=st.sampled_from("abc"))
    def claim(self, which, troubles, key):
        process = self._process(which)
        process.troubles.extend(troubles)
        self._do(self._start(process, process.claim(key)))

    @rule(which=WHICH)
    def caller_leaves(self, which):
        asking = [task for task in self.asking if not task.done()]
        if asking:
            self._do(self._leave_off(asking[which % len(asking)]))

    async def _leave_off(self, asking: asyncio.Task[Any]) -> None:
        asking.cancel()

    @rule(which=WHICH, troubles=TROUBLES, how=st.sampled_from(["answer", "answer", "fail", "not made"]), in_s=IN_S)
    def attempt_ends(self, which, troubles, how, in_s):
        process = next((each for each in self._from(which) if each.works), None)
        if process is None:
            return
        process.troubles.extend(troubles)
        work = process.works.pop(which % len(process.works))
        if how == "answer":
            self._do(self._start(process, process.answer(work)))
        else:
            self._do(self._fail(process, work, in_s, is_made=how == "fail"))

    async def _fail(self, process: Process, work: Work, in_s: float, *, is_made: bool) -> None:
        process.begin(process.fail(work, in_s, is_made=is_made))  # which goes on, whoever leaves

    # What befalls them.

    @rule(which=WHICH, troubles=TROUBLES)
    def wire_is_bad(self, which, troubles):
        self._process(which).troubles.extend(troubles)

    @rule()
    def late_commands_arrive(self):
        self._do(self.world.arrive())

    @rule(which=WHICH, commands=st.integers(1, 8))
    def stop_soon(self, which, commands):
        self._process(which).stop_in = commands

    @rule(which=WHICH)
    def stop(self, which):
        self._process(which).stop()

    @rule()
    def resume(self):
        for process in self.processes:
            if not process.running.is_set():
                self._do(process.resume())

    @rule(which=WHICH)
    def kill(self, which):
        process = self._process(which)
        self.processes.remove(process)
        self._do(process.die())
        self._do(self._begin(1))

    @rule(which=WHICH)
    def leave(self, which):
        """One goes in good order; whoever is stopped over it, or cannot say it to Redis, is killed."""
        process = next((each for each in self._from(which) if each.running.is_set()), None)
        if process is None:
            return
        self.processes.remove(process)
        self._do(self._leave(process))
        self._do(self._begin(1))

    async def _leave(self, process: Process) -> None:
        leaving = process.begin(process.leave())
        await self.world.quiet()
        await process.clock.advance(6.0)
        await self.world.quiet()
        leaving.cancel()
        await process.die()

    @rule(seconds=LONG_S)
    def time_passes(self, seconds):
        self._pass(seconds)

    @rule(away_s=st.sampled_from([0.1, 3.0]))
    def redis_is_killed(self, away_s):
        self.valkey.stop()
        self.valkey.start()
        self._turn(away_s)

    def _pass(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self._turn(TICK_S)

    def _turn(self, seconds: float) -> None:
        self.world.now_us += round(seconds * 1e6)
        self.valkey.turn(self.world.now_us)
        for process in list(self.processes):
            self._do(process.pass_time(seconds))

    # What must hold at every moment.

    @invariant()
    def all_goes_on(self):
        for process in self.processes:
            for task in process.lasting:
                assert not task.done(), f"{process}: {task}"

    @invariant()
    def each_is_looked_at_soon(self):
        for ticket_id, ticket in self._tickets().items():
            if ticket["state"] == "QUEUED":
                self._is_rung(ticket_id, ticket)
            elif ticket["state"] == "RUNNING":
                self._is_held(ticket_id, ticket)

    def _is_rung(self, ticket_id, ticket):
        due_us = self.valkey.client.zscore(keys.DUE, ticket_id)
        assert due_us is not None, f"nothing rings for {ticket_id}: {ticket}"
        latest_us = max(self.world.now_us, float(ticket["due"]) * 1e6) + 1e6 * (RUNG_WITHIN_S + MOST_IN_S)
        assert due_us <= latest_us, f"{ticket_id} rings {(due_us - latest_us) / 1e6:.1f} s too late: {ticket}"
        assert self.valkey.client.zscore(keys.TICKETS, ticket_id) is not None, f"nobody looks at {ticket_id}: {ticket}"

    def _is_held(self, ticket_id, ticket):
        look_us, now_us = self.valkey.client.zscore(keys.TICKETS, ticket_id), self.world.now_us
        assert look_us is not None, f"nobody looks at {ticket_id}: {ticket}"
        lease_us = float(ticket["lease_us"])
        assert lease_us <= now_us + 1e6 * Timing().lease_s, f"{ticket_id} is held for too long: {ticket}"
        assert look_us <= max(lease_us, now_us) + 1e6 * LOOKED_AT_WITHIN_S, f"{ticket_id} is looked at too late: {ticket}"
        noted = self.valkey.client.zscore(keys.HELD, f"{ticket['holder']} {ticket_id}")
        assert noted is not None or lease_us <= now_us, f"the holder of {ticket_id} is not noted: {ticket}"

    def _tickets(self) -> dict[str, dict[str, str]]:
        prefix = keys.ticket("")
        names = ("state", "attempts", "due", "lease_us", "holder", "crashes", "submitted")
        client, found = self.valkey.client, {}
        for name in client.scan_iter(f"{prefix}*", count=1000):
            if client.type(name) == b"hash":
                values = client.hmget(name, names)
                found[name.decode().removeprefix(prefix)] = dict(zip(names, ((v or b"").decode() for v in values), strict=True))
        return found

    def teardown(self):
        try:
            if sys.exc_info()[0] is None:
                self._end()
        finally:
            self._shut()

    def _end(self) -> None:
        """All is well again, and whoever takes a ticket answers: a while later each has ended, and no accepted one is gone."""
        for process in self.processes:
            process.troubles.clear()
            process.is_well = True
        self.resume()
        self._do(self.world.arrive())
        for _ in range(round(ALL_END_WITHIN_S)):
            self._pass(1.0)
            self._answer_all()
        left = {each: ticket for each, ticket in self._tickets().items() if ticket["state"] in ("QUEUED", "RUNNING")}
        assert not left, f"{left} have not ended; {self.processes}"
        states = {ticket_id: ticket["state"] for ticket_id, ticket in self._tickets().items()}
        gone = self.world.accepted - states.keys()
        assert not gone, f"accepted, and gone: {gone}"
        assert {states[each] for each in self.world.accepted} <= {"SUCCEEDED", "FAILED"}
        assert not self.valkey.client.zcard(keys.DUE)
        assert not self.valkey.client.zcard(keys.HELD)
        held = [f"{process} {process.tickets._held.items()}" for process in self.processes if process.tickets.stats().held]
        assert not held, held
        self.ended.update(states.values())

    def _answer_all(self) -> None:
        for process in self.processes:
            works, process.works = process.works, []
            for work in works:
                self._do(self._start(process, process.answer(work)))

    def _shut(self) -> None:
        for process in self.processes:
            self.loop.run_until_complete(process.die())
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.close()


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TurnedValkey]:
    server = TurnedValkey(Path(tmp_path_factory.mktemp("v")))
    yield server
    server.stop()


@pytest.mark.slow
def test_any_order(valkey, long):
    """No ticket is left alone at any step, none is lost in the end, and most were answered."""
    AnyOrder.valkey, examples = valkey, 400 if long else 8
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    assert AnyOrder.ended["SUCCEEDED"] > examples
