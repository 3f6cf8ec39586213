"""Large bodies are read piece by piece, and nobody can tell: not by what is known of them, nor by what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.bodies import pieces as of
from headrace.bodies.parse import parse
from headrace.bodies.pieces import pieces
from headrace.cache.fingerprint import essence
from headrace.cache.policy import no_keep_call
from headrace.endpoints import CHAT, COUNT_TOKENS, MESSAGES
from headrace.errors import InvalidCall
from headrace.resources.ids import asked_in

FILE = "file_011CNha8iCJcU1wXNR6q4V8w"
ENDPOINTS = (MESSAGES.name, CHAT.name, COUNT_TOKENS.name)

TEXTS = st.text(max_size=30) | st.sampled_from(
    ['},{"a":', '","', "null", "\\", '"', "é\n" * 20, "\U0001f600" * 9, "file_1", "url", FILE]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
BLOCKS = st.deferred(
    lambda: (
        st.builds(lambda text, more: {"text": text, "type": "text", **more}, TEXTS, st.dictionaries(TEXTS, VALUES, max_size=2))
        | st.builds(
            lambda content: {"type": "tool_result", "tool_use_id": "t", "content": content}, st.lists(BLOCKS, max_size=3)
        )
        | st.builds(lambda kind, file: {"type": "document", "source": {"type": kind, "file_id": file}}, TEXTS, TEXTS)
        | st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, TEXTS)
        | st.builds(lambda blank: {"type": "tool_use", "input": blank, "id": "x", "name": "n"}, VALUES)
        | st.builds(lambda file: {"type": "container_upload", "file_id": file}, TEXTS)
    )
)
VALUES = st.deferred(
    lambda: SCALARS | st.lists(VALUES | BLOCKS, max_size=6) | st.dictionaries(TEXTS, VALUES | BLOCKS, max_size=6) | BLOCKS
)
MESSAGES_OF = st.lists(
    st.builds(lambda content: {"role": "user", "content": content}, TEXTS | st.lists(BLOCKS | VALUES, max_size=4)) | VALUES,
    max_size=5,
)
BODIES = st.builds(
    lambda more, messages, order: dict(order.sample(list((m := {**more, "messages": messages}).items()), len(m))),
    st.dictionaries(
        TEXTS | st.sampled_from(["model", "metadata", "stream", "system", "tools", "container", "thread", "max_tokens"]),
        VALUES | st.lists(BLOCKS),
        max_size=6,
    ),
    MESSAGES_OF,
    st.randoms(use_true_random=False),
)


Known = tuple[bytes, bool, set[str]]


def whole(raw: bytes, endpoint: str) -> Known:
    body, is_finite = parse(raw)
    return essence(body, endpoint, is_finite=is_finite), bool(no_keep_call(body)), set(asked_in(body))


def piecewise(raw: bytes, endpoint: str, piece_bytes: int) -> Known:
    said = pieces(raw, endpoint, piece_bytes)
    return said.essence, bool(said.no_keep), set(said.ids)


def is_as_strict(known: Known, other: Known) -> bool:
    """
    Whether it is the same call, and nothing that the other names is missed; what only looks like an id may be one more.

    Of what is not like one a piece that is smaller than the object that it stands in does not tell.
    """
    return known[0] == other[0] and known[1] >= other[1] and known[2] >= other[2] & {FILE}


@settings(max_examples=400, deadline=None)
@given(BODIES, st.sampled_from(ENDPOINTS), st.integers(4, 200), st.booleans(), st.sampled_from([None, 1]), st.randoms())
def test_same(body: dict[str, Any], endpoint: str, piece: int, is_ascii: bool, indent: int | None, odd: random.Random) -> None:
    """The fingerprint, whether it is kept and the ids are those of the whole, however it is spelled and wherever it is cut."""
    raw = json.dumps(body, ensure_ascii=is_ascii, indent=indent).encode("utf-8", "surrogatepass")
    if odd.random() < 0.2:
        raw = b"\xef\xbb\xbf" + raw
    if odd.random() < 0.2:
        raw = (
            raw[:-1]
            + b"," * (len(body) > 0)
            + odd.choice([b'"an odd one":1e999}', b'"an odd one":"\\ud800 null"}', b'"an odd one":123456789012345678901234}'])
        )
    known = whole(raw, endpoint)
    assert is_as_strict(piecewise(raw, endpoint, piece), known)
    assert piecewise(raw, endpoint, of.PIECE_BYTES)[2] >= known[2]


@settings(max_examples=200, deadline=None)
@given(
    BODIES,
    st.integers(4, 100),
    st.integers(0, 10_000),
    st.sampled_from([b"", b",", b"]", b"}", b'"', b"\\", b"\xff", b"[", b"7"]),
)
def test_same_refusals(body: dict[str, Any], piece: int, at: int, put: bytes) -> None:
    """What is refused whole is refused in pieces, and nothing else."""
    raw = json.dumps(body).encode()
    at %= len(raw)
    raw = raw[:at] + put + raw[at + 1 :]
    try:
        known = whole(raw, MESSAGES.name)
    except InvalidCall:
        with pytest.raises(InvalidCall):
            piecewise(raw, MESSAGES.name, piece)
    else:
        assert is_as_strict(piecewise(raw, MESSAGES.name, piece), known)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"b":[2,2,2,2,2,2,2,2],"a":3}',
        b'{"x":{"a":1,"b":[2,2,2,2,2,2,2,2],"c":[2,2,2,2,2,2],"a":3}}',
        b'{"messages":[{"role":"user","content":[1,1,1,1,1,1,1,1],"role":"user"}]}',
        b'{"x":[[[{"a":1,"b":"bbbbbbbbbbbbbbbbbb","\\u0061":2}]]]}',
        b'{"metadata":{"a":"aaaaaaaaaaaaaaaa","a":"aaaaaaaaaaaaaa"}}',
    ],
)
def test_doubles(raw: bytes) -> None:
    """A name that stands twice is found, whichever pieces the two are in."""
    with pytest.raises(InvalidCall, match="twice"):
        pieces(raw, MESSAGES.name, 8)


@pytest.mark.parametrize(
    "body",
    [
        {"vaults_of_2027": [[0] * 99, {"a": {"b": ["x" * 99, FILE]}}]},
        {"vaults_of_2027": {"a": 1, **{f"k{number}": number for number in range(99)}, "id": FILE}},
        {"messages": [{"role": "user", "content": [{"type": "of_2027", "file_ids": ["x" * 9] * 99 + [FILE]}]}]},
        {"messages": [{"role": "user", "content": [{"type": "of_2027", "more": {"a": "a" * 99, "file_id": FILE}}]}]},
        {"tools": [{"type": "of_2027", "description": "d" * 99, "stores": {"a": ["x" * 9] * 99, "b": [FILE]}}]},
        {"container": {"id": "c", "skills": [{"type": "custom", "skill_id": FILE, "more": "m" * 99}] * 9}},
    ],
)
@pytest.mark.parametrize("spell", [str, lambda text: text.replace("file_", "file\\u005f")], ids=["plain", "escaped"])
def test_ids_in_giants(body: dict[str, Any], spell: Callable[[str], str]) -> None:
    """What is named in parameters, blocks and tools that nobody knows is found in whatever piece it is, and however spelled."""
    raw = spell(json.dumps(body)).encode()
    assert FILE in piecewise(raw, MESSAGES.name, 40)[2]


def test_giants_in_giants() -> None:
    """What would have to be looked through again and again is refused."""
    deep = b'{"x":' + b"[" * 300 + b"1," * 1000 + b"1" + b"]" * 300 + b"}"
    with pytest.raises(MemoryError):
        pieces(deep, MESSAGES.name, 64)


def test_many_names() -> None:
    """As is an object of the API's own with more names than any has; in one that is a caller's own there may be any number."""
    names = {f"k{number}": number for number in range(of._MOST_NAMES + 1)}
    with pytest.raises(MemoryError):
        pieces(json.dumps(names).encode(), MESSAGES.name)
    raw = json.dumps({"x": names}).encode()
    assert piecewise(raw, MESSAGES.name, of.PIECE_BYTES) == whole(raw, MESSAGES.name)
