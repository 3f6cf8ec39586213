"""W3C Trace Context: what is read of headers, and what upstream is told."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from multidict import CIMultiDict

from headrace.model import Call, Caller
from headrace.retry.ticket import decode_call, encode_call
from headrace.trace import Trace, begun, of_headers, of_pairs, read

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{ID}-{SPAN}-01"


def test_read() -> None:
    """One well-formed parent is taken, from headers of HTTP and from metadata of gRPC, and is said as it came."""
    wanted = Trace(ID, SPAN, 1, "a=1,b@c=2")
    assert of_headers(CIMultiDict([("Traceparent", GOOD), ("tracestate", "a=1"), ("tracestate", " b@c=2 ,")])) == wanted
    assert of_headers({"traceparent": GOOD, "tracestate": "a=1,b@c=2"}) == wanted
    assert of_pairs([("x", b"y"), ("traceparent", GOOD), ("tracestate", "a=1,b@c=2")]) == wanted
    assert wanted.headers() == [("traceparent", GOOD), ("tracestate", "a=1,b@c=2")]
    assert of_headers({}) is None
    assert of_pairs([]) is None


@pytest.mark.parametrize(
    "wrong",
    [
        "", "00", GOOD.upper(), GOOD[:-1], f"{GOOD}-", f"{GOOD}-more", f"ff{GOOD[2:]}", f"0x{GOOD[2:]}", f"{GOOD}\n",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{ID}-{'0' * 16}-01", f"00-{ID}-{SPAN}-0g", f"00 {ID} {SPAN} 01", "٠٠" + GOOD[2:],
        "x" * 10_000, f"cc-{ID}-{SPAN}-01.more",
    ],
)  # fmt: skip
def test_malformed(wrong: str) -> None:
    """What is malformed has not come."""
    assert read([wrong]) is None


def test_twice() -> None:
    """Two parents are none."""
    assert read([GOOD, GOOD]) is None


@pytest.mark.parametrize("later", [f"cc-{ID}-{SPAN}-01", f"cc-{ID}-{SPAN}-01-what-the-future-brings"])
def test_later_version(later: str) -> None:
    """A later version is read as far as we know it, and passed on as the one that we speak."""
    trace = read([later])
    assert trace is not None
    assert trace.headers() == [("traceparent", GOOD)]


@pytest.mark.parametrize(
    "state",
    ["A=1", "a=1,a=2", "a", "a=1=2", "=1", "a=\x7f", "a=b\r\nx: y", ",".join(f"k{n}=1" for n in range(33))],
)  # fmt: skip
def test_malformed_state(state: str) -> None:
    """A state that is malformed is left out, and the parent stays."""
    assert read([GOOD], [state]) == Trace(ID, SPAN, 1)


def test_long_state() -> None:
    """Of a state that is too long the long members go first, and then the eldest."""
    members = [f"long={'x' * 200}", *(f"k{n}={'y' * 90}" for n in range(6))]
    trace = read([GOOD], [",".join(members)])
    assert trace is not None
    assert trace.state == ",".join(members[1:6])
    assert len(trace.state) <= 512


def test_begun() -> None:
    """A call's own span hangs under its caller's, or begins a trace; a try's hangs under the call's."""
    given = read([f"00-{ID}-{SPAN}-00"], ["a=1"])
    own = begun(given, is_sampled=True)
    assert (own.trace_id, own.parent, own.is_sampled, own.state) == (ID, SPAN, True, "a=1")
    assert (own.child().parent, own.child().trace_id) == (own.span_id, ID)
    root = begun(None, is_sampled=False)
    assert (root.parent, root.is_sampled) == ("", False)
    assert read([root.headers()[0][1]]) == Trace(root.trace_id, root.span_id)


@pytest.mark.parametrize(
    "said",
    [
        {"trace_id": ID.upper(), "span_id": SPAN},
        {"trace_id": ID, "span_id": "0" * 16},
        {"trace_id": ID, "span_id": SPAN, "flags": 256},
        {"trace_id": ID, "span_id": SPAN, "state": "a=b\r\nx: y"},
        {"trace_id": ID, "span_id": SPAN, "parent": "nothing"},
    ],
)
def test_decoded(said: dict[str, object]) -> None:
    """What a ticket says of a trace is checked like all else in it."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(said, Trace)


CALL = Call(
    caller=Caller("ann"), lane="standard", arrival=1.0, deadline=2.0, body=b"{}", max_tokens=1, stream=False,
    fingerprint="f" * 64, scope="",
)  # fmt: skip


def test_tickets() -> None:
    """A ticket carries its call's place; one of an earlier version has none, and one that is no place cannot be read."""
    trace = begun(read([GOOD], ["a=1"]), is_sampled=True)
    raw = encode_call(replace(CALL, trace=trace))
    assert decode_call(raw, b"{}", "tkt_1").trace == trace
    assert b"trace" not in encode_call(CALL)
    assert decode_call(encode_call(CALL), b"{}", "tkt_1").trace is None
    with pytest.raises(ValueError, match="not a call"):
        decode_call(raw.replace(trace.trace_id.encode(), b"g" * 32), b"{}", "tkt_1")


def test_says_nothing_of_the_call() -> None:
    """Calls that differ in their places alone are equal."""
    assert replace(CALL, trace=Trace(ID, SPAN)) == CALL
