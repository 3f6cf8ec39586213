"""What was said in a flight comes back as it was, however it lies here, and takes little more than its bytes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from headrace.flight.flight import Flight, Landing
from headrace.flight.said import Said
from headrace.forms.sse import Splitter, make_event
from headrace.model import Answer, Event, Form


def said(count: int) -> list[Event]:
    return [
        make_event("ping" if number % 7 == 3 else "content_block_delta", b'{"index":0,"delta":{"text":"%d"}}' % number)
        for number in range(count)
    ]


ODD = [
    Event("", b"", b": only a comment\n\n"),
    Event("message", b"two\nlines", b"data: two\ndata: lines\n\n"),
    Event("message", b"", b"data\n\n"),
    Event("ping", b"{}", b"1"),  # its data is not in its bytes
    Event("content_block_delta", b"x" * 100_000, b"event: content_block_delta\ndata: " + b"x" * 100_000 + b"\n\n"),
    Event("content_block_delta", b"data", b"event: content_block_delta\ndata: data\n\n"),
]


@pytest.mark.parametrize(
    "events", [[], said(1), said(31), said(32), said(33), said(1000), ODD, said(30) + ODD + said(30) + ODD]
)
def test_comes_back(events: list[Event]) -> None:
    """From the first on, from any other, and as the stream's bytes: before the whole is there, and after."""
    kept = Said()
    for event in events:
        kept.append(event)
    whole = b"".join(event.raw for event in events)
    for _ in range(2):
        assert kept == events
        assert len(kept) == len(events)
        assert all(list(kept.since(first)) == events[first:] for first in range(0, len(events) + 1, max(1, len(events) // 50)))
        assert b"".join(kept.chunks()) == whole
        kept.rest_on(whole)


def test_a_reader_follows() -> None:
    """Who reads while there is more to come has each once, whether blocks are closed meanwhile or not."""
    events, kept, read = said(200), Said(), []
    for number, event in enumerate(events):
        kept.append(event)
        if number % 7 == 0:
            read += kept.since(len(read))
    read += kept.since(len(read))
    assert read == events


def test_another_payload() -> None:
    """An answer that says something else takes nothing away."""
    events, kept = said(100), Said()
    for event in events:
        kept.append(event)
    kept.rest_on(b"".join(event.raw for event in events[:50]) + b"something else")
    assert kept == events


STREAM = b"".join(event.raw for event in said(20_000))


@pytest.fixture
def traced() -> Iterator[Callable[[], float]]:
    """What was taken of memory since then, in parts of the stream."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0] / len(STREAM)
    tracemalloc.stop()


def test_memory(traced: Callable[[], float]) -> None:
    """In the air events take half their bytes beside them, not three times as much; with the whole answer, only that half."""
    flight, splitter = Flight("k"), Splitter()
    flight.begin("upstream")
    for begin in range(0, len(STREAM), 4096):
        for event in splitter.feed(STREAM[begin : begin + 4096]):
            flight.append(event, is_content=True)
    assert 1 < traced() < 1.6
    assert traced() < flight.cost_bytes / len(STREAM) < 1.2 * traced()
    flight.land(Landing(Answer(Form.EVENTS, STREAM, created=1.0)))
    assert traced() < 0.6
    assert b"".join(event.raw for event in flight.events) == STREAM
