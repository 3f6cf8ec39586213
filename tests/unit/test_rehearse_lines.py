"""The lines of a rehearsal give the answers that the ledger gives, whatever is asked when; and nobody waits who could go."""

from __future__ import annotations

import asyncio
import heapq
import pickle

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.budget.ledger import Granted, given_back
from headrace.budget.memory import MemoryLedger
from headrace.budget.want import Form, Want
from headrace.rank import Flow
from headrace.rehearse.lines import Lines, Place

RATES = {"requests": (1_800, 5), "tokens": (60_000, 100)}
FLOWS = [Flow("ann", "interactive", 800_000, 3), Flow("bob", "interactive", 800_000, 1), Flow("cat", "batch", 50_000, 1)]
BEGIN_US = 1_800_000_000_000_000


def want(name: str, cost: int) -> Want:
    if name == "permits":
        return Want(name, name, "concurrency", Form.PERMIT, 0, 3, 1)
    if name == "spend":
        return Want(name, name, "spend", Form.WINDOW, 0, 2_000, cost, ends_us=BEGIN_US + 3_600_000_000)
    rate, capacity = RATES[name]
    return Want(name, name, "output_tokens", Form.RATE, rate, capacity, min(cost, capacity))


class Asking:
    """What waits: its wants."""

    def __init__(self, number: int, wants: tuple[Want, ...]) -> None:
        self.number, self.wants = number, wants


class Mirror:
    """The lines and a ledger, asked the same at the same moments. Each call stands by itself, as the first of its flow does."""

    def __init__(self) -> None:
        self.now_us = BEGIN_US
        self.ledger = MemoryLedger(lambda: self.now_us)
        self.lines: Lines[Asking] = Lines(self.called, lambda at_us, line: heapq.heappush(self.alarms, (at_us, id(line), line)))
        self.alarms: list = []
        self.standing: dict[int, Place[Asking]] = {}
        self.running: dict[int, Place[Asking]] = {}

    def ask(self, place: Place[Asking]) -> None:
        number = place.waiting.number
        granted = self.lines.ask(place, self.now_us) == 0
        assert granted == self.ledger_grants(place), f"call {number} at {self.now_us - BEGIN_US}"
        if not granted:
            lines = {line.want.bucket_id for line in place.standing}
            states = self.ledger._states
            assert lines == {bucket_id for bucket_id, state in states.items() if f"|{number:06}" in state.line}
            assert all(states[bucket_id].line[f"|{number:06}"].rank == place.rank for bucket_id in lines)
        (self.running if granted else self.standing)[number] = place
        (self.standing if granted else self.running).pop(number, None)

    def ledger_grants(self, place: Place[Asking], ledger: MemoryLedger | None = None) -> bool:
        number = place.waiting.number
        answer = (ledger or self.ledger).reserve(str(number), place.wants, waiter=f"|{number:06}", flow=place.flow)
        try:
            answer.send(None)
        except StopIteration as done:
            return isinstance(done.value, Granted)
        raise AssertionError("it never waits")

    def called(self, place: Place[Asking], now_us: int) -> None:
        assert now_us == self.now_us
        self.ask(place)

    def come(self, number: int, flow: Flow, wants: tuple[Want, ...]) -> None:
        self.ask(Place(Asking(number, wants), flow, self.lines.of(wants, self.now_us), number))
        self.lines.look(self.now_us)

    def end(self, number: int, part: float) -> None:
        """A running call ends, and has used so large a part of what it reserved."""
        place = self.running.pop(number)
        actual = {want.bucket_id: int(want.cost * part) for want in place.wants if want.form is not Form.PERMIT}
        self.ledger.settle(str(number), place.wants, actual)
        self.lines.give_back(place, given_back(place.wants, actual), self.now_us)
        self.lines.look(self.now_us)

    def leave(self, number: int) -> None:
        """A standing call gives up."""
        place = self.standing.pop(number)
        self.ledger.release(str(number), place.wants, waiter=f"|{number:06}")
        self.lines.give_up(place)
        self.lines.look(self.now_us)

    def advance(self, until_us: int) -> None:
        while self.alarms and self.alarms[0][0] <= until_us:
            self.now_us, _, line = heapq.heappop(self.alarms)
            self.lines.look(self.now_us, line)
            if not self.alarms or self.alarms[0][0] > self.now_us:  # else it may be the turn of whom another line calls
                self.nobody_is_forgotten()
        self.now_us = until_us

    def nobody_is_forgotten(self) -> None:
        """Whoever stands would be told by the ledger, too, to wait. A copy is asked, for who asks may join other lines."""
        written = pickle.dumps({name: value for name, value in vars(self.ledger).items() if not callable(value)})
        for number, place in self.standing.items():
            ledger = MemoryLedger(self.ledger.now_us)
            vars(ledger).update(pickle.loads(written))
            assert not self.ledger_grants(place, ledger), f"call {number} could go at {self.now_us - BEGIN_US}"


NAMES = st.sets(st.sampled_from(["requests", "tokens", "permits", "spend"]), min_size=1)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 80_000),  # how long after the step before; all in less than a place in line is good for
        st.sampled_from(["come", "come", "come", "end", "leave"]),
        st.integers(0, 2),
        NAMES,
        st.integers(1, 120),
        st.floats(0, 2),
    ),
    min_size=20,
    max_size=60,
)


def test_the_ledger_says_the_same(long) -> None:
    """Ranks, charges, corrections, permits, debts and windows: each question, and each moment at which somebody could go."""
    settings(max_examples=500 if long else 40, deadline=None)(given(STEPS)(mirrored))()


def mirrored(steps) -> None:
    async def go() -> None:
        mirror = Mirror()
        for number, (pause_us, what, flow, names, cost, part) in enumerate(steps):
            mirror.advance(mirror.now_us + pause_us)
            if what == "come":
                mirror.come(number, FLOWS[flow], tuple(want(name, cost) for name in sorted(names)))
            elif what == "end" and mirror.running:
                mirror.end(min(mirror.running), part)
            elif what == "leave" and mirror.standing:
                mirror.leave(max(mirror.standing))
            mirror.nobody_is_forgotten()

    asyncio.run(go())
