"""Durations and sizes: what is read, what is written, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("9m30s", 570), ("0.5s", 0.5), ("500ms", 0.5), ("1m500ms", 60.5), ("1d", 86_400), ("1.5m", 90), ("0", 0)],
)
def test_duration(text, seconds):
    """A duration is a number for each of its units, the longest unit first."""
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "1", "s", "-1s", "+1s", "1e3s", "inf", "nan", "1x", "30s1m", "1m1m", "1 h", "1h ", "١s", "1.s", "999999999d"],
)
def test_no_duration(text):
    """Whatever else somebody writes is no duration; a number without a unit above all."""
    with pytest.raises(ValueError, match=r"duration|years"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MB", 64_000_000), ("64 mb", 64_000_000), ("1MiB", 2**20), ("1.5kB", 1500), ("0", 0), ("7B", 7), ("2TB", 2 * 10**12)],
)
def test_size(text, size):
    """A decimal prefix is decimal, a binary one binary; capitals do not matter."""
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "64", "-1MB", "0.5B", "1XB", "1e3B", "999999999999TB", "1MBB", "1  MB", "٣MB"])
def test_no_size(text):
    """Whatever else somebody writes is no size."""
    with pytest.raises(ValueError, match=r"size|bytes|disk"):
        units.parse_size(text)


def test_range():
    """A range is two durations, the shorter one first."""
    assert units.parse_range("0.5s..30s") == (0.5, 30.0)
    assert units.parse_range("1s .. 1m") == (1.0, 60.0)
    assert units.format_range((0.5, 90.0)) == "0.5s..1m30s"
    for text in ("30s..1s", "1s", "1s..", "..1s", "1s...2s"):
        with pytest.raises(ValueError, match=r"range|duration|longer"):
            units.parse_range(text)


def test_written():
    """What is written is what a person would write."""
    assert [units.format_duration(s) for s in (0, 0.5, 30, 60, 570, 3600, 86_400)] == [
        "0s", "0.5s", "30s", "1m", "9m30s", "1h", "24h",
    ]  # fmt: skip
    assert [units.format_size(n) for n in (0, 7, 1000, 1024, 64_000_000, 2**30)] == ["0", "7B", "1kB", "1KiB", "64MB", "1GiB"]


@given(st.one_of(st.integers(0, 10**9), st.floats(0.000001, 10**6).map(lambda s: round(s, 6))))
def test_duration_round_trip(seconds):
    """What is written is read again as the same duration."""
    assert units.parse_duration(units.format_duration(float(seconds))) == seconds


@given(st.integers(0, 2**62))
def test_size_round_trip(size):
    """What is written is read again as the same size."""
    assert units.parse_size(units.format_size(size)) == size
