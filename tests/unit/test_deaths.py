"""A server that dies is started at once, then ever more rarely, and not while it could not live."""

from __future__ import annotations

from headrace.deaths import Deaths


class Now:
    at = 100.0

    def __call__(self):
        return self.at


def waited(deaths, now):
    """Let it die, and return after how long it is due."""
    deaths.note("")
    began = now.at
    while not deaths.is_due:
        now.at += 0.25
    return now.at - began


def test_ever_more_rarely():
    """At once the first time; then after one second, two, four, and half a minute at the most."""
    now = Now()
    deaths = Deaths(now)
    assert [waited(deaths, now) for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]


def test_well_again():
    """One that has lived for a while has died of something else before."""
    now = Now()
    deaths = Deaths(now)
    assert [waited(deaths, now) for _ in range(3)] == [0, 1, 2]
    now.at += 10
    deaths.lives()
    assert waited(deaths, now) == 4
    now.at += 31
    deaths.lives()
    assert waited(deaths, now) == 0


def test_hindered():
    """While it could not live it is not started, which is said once; as soon as it could, it is."""
    now = Now()
    deaths = Deaths(now)
    assert deaths.note("No space left on device")
    for _ in range(20):
        now.at += 1
        assert not deaths.note("No space left on device")
        assert not deaths.is_due
    assert deaths.why == "our own Valkey ended, and nothing can be written there: No space left on device"
    assert deaths.note("")
    assert deaths.is_due
    assert deaths.why == ""
