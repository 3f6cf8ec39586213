"""Splitting streams: any chunking, either line end, every byte kept."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import forms
from headrace.model import Event

START = b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'
PIECE = b"event: content_block_delta\ndata: {}\n\n"

lines = st.sampled_from(
    [b"event: ping", b"event:error", b'data: {"a": 1}', b"data:", b"data", b": a comment", b"id: 7", b"odd", b"", b"data:  x"]
)
endings = st.sampled_from([b"\n", b"\r\n", b"\r"])
streams = st.lists(st.tuples(lines, endings).map(b"".join), max_size=30).map(b"".join) | st.binary(max_size=60)
ANSWER = [b'event: message_start\ndata: {"message":{}}', b"data: a\ndata: b\n: c", b"event: message_stop\ndata: {}"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["bare", "marked"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_line_ends(mark: bytes, end: bytes, size: int) -> None:
    """A mark at the beginning belongs to no name, and a line ends as its sender likes, however it is cut."""
    stream = mark + b"".join(block.replace(b"\n", end) + end + end for block in ANSWER)
    splitter = forms.Splitter()
    events = [event for at in range(0, len(stream), size) for event in splitter.feed(stream[at : at + size])]
    assert [(event.name, event.data) for event in events] == [
        ("message_start", b'{"message":{}}'),
        ("message", b"a\nb"),
        ("message_stop", b"{}"),
    ]
    assert not splitter.leftover


@pytest.mark.parametrize("blank", [b"\n\r\n", b"\r\n\n", b"\r\n\r", b"\n\r"])
def test_mixed_ends(blank: bytes) -> None:
    """Each line may end in another way, also where a blank line is the last to come."""
    splitter = forms.Splitter()
    events = splitter.feed(b"data: 1" + blank + b"data: 2" + blank) + splitter.finish()
    assert [event.data for event in events if event.data] == [b"1", b"2"]


@given(streams, st.lists(st.integers(0, 200), max_size=8))
def test_chunking(stream: bytes, cuts: list[int]) -> None:
    """Whatever the chunks, the events are the same, and no byte is lost."""
    whole = forms.Splitter()
    expected = whole.feed(stream)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    splitter = forms.Splitter()
    events = [event for a, b in itertools.pairwise(bounds) for event in splitter.feed(stream[a:b])]
    assert events == expected
    assert splitter.leftover == whole.leftover
    assert forms.join(events) + splitter.leftover == stream.removeprefix(b"\xef\xbb\xbf")


@given(streams)
def test_byte_by_byte(stream: bytes) -> None:
    """One byte at a time is a chunking too."""
    splitter = forms.Splitter()
    events = [event for i in range(len(stream)) for event in splitter.feed(stream[i : i + 1])]
    assert events == forms.Splitter().feed(stream)


@pytest.mark.parametrize(
    ("block", "name", "data"),
    [
        (b"event: a\ndata: 1\n\n", "a", b"1"),
        (b"event: a\r\ndata: 1\r\n\r\n", "a", b"1"),
        (b"event: a\ndata: 1\ndata: 2\n\n", "a", b"1\n2"),
        (b"data:1\nevent:a\n\n", "a", b"1"),
        (b"data: 1\n\n", "message", b"1"),
        (b": a comment\n\n", "", b""),
        (b"event: a\n\n", "", b""),
        (b"\nevent: a\ndata: \xff\n\n", "a", b"\xff"),
        (b"id: 3\nevent: \xff\ndata:\n\n", "\ufffd", b""),
    ],
)
def test_block(block: bytes, name: str, data: bytes) -> None:
    """Each field is read as the standard says; a block without data dispatches nothing."""
    assert forms.split(block) == [Event(name, data, block)]


def test_leftover() -> None:
    """A stream without its last blank line breaks off inside an event, and says so; a stray line end is no event."""
    splitter = forms.Splitter()
    assert splitter.feed(PIECE + PIECE[:-1]) == forms.split(PIECE)
    assert splitter.leftover == PIECE[:-1]
    assert repr(splitter) == f"<Splitter [{len(PIECE) - 1} bytes left over]>"
    with pytest.raises(ValueError, match="breaks off"):
        forms.split(PIECE[:-1])
    assert forms.split(PIECE + b"\n") == forms.split(PIECE)


def test_kinds() -> None:
    """Content, the end and errors are told by the event's name."""
    piece, start = forms.split(PIECE + START)
    stop = forms.make_event("message_stop", b"{}")
    assert [forms.is_content(e) for e in (piece, start, stop)] == [True, False, False]
    assert [forms.is_terminal(e) for e in (piece, start, stop)] == [False, False, True]
    assert forms.split(stop.raw) == [stop]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', "overloaded_error"),
        (b'{"error":"what"}', "api_error"),
        (b'{"error":{"type":null}}', "api_error"),
        (b"[]", "api_error"),
        (b"<html>", "api_error"),
        (b"\xff", "api_error"),
    ],
)
def test_error(data: bytes, kind: str) -> None:
    """An error event has a type and a message, whatever its shape."""
    error = forms.error_of(forms.make_event("error", data))
    assert error is not None
    assert error[0] == kind
    assert error[1]
    assert forms.error_of(forms.make_event("ping", data)) is None


@pytest.mark.parametrize(
    ("name", "data", "sound"),
    [
        ("message_start", b'{"message":{}}', True),
        ("message_start", b"{}", False),
        ("content_block_delta", b'{"index":0,"delta":{}}', True),
        ("content_block_delta", b'{"index":0,"delta":{"te', False),
        ("content_block_delta", b"[]", False),
        ("content_block_delta", b'{"index":null,"delta":{}}', False),
        ("content_block_start", b'{"index":0,"content_block":7}', False),
        ("message_delta", b'{"delta":{}}', True),
        ("message_delta", b'{"delta":{},"usage":null}', True),
        ("message_delta", b'{"delta":{},"usage":3}', False),
        ("content_block_delta", b'{"index":0,"delta":{"text":"\xff"}}', False),
        ("content_block_delta", b'{"index":0,"delta":{"text":"\\ud83d"}}', True),
        ("not_yet_invented", b"<nonsense>", True),
        ("", b"", True),
    ],
)
def test_sound(name: str, data: bytes, sound: bool) -> None:
    """What we read must be readable; what we only pass on may be anything."""
    assert forms.is_sound(Event(name, data, b"")) is sound


@given(st.sampled_from(["message_start", "content_block_start", "content_block_delta", "message_delta", "error"]), st.binary())
def test_nonsense(name: str, data: bytes) -> None:
    """Nothing that an event may hold makes the readers fail in an unexpected way."""
    event = Event(name, data, b"")
    forms.error_of(event)
    forms.usage_of([event])
    if not forms.is_sound(event):
        with pytest.raises(ValueError, match="tell no message"):
            forms.message_of_events([forms.split(START)[0], event] if name != "error" else [event])
