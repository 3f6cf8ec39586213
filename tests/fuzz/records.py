"""Targets: what lies on disk and in Redis, where others may write, too."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

from tests.fuzz.inputs import NOW, text
from tests.fuzz.target import Target

from headrace import codec, keystore, seal
from headrace.budgets import override
from headrace.cache import entry, purges
from headrace.edge import http_errors, operator_messages, status
from headrace.edge.grpc_tickets import ticket_message
from headrace.edge.grpc_usage import _row
from headrace.errors import HeadraceError, StartupError, UpstreamError
from headrace.explain import told
from headrace.flight import items
from headrace.flight.flight import Flight
from headrace.hosts import fact
from headrace.rank import LANES
from headrace.rehearse.traffic import _rows, traffic_of
from headrace.retry import alarm, ticket
from headrace.tuning import learned, organisation
from headrace.tuning.overload import Gates
from headrace.usage import question, tally


def answer(data: bytes) -> None:
    found = codec.decode_answer(data)
    assert codec.decode_answer(codec.encode_answer(found)) == found


def event(data: bytes) -> None:
    found, head = codec.decode_event(data)
    again, _ = codec.decode_event(
        codec.encode_event(found, attempts=head.attempts, request_id=head.request_id, headers=head.headers)
    )
    assert again == found


def error(data: bytes) -> None:
    """An error, on to both kinds of callers."""
    found = codec.decode_error(data)
    again = codec.decode_error(codec.encode_error(found))
    assert type(again) is type(found)
    assert again.__dict__ == found.__dict__
    say(found)


def say(found: HeadraceError) -> None:
    found.again()
    assert status.say(found).ByteSize() < 8192
    said = http_errors.say(found, "req_1")
    assert 400 <= said.status < 600 or isinstance(found, UpstreamError)
    http_errors.error_event(found, "req_1")


def kept(data: bytes) -> None:
    """An entry as it is, and with a checksum that is right, as whoever writes to our Redis can make it."""
    entry.decode(data)
    entry.is_foreign(data)
    body = data[20:]
    found = entry.decode(b"HRe2" + hashlib.sha256(body).digest()[:16] + body)
    if found is not None:
        assert entry.decode(found.encode()) == found
        found.fresh(NOW, 60.0)
        found.is_sound()
        assert found.weight > 0


_MAC = seal.Mac(b"k" * 32)


def sealed(data: bytes) -> None:
    """What lies in a shared Redis, opened; and what we seal, which opens in its own place and in no other."""
    assert _MAC.open("a", _MAC.seal("a", data)) == data
    with contextlib.suppress(seal.Broken):
        _MAC.open("b", _MAC.seal("a", data))
        raise AssertionError("opened in another's place")
    with contextlib.suppress(seal.Broken):
        _MAC.open(text(data), data)


def landing(data: bytes) -> None:
    flight = Flight("f" * 64)
    if items.is_landing(data):
        items.decode_landing(data, flight)
    else:
        items.decode_event(data, flight)
    assert 0 <= flight.attempts < 2**31


def ticket_hash(data: bytes) -> None:
    """A ticket's hash: a field a line."""
    said = dict(line.partition(b"=")[::2] for line in data.split(b"\n"))
    values = [said.get(name.encode()) for name in ticket.RUN]
    found = ticket.readable_ticket("t1", (*ticket.RUN, "answer"), [*values, said.get(b"answer")])
    if found is not None:
        ticket_message(found)


def call(data: bytes) -> None:
    found = ticket.decode_call(data, b"{}", "t1")
    if found.max_tokens >= 2**63:  # which no call has that was admitted
        return
    again = ticket.decode_call(ticket.encode_call(found), b"{}", "t1")
    assert again == dataclasses.replace(found, credential="", idempotency_key="")


class _Job(alarm.Alarm):
    """A job without a Redis."""

    def __init__(self) -> None:
        super().__init__(id="t1-1", connection=_NOWHERE, serializer=alarm.SERIALIZER)


class _Nowhere:
    """What a job asks its connection for before it asks for anything of Redis."""

    connection_pool = type("Pool", (), {"connection_kwargs": {}})()


_NOWHERE = _Nowhere()


def job(data: bytes) -> None:
    """A job of the queue: a field a line."""
    said = dict(line.partition(b"=")[::2] for line in data.split(b"\n"))
    found = _Job()
    found.restore(said | {b"data": said.get(b"data", b"")})
    attempt = found.attempt()
    assert attempt is None or attempt.number >= 1


def key_record(data: bytes) -> None:
    for kind in (keystore.Key, keystore.Record):
        keystore.read(b"0123456789ab", data, kind)
    keystore.is_key(text(data))


class _Purges(purges.Purges):
    """Purges without a Redis."""

    def __init__(self) -> None:
        self._clock = type("Clock", (), {"now": lambda self: NOW})()


_PURGES = _Purges()


def purge(data: bytes) -> None:
    notice = _PURGES._read([b"purge", data])
    notice.selector.until(notice.at).matches("f", "s", "m", NOW)
    if found := purges._stream_id(text(data)):
        purges._place(found)


class _Gates(Gates):
    """What is known of overloads, without a Redis."""

    def __init__(self) -> None:
        self._clock = _PURGES._clock
        self._troubled: dict[str, float] = {}


def trouble(data: bytes) -> None:
    """A nudge that says that upstream is overloaded."""
    gates = _Gates()
    gates._hear(data)
    assert all(until < NOW + 100_000 for until in gates._troubled.values())


def known_limits(data: bytes) -> None:
    found = learned._read(b"claude-x", data)
    if found is not None:
        found.limit("claude-x")
    learned._read(data, b'{"rates":{"requests":5},"burst_s":60,"since":1.0}')


def own_limits(data: bytes) -> None:
    organisation._read(data)


def cell(data: bytes) -> None:
    """A cell of usage: its name, and its figures on the next line."""
    name, _, figures = data.partition(b"\n")
    who = tally.read(name)
    assert tally.read(tally.spelled(who)) == who
    list(question.labels(who.labels))
    counts = tally.read_figures(figures)
    whole = counts + [0] * (len(tally.FIELDS) - len(counts))
    _row(question.Row(datetime.fromtimestamp(NOW, UTC), tuple(who), whole), "")


def laid_over(data: bytes) -> None:
    for kind in (override.Override, override.Held):
        found = override.decode(kind, data)
        assert override.decode(kind, override.encode(found)) == found


def host(data: bytes) -> None:
    found = fact.decode(data)
    assert fact.decode(fact.encode(found)) == found
    operator_messages.host(found).SerializeToString()


def told_call(data: bytes) -> None:
    found = told.decode(data)
    assert told.decode(told.encode(found)) == found
    operator_messages.told(found).SerializeToString()


def traffic(data: bytes) -> None:
    """A file of calls to rehearse."""
    traffic_of(_rows(data.decode().splitlines(keepends=True), _FILE, LANES))


_FILE = Path("/nowhere/calls.jsonl")
_CLASSES = tuple(json.dumps(name).encode() for name in codec._ERRORS)

TARGETS = (
    Target("codec.answer", answer, (ValueError,)),
    Target("codec.event", event, (ValueError,)),
    Target("codec.error", error, (ValueError,), words=_CLASSES, weight=2),
    Target("cache.entry", kept, words=(b'"scope":', b"\0\0\0\x01")),
    Target("seals", sealed, (), "cache.entry"),
    Target("flight.items", landing, (ValueError,)),
    Target("tickets.hash", ticket_hash),
    Target("tickets.call", call, (ValueError,)),
    Target("rq.job", job),
    Target("keys.record", key_record),
    Target("purges.notice", purge),
    Target("nudges.trouble", trouble),
    Target("limits.learned", known_limits),
    Target("limits.organisation", own_limits),
    Target("usage.cell", cell, (ValueError,)),
    Target("overrides", laid_over, (ValueError,)),
    Target("hosts.fact", host, (ValueError,)),
    Target("explain.told", told_call, (ValueError,)),
    Target("rehearse.traffic", traffic, (StartupError, UnicodeDecodeError), weight=2),
)
