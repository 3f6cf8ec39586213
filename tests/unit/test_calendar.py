"""Days and months, as people in a zone have them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.budget.calendar import stretch, zone_of


def moment(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("span", "zone", "now", "begins", "ends"),
    [
        ("day", "UTC", "2026-11-27T03:05:00", "2026-11-27T00:00", "2026-11-28T00:00"),
        ("day", "UTC", "2026-11-27T00:00:00", "2026-11-27T00:00", "2026-11-28T00:00"),
        ("month", "UTC", "2026-12-31T23:59:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("month", "UTC", "2028-02-29T12:00:00", "2028-02-01T00:00", "2028-03-01T00:00"),
        ("day", "America/New_York", "2026-11-27T03:00:00", "2026-11-26T05:00", "2026-11-27T05:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00:00", "2026-10-24T22:00", "2026-10-25T23:00"),  # 25 hours
        ("day", "Europe/Berlin", "2026-03-29T12:00:00", "2026-03-28T23:00", "2026-03-29T22:00"),  # 23 hours
        ("day", "Africa/Cairo", "2026-04-24T12:00:00", "2026-04-23T22:00", "2026-04-24T21:00"),  # no midnight
        ("month", "Asia/Kolkata", "2026-01-31T18:30:00", "2026-01-31T18:30", "2026-02-28T18:30"),
    ],
)
def test_stretch(span, zone, now, begins, ends):
    """A window begins and ends at midnight there, be the day as long as it may."""
    found = stretch(span, zone_of(zone), moment(now))
    assert (found.begins, found.ends) == (moment(begins), moment(ends))
    assert found.id == f"{begins}Z"


@given(
    st.sampled_from(["day", "month"]),
    st.sampled_from(["UTC", "America/Sao_Paulo", "Pacific/Apia", "Australia/Lord_Howe", "Africa/Cairo"]),
    st.integers(1_000_000_000, 4_000_000_000),
)
def test_one_after_the_other(span, zone, now):
    """Every moment lies in one window, and where it ends the next one begins."""
    here = zone_of(zone)
    found = stretch(span, here, now)
    assert found.begins <= now < found.ends
    assert stretch(span, here, found.ends).begins == found.ends
    assert stretch(span, here, found.ends - 1) == found


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc", "/etc/localtime"])
def test_no_zone(name):
    """What is no zone is refused."""
    with pytest.raises(ValueError, match="no zone"):
        zone_of(name)
