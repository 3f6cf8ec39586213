"""Nudges: many may wait for one name, and each leaves alone."""

from __future__ import annotations

from headrace.nudges import Nudges, NudgesStats


def test_each_is_nudged() -> None:
    """All who wait for a name are nudged, those for another are not; a name is forgotten with its last."""
    nudges = Nudges()
    nudges.nudge("a")
    with nudges.of("a") as first, nudges.of("b") as other:
        with nudges.of("a") as second:
            nudges.nudge("a")
            assert [each.is_set() for each in (first, second, other)] == [True, True, False]
            assert nudges.stats() == NudgesStats(names=2, waiting=3)
        assert "a" in nudges
    assert "a" not in nudges
    assert repr(nudges) == "<Nudges [0 names, 0 waiting]>"
