"""What is held against whom."""

from __future__ import annotations

from headrace.edge.strikes import Strikes


def test_strikes() -> None:
    """Each counts for its own name, so much a second is forgiven, and never more than there is."""
    now = [0.0]
    strikes = Strikes(10.0, now=lambda: now[0])
    assert [strikes.add("a") for _ in range(3)] == [1, 2, 3]
    assert strikes.add("b") == 1
    now[0] = 0.2
    assert strikes.count("a") == 1
    now[0] = 5.0
    assert strikes.add("a") == 1


def test_forgotten() -> None:
    """Names against which nothing is held are forgotten, however many there were."""
    now = [0.0]
    strikes = Strikes(10.0, now=lambda: now[0])
    for name in range(5000):
        now[0] += 1.0
        strikes.add(name)
    assert len(strikes._struck) <= 1001
