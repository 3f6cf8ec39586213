"""What paths are about, the ids in bodies and answers, and lists with only one's own in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidCall
from headrace.resources.ids import MOST, asked_in, is_id, made_in
from headrace.resources.listing import Listing
from headrace.resources.places import KINDS, UNKNOWN, Place, kind_of_id, place_of
from headrace.resources.scan import Calls, Scan

FILE, AGENT = "file_011CNha8iCJcU1wXNR6q4V8w", "agent_011CZkYqphY8vELVzwCUpqiQ"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/v1/files", Place("files")),
        ("/v1/files/", Place("files")),
        ("/v1/files/file_1", Place("files", "file_1")),
        ("/v1/files/file_1/content", Place("files", "file_1", "/content")),
        ("/v1/messages/batches", Place("messages/batches")),
        ("/v1/messages/batches/b/results/", Place("messages/batches", "b", "/results")),
        ("/v1/messages/batchesx", Place("messages", "batchesx")),
        ("/v1/messages", Place("messages")),
        ("/v1/skills/s/versions/1/content", Place("skills", "s", "/versions/1/content")),
        ("/v1/FILES;a=b/file_1", Place("files", "file_1")),
        ("/v1/Messages;a/batches;b=c/m", Place("messages/batches", "m")),
        ("/v1/New;a/n", Place("New;a", "n")),
        ("/v1/new", Place("new")),
        ("/v1/new/n", Place("new", "n")),
        ("/v1", Place("")),
    ],
)
def test_places(path: str, place: Place) -> None:
    """A path is about a collection, a thing in it, or something below that."""
    assert place_of(path) == place


def test_kinds() -> None:
    """Ids tell their kind by their prefix, or not at all."""
    assert kind_of_id(FILE) is KINDS["files"]
    assert kind_of_id("msgbatch_1") is KINDS["messages/batches"]
    for text in ("", "file", "file-1", "_1", "profile_1", AGENT):
        assert kind_of_id(text) is None
    assert place_of("/v1/new").kind is UNKNOWN
    assert not is_id("a b")
    assert not is_id("")
    assert not is_id("x" * 129)
    assert not is_id("a\n")


def test_ids_in_answers() -> None:
    """What upstream says of itself counts; what the model says, tools' inputs and texts, does not."""
    run = {"type": "bash_code_execution_tool_result", "content": {"content": [{"type": "x", "file_id": "file_a"}]}}
    spoken = [
        {"type": "tool_use", "input": {"file_id": "file_b", "container": {"id": "container_b"}}},
        {"type": "text", "text": '{"container": {"id": "container_c"}, "file_id": "file_c"}'},
        {"type": "mcp_tool_result", "content": [{"file_id": "file_d"}]},
        {"type": "web_fetch_tool_result", "content": {"file_id": "file_e"}},
    ]
    message = {"content": [run, *spoken], "container": {"id": "container_a"}}
    assert made_in(json.dumps(message).encode()) == ("container_a", "file_a")
    assert made_in(json.dumps({"type": "message_start", "message": message}).encode()) == ("container_a", "file_a")
    assert made_in(json.dumps({"type": "message_delta", "delta": {"container": {"id": "c"}}}).encode()) == ("c",)
    assert made_in(json.dumps({"type": "content_block_start", "content_block": run}).encode()) == ("file_a",)
    for nothing in (b"", b"{", b"[1]", b'{"container": "c"}', b'{"container": null, "content": "file_id"}', b"container"):
        assert made_in(nothing) == ()


JSONS = st.recursive(
    st.none() | st.booleans() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["container", "messages", "content", "source", "file", "file_id", "skills", "system", "type", "id"]),
        inner, max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["container", "messages", "system", "content", "message", "delta"]), JSONS))
def test_any_shape(body: dict[str, Any]) -> None:
    """Bodies and answers of any shape are read, and only texts come out of them."""
    for found in (asked_in(body), made_in(json.dumps(body | {"file_id": 1}).encode())):
        assert all(isinstance(text, str) for text in found)


def _spell(text: str, how: list[bool]) -> str:
    return "".join(f"\\u{ord(sign):04x}" if escaped else sign for sign, escaped in zip(text, how, strict=True))


@given(st.data(), st.booleans())
def test_scan(data: st.DataObject, is_of_calls: bool) -> None:
    """An id is found however it is spelled and wherever the body is cut, and texts that hold one are not."""
    how = data.draw(st.lists(st.booleans(), min_size=len(FILE), max_size=len(FILE)))
    spaces = " " * data.draw(st.sampled_from([0, 1, 3000]))
    raw = (
        f'{{"a": "say \\"{FILE[:-1]}x\\" {FILE[:-1]}y", "toolu": "toolu_011CNha8iCJcU1wXNR6q4V8w", '
        f'"custom_id": "file_invoice_2026_001",'
        f' "k":{spaces}"{_spell(FILE, how)}"{spaces}, "agent": "{AGENT}"}}'
    ).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    scan, found = (Calls() if is_of_calls else Scan()), []
    for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += scan.feed(raw[begin:end])
    assert found == [FILE, AGENT]


def test_scan_refuses() -> None:
    """What is no JSON in UTF-8, where ids could not be seen, is refused, and so are bodies that name too much."""
    with pytest.raises(InvalidCall):
        Calls().feed('{"file_id": "x"}'.encode("utf-16-le"))
    with pytest.raises(InvalidCall):
        Calls().feed(b",".join(b'"file_%024d"' % number for number in range(10_001)))


def pages(own: list[bool], target: str, page: int = 0) -> tuple[dict[str, Any], int]:
    """Walk a list of things, some of them one's own, as upstream would show it; return the page and how many were asked for."""
    ids, listing, count = [f"f{number}" for number in range(len(own))], Listing(target, page), 0
    while listing.target:
        count += 1
        query = dict(pair.split("=") for pair in listing.target.partition("?")[2].split("&") if pair)
        size = min(int(query.get("limit", 20)), 7 if count > 1 else 1000)  # upstream may give fewer than were asked for
        if "before_id" in query:
            last = ids.index(query["before_id"])
            first = max(0, last - size)
            more = first > 0
        else:
            first = ids.index(query["after_id"]) + 1 if "after_id" in query else 0
            last = min(first + size, len(ids))
            more = last < len(ids)
        shown = [{"id": name, "n": 1.50} for name in ids[first:last]]
        ends = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
        said = {"data": shown, "has_more": more, "first_id": ends[0], "last_id": ends[1]}
        items = listing.take(json.dumps(said).encode())
        listing.keep(items, lambda name, item: own[int(name[1:])])
    return json.loads(listing.body()), count


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 9), st.sampled_from([0, 1000]), st.data())
def test_listing(own: list[bool], limit: int, most: int, data: st.DataObject) -> None:
    """A page is what it would be if there were no others, forth and back."""
    mine = [f"f{number}" for number, is_own in enumerate(own) if is_own]
    cursor = data.draw(st.sampled_from(["", *([f"after_id={name}" for name in mine] + [f"before_id={name}" for name in mine])]))
    page, _ = pages(own, f"/v1/files?{'&'.join(filter(None, (f'limit={limit}', cursor)))}", most)
    way, _, at = cursor.partition("=")
    if way == "before_id":
        before = mine[: mine.index(at)]
        expected, more = before[-limit:], len(before) > limit
    else:
        after = mine[mine.index(at) + 1 :] if at else mine
        expected, more = after[:limit], len(after) > limit
    ends = (expected[0], expected[-1]) if expected else (None, None)
    assert page == {
        "data": [{"id": name, "n": 1.5} for name in expected], "has_more": more, "first_id": ends[0], "last_id": ends[1],
    }  # fmt: skip


def test_a_long_way() -> None:
    """Nobody has upstream asked without end; who asks on comes further."""
    page, count = pages([False] * 1000 + [True], "/v1/files?limit=1")
    assert count == 50
    assert page["has_more"] is True
    assert page["data"] == []
    assert page["last_id"] is not None
    further, _ = pages([False] * 1000 + [True], f"/v1/files?limit=1&after_id={page['last_id']}")
    assert further["has_more"] is True


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"data": 5}', b'{"data": [5]}', b'{"data": [{"n": "x"}]}', b'{"total": 5}']
)
def test_no_list(body: bytes) -> None:
    """What is no list of things with ids is none that could be filtered."""
    with pytest.raises(ValueError, match="no page"):
        Listing("/v1/x").take(body)


def test_too_many() -> None:
    """A body that names things without end is read no further than that is known."""
    content = [{"type": "document", "source": {"type": "file", "file_id": f"file_{number}"}} for number in range(20_000)]
    assert len(asked_in({"messages": [{"role": "user", "content": content}]})) == MOST + 1
