"""What is made of many parts goes out and comes back the same, or is said, whatever the parts are."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from headrace import codec, errors, forms
from headrace.cache import entry
from headrace.edge import http_errors, status, translate
from headrace.errors import HeadraceError, UpstreamError
from headrace.flight import items
from headrace.flight.flight import Flight, Landing
from headrace.heads import value_text
from headrace.model import Answer, Event, Form, Source, Usage
from headrace.v1 import messages_pb2

HALF = "\ud83d"  # of a character, which JSON can say and UTF-8 cannot
TEXTS = st.text() | st.text().map(lambda text: f"{text}{HALF}")
LINES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"))
COUNTS = st.integers(0, 2**40)
VALUES = st.binary().map(value_text)  # of headers, as they may come
HEADERS = st.lists(st.tuples(st.from_regex(r"x-[a-z]{1,9}", fullmatch=True), VALUES)).map(tuple)
ANSWERS = st.builds(
    Answer, st.just(Form.JSON), st.binary(), st.floats(0, 1e10), st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS), LINES,
    headers=HEADERS,
)  # fmt: skip
REFUSALS = [cls for cls in codec._ERRORS.values() if not issubclass(cls, UpstreamError)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(ANSWERS, LINES)
def test_an_answer_comes_back(answer: Answer, ticket: str) -> None:
    """From Redis and disk, in an entry, in a landing."""
    assert codec.decode_answer(codec.encode_answer(answer)) == answer
    kept = entry.Entry("f" * 64, answer, "me", "claude-x", 1.0, 2.0, 3.0)
    assert entry.decode(kept.encode()) == kept
    landed = items.decode_landing(
        items.encode_landing(Landing(answer=answer, attempts=2, ticket=ticket), Flight("")), Flight("f" * 64)
    )
    assert (landed.answer, landed.attempts, landed.ticket, landed.source) == (answer, 2, ticket, Source.SHARED)


@given(LINES, st.binary(), st.binary(), LINES, HEADERS)
@example("message_start", b"{}", b"", "req 1 with blanks", ())
def test_an_event_comes_back(name: str, data: bytes, raw: bytes, request_id: str, headers: Any) -> None:
    """With its own name, whatever the id of the request is."""
    flight = Flight("f" * 64)
    event = Event(name, data, raw)
    flight.attempts, flight.request_id, flight.headers = 3, request_id, headers
    follower = Flight("f" * 64)
    assert items.decode_event(items.encode_event(event, flight, is_first=True), follower) == event
    assert (follower.attempts, follower.request_id, follower.headers) == (3, request_id, headers)


WAITS = st.none() | st.floats() | st.sampled_from([1e300, -1e300, float("inf"), float("-inf"), float("nan"), 315_576_000_001.0])


@given(st.sampled_from(REFUSALS), TEXTS, WAITS, st.dictionaries(st.sampled_from(["limit", "field", "ticket"]), TEXTS))
@example(errors.QueueFull, HALF, 1e300, {"limit": HALF})
def test_any_refusal_is_said(cls: type[HeadraceError], message: str, wait_s: float | None, metadata: dict[str, str]) -> None:
    """Over gRPC, over HTTP, and in Redis: with whatever wait, and whatever it quotes."""
    _is_said(cls(message, retry_after_s=wait_s, metadata=metadata))


@given(TEXTS, st.integers(100, 999), TEXTS, st.binary(), HEADERS, WAITS)
def test_any_error_of_upstreams_is_said(message: str, code: int, kind: str, body: bytes, headers: Any, wait_s: Any) -> None:
    """With whatever upstream put into it."""
    _is_said(UpstreamError(message, status=code, type=kind, body=body, headers=headers, retry_after_s=wait_s))


def _is_said(error: HeadraceError) -> None:
    assert status.say(error).ByteSize() < 8192
    said = http_errors.say(error, "req_1")
    assert not said.body or isinstance(error, UpstreamError) or msgspec.json.decode(said.body)["type"] == "error"
    http_errors.error_event(error, "req_1")
    again = codec.decode_error(codec.encode_error(error))
    assert type(again) is type(error)
    assert again.metadata.keys() == error.metadata.keys()


@given(st.dictionaries(st.sampled_from(["model", "max_tokens", "system", "tools", "x"]), JSON))
@example({"max_tokens": -0.0})
def test_params_over_grpc_lose_nothing(params: dict[str, Any]) -> None:
    """Whatever JSON they hold."""
    said = translate.write(translate.read(json.dumps(params).encode(), messages_pb2.MessageParams))
    assert json.loads(said) == params


@given(st.lists(st.tuples(LINES, LINES)), st.sampled_from(["\n", "\r\n", "\r"]), st.integers(1, 9))
def test_a_stream_is_the_same_in_any_chunks(events: list[tuple[str, str]], end: str, step: int) -> None:
    """With any line ends."""
    stream = "".join(f"event:{name}{end}data:{data}{end}{end}" for name, data in events).encode()
    splitter = forms.Splitter()
    cut = [event for at in range(0, len(stream), step) for event in splitter.feed(stream[at : at + step])]
    assert forms.join(cut) + splitter.leftover == stream.removeprefix(b"\xef\xbb\xbf")
    whole = forms.Splitter().feed(stream)
    assert [dataclasses.astuple(event)[:2] for event in cut] == [dataclasses.astuple(event)[:2] for event in whole][: len(cut)]
