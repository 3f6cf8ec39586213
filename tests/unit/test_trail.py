"""Ids of calls, and what they went through; which of them have a line in the log; under which names they are counted."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from headrace.call_log import CallLog, fields_of
from headrace.clock import HandClock
from headrace.few import OTHER, Few
from headrace.outcome import LEFT, Outcome
from headrace.replies import where
from headrace.trail import Trail, Try, id_of, new_id, timing


def outcome(**said) -> Outcome:
    return Outcome("http", "messages", "ann", "standard", "claude-haiku-4-5", **said)


def made(number: int, status: int, began: float, took_s: float, waited_s: float = 0.0) -> Try:
    return Try(number, status, "answered" if status == 200 else "overloaded", began, took_s, waited_s)


@pytest.mark.parametrize("given", ["a", "3f1c-9", "x" * 120, "4bf92f3577b34da6a3ce929d0e0e4736", "svc:42/7+=@_."])
def test_given(given: str) -> None:
    """A caller's own id is taken as it is."""
    assert id_of(given) == given


@pytest.mark.parametrize("given", ["", None, "x" * 121, "a b", "a\n", "é", '"', "a;b", "a,b", "\ud800"])
def test_nonsense(given: str | None) -> None:
    """Of what is no id one of ours takes the place; no two are alike."""
    first, second = id_of(given), id_of(given)
    assert first != second
    assert len(first) == len(new_id()) == 29


def test_timing() -> None:
    """Waits by what held it, tries with the time between them, and their sum; of a try that goes on, its time until now."""
    trail = Trail()
    assert timing(None) == timing(trail) == ""
    trail.waited([("reports", 31.2), ("slots", 0.0001)])
    trail.add(made(1, 529, 100.0, 0.007))
    trail.add(made(2, 200, 107.0, 1.25, 0.093))
    assert timing(trail).split(", ") == [
        'wait;dur=31200;desc="reports"', 'attempt;dur=7;desc="529"', "parked;dur=6900", 'attempt;dur=1250;desc="200"',
        "upstream;dur=1257",
    ]  # fmt: skip
    going = Trail()
    going.going = 100.0
    assert timing(going, 100.5) == 'attempt;dur=500;desc="200", upstream;dur=500'
    long = Trail()
    for number in range(100):
        long.add(made(number + 1, 529, 100.0 + number, 0.1))
        long.waited([(f"{number:03}" + "x" * 100, 1.0)])
    assert timing(long).count("attempt") == timing(long).count("wait") == 8
    assert len(timing(long)) < 1000  # it goes into trailers, too


def test_heard() -> None:
    """A try that was made elsewhere is told with what it waited for there, once, and not where it is known already."""
    trail, caller = Trail(), Trail()
    caller.follow(trail)
    trail.waited([("org", 1.0)])
    trail.add(made(1, 529, 100.0, 0.1, 1.0))
    elsewhere = replace(made(2, 200, 130.0, 1.0, 20.0), held_by="reports")
    for each in (made(1, 529, 100.0, 0.1, 1.0), elsewhere, elsewhere):
        trail.heard(each)
    assert caller.waits == {"org": 1.0, "reports": 20.0}
    assert [each.number for each in caller.tries] == [1, 2]
    assert 'wait;dur=20000;desc="reports"' in timing(caller)


def test_followed() -> None:
    """A trail has what those have that it follows, each try once, also what holds them at the moment."""
    flight, call, later = Trail(), Trail(), Trail()
    call.follow(flight)
    call.follow(flight)
    later.follow(flight)
    flight.add(made(1, 200, 1.0, 1.0))
    flight.add(made(1, 200, 1.0, 1.0))
    flight.holding = lambda: [("org", 2.0)]
    assert len(call.tries) == len(later.tries) == 1
    assert call.waits == {"org": 2.0}
    flight.waited([("org", 3.0)])
    assert call.waits == {"org": 3.0}


@pytest.mark.parametrize(
    ("which", "told"), [("off", []), ("slow", ["slow"]), ("errors", ["slow", "bad"]), ("all", ["quick", "slow", "bad", "left"])]
)
def test_which(which, told) -> None:
    """Each setting has its lines."""
    log = CallLog(HandClock(), which, 30.0)
    with capture_logs() as lines:
        log.heed(outcome(id="quick", took_s=1.0))
        log.heed(outcome(id="slow", took_s=31.0))
        log.heed(outcome(id="bad", reason="BUDGET_EXHAUSTED"))
        log.heed(outcome(id="left", reason=LEFT))
    assert [line["id"] for line in lines] == told


async def test_rationed() -> None:
    """A bad hour has a hundred lines at once and five a second; the next one tells how many were left out. Not so "all"."""
    clock = HandClock()
    log, every = CallLog(clock, "errors", 30.0), CallLog(clock, "all", 30.0)
    with capture_logs() as lines:
        for _ in range(1000):
            log.heed(outcome(reason="UPSTREAM_ERROR"))
        assert len(lines) == 100
        await clock.advance(1.0)
        log.heed(outcome(reason="UPSTREAM_ERROR"))
        assert lines[-1]["left_out"] == 900
    with capture_logs() as lines:
        for _ in range(1000):
            every.heed(outcome())
    assert len(lines) == 1000


def test_no_content() -> None:
    """A model's name is whatever a caller writes there; what is no name is not said."""
    said = fields_of(Outcome("http", "messages", "ann", "standard", "tell me a secret", id="x"))
    assert said["model"] == "?"
    assert "secret" not in str(said)


def test_few() -> None:
    """Names of the configuration always, others up to a bound, and the same ones from then on."""
    few = Few(2)
    few.reload(["ann", "bob"], 2)
    assert [few.of(name) for name in ("x", "ann", "y", "z", "bob", "x", "")] == ["x", "ann", "y", OTHER, "bob", "x", ""]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://user:pass@host:6379/3?ssl_password=x", "redis://host:6379/3"),
        ("rediss://:p@ss@[::1]:6380", "rediss://[::1]:6380"),
        ("unix://:word@/run/valkey.sock?db=1", "unix:///run/valkey.sock"),
        ("redis+sentinel://u:p@a:1,b:2/main/0", "redis+sentinel://a:1,b:2/main/0"),
    ],
)
def test_where(url: str, said: str) -> None:
    """An address has neither user nor password nor options."""
    assert where(url) == said
