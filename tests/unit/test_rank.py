"""The order of all that waits: shares by weight, nobody starves, a quiet flow passes a flood, and nothing is charged twice."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.rank import LANES, PRESENT_US, Fair, Flow, correction, lane_within, together

NOW = 1_800_000_000_000_000


class Counter:
    """One line and its counter: those who come are ranked, and the lowest goes first."""

    def __init__(self) -> None:
        self.fair = Fair(NOW)
        self.line: list[tuple[int, int, Flow, int, int]] = []
        self.numbers = itertools.count()
        self.work: dict[Flow, int] = {}

    def come(self, flow: Flow, span: int) -> None:
        together([self.fair])
        rank, charge = self.fair.start(flow), self.fair.charge(flow, span)
        self.fair.add(flow, rank, charge)
        self.line.append((rank, next(self.numbers), flow, span, charge))
        self.line.sort()

    def serve(self) -> Flow:
        rank, _, flow, span, _ = self.line.pop(0)
        self.fair.serve(rank)
        self.work[flow] = self.work.get(flow, 0) + span
        return flow


weights = st.lists(st.integers(1, 9), min_size=2, max_size=5)


@given(weights, st.data())
def test_weights(of, data):
    """Of flows that always wait, the work done differs by no more than one call of each, in terms of their shares."""
    counter, flows = Counter(), [Flow(str(number), weight=weight) for number, weight in enumerate(of)]
    spans = {flow: data.draw(st.lists(st.integers(1_000, 50_000), min_size=4, max_size=4)) for flow in flows}
    numbers = itertools.count()

    def come(flow):
        counter.come(flow, spans[flow][next(numbers) % 4])

    for flow in flows * 2:
        come(flow)
    for _ in range(60):
        come(counter.serve())
    before = dict(counter.work)
    for _ in range(400):
        come(counter.serve())
    done = {flow: (counter.work[flow] - before.get(flow, 0)) / flow.weight for flow in flows}
    for one, other in itertools.combinations(flows, 2):
        # Once more the bound of the theory for each: shares are rounded to what is waiting when a call comes.
        bound = 2 * (max(spans[one]) / one.weight + max(spans[other]) / other.weight)
        assert abs(done[one] - done[other]) <= bound


@given(st.integers(1, 30), st.integers(1, 5))
def test_lanes(callers, weight):
    """A lane has its share however many callers are in the other, and of whatever weight."""
    counter = Counter()
    flows = [Flow("a", "high", 800_000), *(Flow(f"b{n}", "low", 200_000, weight) for n in range(callers))]
    for flow in flows * 2:
        counter.come(flow, 1000)
    for _ in range(100 + 4 * callers):
        counter.come(counter.serve(), 1000)
    counter.work.clear()
    for _ in range(1000):
        counter.come(counter.serve(), 1000)
    assert counter.work[flows[0]] / 1000 == pytest.approx(800, abs=8 + callers)


@given(st.integers(1, 100), st.integers(1, 5))
def test_lane_comes_late(flood, callers):
    """What a lane asked for while it was alone does not go before one that comes, more than its share: it was alone then."""
    counter = Counter()
    low, high = Flow("flood", "low", 50_000), [Flow(f"a{n}", "high", 800_000) for n in range(callers)]
    for _ in range(flood):
        counter.come(low, 50_000)
    for flow in high * 2:
        counter.come(flow, 50_000)
    counter.serve()
    counter.work.clear()
    for _ in range(160):
        flow = counter.serve()
        counter.come(flow, 50_000)
    assert counter.work.get(low, 0) / 50_000 <= 160 / 17 + callers + 1


def test_headroom():
    """Who waits leaves what another lane could have before it by its share: of a lane that has it, or is gone, nothing more."""
    fair, low, high = Fair(NOW), Flow("flood", "low", 50_000), Flow("a", "high", 800_000)
    own = {"rate": 20, "room": 19_000_000}  # twenty a second, each of a million units
    fair.add(low, NOW, fair.charge(low, 50_000), NOW)
    rank = fair.start(low)
    assert fair.headroom(low, rank, 0, NOW, **own) == 0  # nobody else was ever here
    fair.add(high, NOW, fair.charge(high, 50_000), NOW)
    fair.serve(NOW)
    assert fair.headroom(low, rank, 0, NOW, **own) == 15_000_000  # sixteen to one, and one of them has come
    assert fair.headroom(low, rank, NOW + 500_000, NOW, **own) == 8_000_000
    assert fair.headroom(low, rank, 0, NOW, rate=20, room=10_000_000) == 8_000_000  # never all that there is
    assert fair.headroom(low, rank, 0, NOW + PRESENT_US, **own) == 0
    assert fair.headroom(high, NOW + 62_500, 0, NOW, **own) == 0  # the flood has asked for more than its share
    for _ in range(15):
        fair.add(high, fair.start(high), fair.charge(high, 50_000), NOW)
    assert fair.headroom(low, rank, 0, NOW, **own) == 0
    fair.correct(high, correction(125_000, 1, 1))
    assert fair.headroom(low, rank, 0, NOW, **own) == 2_000_000


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 100_000)), max_size=200))
def test_nobody_starves(others):
    """Whoever waits goes after no more work of each other flow than its share, whatever comes."""
    counter, small = Counter(), Flow("small", "low", 50_000)
    flows = [Flow(str(number), "high", 950_000, number + 1) for number in range(5)]
    for flow in flows:
        counter.come(flow, 100_000)
    counter.come(small, 1000)
    served = []
    for number, span in [*others, *[(0, 1000)] * 200]:
        counter.come(flows[number], span)
        served.append(counter.serve())
    assert small in served
    # It starts at the clock, so only those go before it who were there: one of each.
    assert served.index(small) <= len(flows)


@given(st.integers(2, 500), st.integers(1_000, 100_000))
def test_quiet_flow(flood, span):
    """However much one flow asks for, a call of one that was quiet is the next but one."""
    counter, loud, quiet = Counter(), Flow("loud"), Flow("quiet")
    for _ in range(flood):
        counter.come(loud, span)
    for _ in range(5):
        for flow in (loud, loud, loud, quiet):
            counter.come(flow, span)
        assert quiet in [counter.serve(), counter.serve()]
        counter.serve(), counter.serve()


changes = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 10**7)), max_size=30)


@given(changes, st.integers(0, 3), st.integers(1, 10**9))
def test_taken_back(comes, number, span):
    """What a call that leaves was charged is taken back: all is as it was, but that its flow may be at the clock."""
    flows = [Flow(str(n), "lane", 500_000, n + 1) for n in range(4)]
    fair = Fair(NOW)
    for n, cost in comes:
        together([fair])
        fair.add(flows[n], fair.start(flows[n]), fair.charge(flows[n], cost))
    together([fair])
    before, rank = fair.finishes, fair.start(flows[number])
    charge = fair.charge(flows[number], span)
    fair.add(flows[number], rank, charge)
    fair.correct(flows[number], correction(charge, 7, 7))
    fair.sweep()
    assert fair.finishes == before
    assert fair.start(flows[number]) == rank
    assert fair.charge(flows[number], span) == charge


def test_corrected():
    """A flow whose calls cost less than was thought is as one that had known, and so is one whose calls cost more."""
    for back, finish in ((0, 100_000), (25, 75_000), (100, 0), (-50, 150_000)):
        fair, flow = Fair(NOW), Flow("a")
        rank = fair.start(flow)
        charge = fair.charge(flow, 100_000)
        fair.add(flow, rank, charge)
        fair.correct(flow, correction(charge, back, 100))
        assert fair.start(flow) == rank + finish
    assert correction(100, 5, 0) == 0


def test_together():
    """Lines in which one call waits show the same time, the latest, and equals go in the order in which they came."""
    early, late = Fair(NOW), Fair(NOW + 5_000_000)
    early.add(Flow("gone"), NOW, 10)
    early.add(Flow("ahead"), NOW, 9_000_000)
    assert together([early, late]) == early.clock == late.clock == NOW + 5_000_001
    assert early.finishes == {Flow("ahead").name: NOW + 9_000_000}
    assert together([early]) == NOW + 5_000_002


def test_many_flows():
    """Flows that are gone are forgotten, and so are their weights and their finishes of the past."""
    fair = Fair(NOW)
    for number in range(1000):
        together([fair])
        flow = Flow(f"c{number % 10}")
        rank = fair.start(flow)
        fair.add(flow, rank, fair.charge(flow, 1000))
    assert len(fair._heap) <= 64
    fair.serve(NOW + 10**12)
    fair.sweep()
    assert (fair.finishes, fair._weights, fair._heap) == ({}, {}, [])
    assert repr(fair) == f"<Fair [{NOW + 10**12} us, 0 flows]>"


def test_lane_within():
    """A ceiling bounds lanes by their shares; what is no lane bounds nothing."""
    shares = LANES | {"night": 50_000, "day": 400_000}
    assert [lane_within(lane, "batch", shares) for lane in shares] == ["batch", "batch", "batch", "night", "batch"]
    assert [lane_within(lane, "day", shares) for lane in shares] == ["day", "standard", "batch", "night", "day"]
    assert [lane_within(lane, "", shares) for lane in shares] == list(shares)
    assert [lane_within(lane, "gone", shares) for lane in shares] == list(shares)
