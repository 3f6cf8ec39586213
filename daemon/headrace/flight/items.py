"""What a flight's log in Redis consists of: events as they were said, then one landing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from headrace import codec
from headrace.flight.flight import Flight, Landing
from headrace.model import Event, Form, Source


def encode_events(events: Iterable[Event], flight: Flight, first: int) -> list[bytes]:
    """Return events as items of the log, with what is known of *flight*, in which they happened from number *first* on."""
    return [encode_event(event, flight, is_first=number == 0) for number, event in enumerate(events, first)]


def encode_event(event: Event, flight: Flight, *, is_first: bool = False) -> bytes:
    """Return an event as an item of the log."""
    # A log is read from its first item on, so the headers are said there only.
    headers = flight.headers if is_first else ()
    return b"e" + codec.encode_event(event, attempts=flight.attempts, request_id=flight.request_id, headers=headers)


def decode_event(item: bytes, flight: Flight) -> Event:
    """Return the event of an item that `is_landing` says is none; *flight* learns what is known of it."""
    if item[:1] != b"e":
        raise ValueError("not an item of ours")
    event, head = codec.decode_event(item[1:])
    flight.attempts, flight.request_id = head.attempts, head.request_id
    if head.headers:
        flight.headers = head.headers
    return event


def item_of(fields: Sequence[bytes]) -> bytes:
    """Return the item of a log's entry; ValueError if it has none."""
    if len(fields) != 2:
        raise ValueError("not an entry of ours")
    return fields[1]


def is_landing(item: bytes) -> bool:
    return item[:1] == b"l"


def encode_landing(landing: Landing, flight: Flight) -> bytes:
    """Return a landing as the last item of the log. Events of *flight* that are in the log already are not repeated."""
    head = f"l{landing.attempts} {landing.source} {landing.ticket}\n".encode()
    if landing.answer is None:
        error = landing.error
        if error is None:
            raise ValueError("a landing has an answer or an error")
        return head + b"!" + codec.encode_error(error)
    is_said = landing.answer.form is Form.EVENTS and flight.told
    answer = replace(landing.answer, payload=b"") if is_said else landing.answer
    return head + b"=" + codec.encode_answer(answer)


def decode_landing(item: bytes, flight: Flight) -> Landing:
    """
    Return the landing as it is for us, who followed: what another asked of upstream was shared with us.

    The payload of a stream that was handed over is put together from the events that *flight* has by now.
    """
    head, _, body = item[1:].partition(b"\n")
    attempts, source, ticket = head.decode().split(" ", 2)
    made = codec.count(attempts)
    if body[:1] == b"!":
        return Landing(error=codec.decode_error(body[1:]), attempts=made, ticket=ticket)
    answer = codec.decode_answer(body[1:])
    if answer.form is Form.EVENTS and not answer.payload:
        answer = replace(answer, payload=b"".join(flight.events.chunks()))
    told = Source.SHARED if source == Source.UPSTREAM else Source(source)
    return Landing(answer=answer, attempts=made, ticket=ticket, source=told)
