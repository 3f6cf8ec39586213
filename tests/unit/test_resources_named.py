"""What looks like an id and is none: names that callers give, dates, digits of numbers; and what is asked of whom."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest

from headrace.edge import visits
from headrace.errors import NotAllowed, ResourceNotFound
from headrace.model import Headers
from headrace.owner import Owner
from headrace.resources.guard import Guard, Visit
from headrace.resources.ids import asked_in
from headrace.resources.places import place_of
from headrace.resources.scan import Calls, Scan, Words

HERS, NOBODYS = "file_011CNha8iCJcU1wXNR6q4V8w", "msgbatch_011CNha8iCJcU1wXNR6q4V8w"


class Known:
    """The owners of things, by heart, and what was asked."""

    def __init__(self, **owners: str) -> None:
        self.owners, self.asked = owners, []

    async def of(self, things: Iterable[str]) -> dict[str, str]:
        """Return the owners of those that have one."""
        self.asked += (asked := list(things))
        return {thing: self.owners[thing] for thing in asked if thing in self.owners}

    async def ready(self) -> None:
        """Redis is here."""


def guarded(**owners: str) -> tuple[Guard, Known]:
    known = Known(**owners)
    return Guard(known, is_on=True), known  # type: ignore[arg-type]  # it has all that is asked


def visiting(guard: Guard, path: str) -> Visit:
    return Visit(guard, Owner("bob"), "POST", place_of(path))


def scanned(scan: Scan, raw: bytes, piece: int) -> set[str]:
    found = [thing for at in range(0, len(raw), piece) for thing in scan.feed(raw[at : at + piece])]
    return {*found, *scan.end()}


@pytest.mark.parametrize("piece", [1, 7, 64, 771, 65_536])
def test_names_at_seams(piece: int) -> None:
    """What a batch's caller has named is its own name, whatever seam lies between a name and what it names."""
    chance = random.Random(9)
    calls = [
        {
            "custom_id": "file_" + hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest(),
            "params": {"x": "y" * chance.randrange(1, 900), "file_id": f"file_{number:024}"},
        }
        for number in range(40 if piece < 64 else 2_000)
    ]
    raw = json.dumps({"requests": calls}).encode()
    assert scanned(Calls(), raw, piece) == {each["params"]["file_id"] for each in calls}


def in_tools(**said: Any) -> dict[str, Any]:
    return {"tools": [{"name": "f", "input_schema": {"type": "object"}, **said}]}


@pytest.mark.parametrize(
    "body",
    [
        in_tools(allowed_callers=["direct", "code_execution_20250825"]),
        in_tools(type="mcp_toolset", exclude_tools=["file_converter2"], allowed_tools=["file_get_contents2"]),
        {"mcp_servers": [{"type": "url", "url": "https://x", "name": "file_gateway-v2"}]},
        {"messages": [{"role": "user", "content": [{"type": "x", "lines": ["file_handle-v12", "thread_abc12345"]}]}]},
        {"conversation": "thread_abc123def456ghi789jkl"},
    ],
)
def test_names_in_messages(body: dict[str, Any]) -> None:
    """Names of tools, servers and conversations are nobody's things, and Redis is not asked about them."""
    assert asked_in(body) == ()


@pytest.mark.parametrize("thing", [HERS, NOBODYS, "agent_011CNha8iCJcU1wXNR6q4V8w", "memory_store_01ab2345"])
def test_ids_in_messages(thing: str) -> None:
    """What is as long as upstream makes it, or tells no kind, is asked about wherever it stands."""
    for body in (in_tools(allowed_callers=[thing]), {"mcp_servers": [{"name": thing}]}, {"x": thing}):
        assert asked_in(body) == (thing,)


async def test_headers_that_stay() -> None:
    """A header that does not go upstream names nothing there: nobody asks Redis about it, where others could see it."""
    guard, known = guarded(**{HERS: "ann"})
    said: Headers = (
        ("x-headrace-labels", f"job={HERS}"), ("cookie", "session=0123456789abcdef0123"), ("referer", "https://a.example/0123456789ab"),
        ("host", "gateway.example.internal"), ("via", "1.1 some.proxy-of-theirs"), ("x-request-id", HERS),
        ("x-stainless-lang", HERS),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "vendor=00f067aa0ba902b7"),
    )  # fmt: skip
    await visiting(guard, "/v1/sessions").enter(said, visits.onward(said))
    assert known.asked == []
    with pytest.raises(ResourceNotFound):
        await visiting(guard, "/v1/sessions").enter(said, (("x-file", HERS),))


async def test_nobodys_in_places_unknown() -> None:
    """In a header or a query only what is known to be another's is refused; in a body what is nobody's, too."""
    guard, _ = guarded(**{HERS: "ann"})
    for header, query in ((NOBODYS, NOBODYS), ("thread_abc123def456ghi789jkl", "")):
        place = place_of("/v1/sessions")
        await Visit(guard, Owner("bob"), "POST", place, f"q={query}").enter((), (("x-conversation", header),))
    with pytest.raises(ResourceNotFound):
        await guard.check("bob", [NOBODYS], are_ids=False)
    await guard.check("bob", ["thread_abc123def456ghi789jkl"], are_ids=False)
    for conversation in ("thread_abc123def456ghi789jkl", "thread_msg_011CNha8iCJcU1wXNR6q4V8w"):
        with pytest.raises(ResourceNotFound):
            await guard.check("bob", [conversation])


def test_numbers() -> None:
    """The digits of a number are no id; what stands behind a point otherwise may be one."""
    numbers = b"[0.0123456789012345678,-1.2345678901234567e-08, 12.01234567890123456789E+3]"
    assert scanned(Words(), numbers, 4096) == set()
    for word in (HERS, "0123456789abcdef0123", "0123456789012345678x"):
        assert scanned(Words(), f"5.{word}.json".encode(), 4096) == {word}


async def heard(guard: Guard, chunks: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Return what came of an answer, each with how many chunks had been there by then."""
    given = 0

    async def said() -> AsyncIterator[bytes]:
        nonlocal given
        for chunk in chunks:
            given += 1
            yield chunk

    return [(given, chunk) async for chunk in visiting(guard, "/v1/embeddings").hearing(said(), ())]


async def test_many_numbers() -> None:
    """Embeddings are answered, and Redis hears nothing of them; nor is there a bound of what an answer may tell of."""
    guard, known = guarded()
    chance = random.Random(7)
    raw = json.dumps({"data": [{"embedding": [chance.uniform(-1, 1) for _ in range(30_000)]}]}).encode()
    assert b"".join(chunk for _, chunk in await heard(guard, [raw])) == raw
    assert known.asked == []
    raw = json.dumps([f"item_{number:024}" for number in range(12_000)]).encode()
    assert b"".join(chunk for _, chunk in await heard(guard, [raw])) == raw


async def test_streams_at_once() -> None:
    """Each event of such an answer is given when it comes; of an id that has begun nothing is, until it is whole."""
    guard, _ = guarded(**{HERS: "ann"})
    events = [b"data: 1\n\n", b"data: 2\n\n"]
    assert await heard(guard, events) == [(1, events[0]), (2, events[1])]
    own = [b"data: ", *(bytes([sign]) for sign in NOBODYS.encode()), b"\n\n"]
    assert await heard(guard, own) == [(1, b"data: "), (len(own), NOBODYS.encode() + b"\n\n")]
    came = visiting(guard, "/v1/search").hearing(_each(HERS.encode() + b"\n"), ())
    with pytest.raises(NotAllowed):
        await anext(came)


async def _each(text: bytes) -> AsyncIterator[bytes]:
    for sign in text:
        yield bytes([sign])
