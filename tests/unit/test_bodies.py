"""Reading a body: what is refused, what is taken for the same, and what is said of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.bodies.parse import parse
from headrace.bodies.read import read
from headrace.errors import InvalidCall

MESSAGES = [{"role": "user", "content": "hi"}]
GOOD = {"model": "m", "max_tokens": 5, "messages": MESSAGES}


# Doubled names: any JSON, spelled in any way, with one name said twice in one of its objects.

letters = st.sampled_from(["a", '"', ":", "\\", "/", "\u00e9", "\u2028", "\U0001f600", "\n", " ", "\ud800", "\x00"])
texts = st.lists(letters, max_size=5).map("".join) | st.sampled_from(['":', '"":', "model", 'a":', ":"])


@st.composite
def spelled(draw: st.DrawFn, text: str) -> str:
    """A string as JSON, each letter as it is or escaped, wherever both may be."""
    said = []
    for letter in text:
        escaped = json.dumps(letter)[1:-1]
        units = letter.encode("utf-16-be", "surrogatepass")
        by_number = "".join(f"\\u{int.from_bytes(units[at : at + 2], 'big'):04x}" for at in range(0, len(units), 2))
        ways = [escaped, by_number, by_number[:2] + by_number[2:].upper().replace("\\U", "\\u")]
        if letter not in '"\\' and ord(letter) >= 32 and not 0xD800 <= ord(letter) <= 0xDFFF:
            ways.append(letter)
        said.append(draw(st.sampled_from(ways)))
    return f'"{"".join(said)}"'


@st.composite
def written(draw: st.DrawFn, value: Any, doubled: list[str] | None = None) -> str:
    """A value as JSON, with blanks anywhere; into *doubled*, if given, goes the name that one of its objects says twice."""
    blank = draw(st.sampled_from(["", " ", "\n\t"]))
    if isinstance(value, list):
        return f"[{','.join(draw(written(item, doubled)) for item in value)}{blank}]"
    if isinstance(value, dict):
        pairs = list(value.items())
        if pairs and doubled == [] and draw(st.booleans()):
            name = draw(st.sampled_from(list(value)))
            doubled.append(name)
            pairs.insert(draw(st.integers(0, len(pairs))), (name, draw(values)))
        return "{" + ",".join(f"{draw(spelled(n))}{blank}:{blank}{draw(written(v, doubled))}" for n, v in pairs) + "}"
    return draw(spelled(value)) if isinstance(value, str) else json.dumps(value)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, min_size=1, max_size=4)


@given(objects.flatmap(written))
def test_no_doubles(text: str) -> None:
    """An object that says no name twice is read, whatever its strings hold and however they are spelled."""
    body, _ = parse(text.encode())
    assert body == json.loads(text)


@given(st.data(), objects)
def test_doubles(data: st.DataObject, value: dict[str, Any]) -> None:
    """A name that one object says twice, at any depth and in any spelling, is refused."""
    doubled: list[str] = []
    text = data.draw(written(value, doubled))
    if not doubled:
        name = data.draw(st.sampled_from(list(value)))
        text = f"{{{data.draw(spelled(name))}:1,{text[1:]}"
    with pytest.raises(InvalidCall, match="twice"):
        parse(text.encode())


ESCAPES = [r"\u0022:", r"\u0022\u003a", r"\"\u003A", r"\"\u003a", r"\u0022\u003A", r"\\\u0022:", r"\":", r"x\":\u0022:"]


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("place", ["value", "name", "deep", "metadata"])
def test_hidden_doubles(escape: str, place: str) -> None:
    """No escape elsewhere in the body makes up for the name that was lost."""
    for times in range(1, 4):
        said = escape * times
        rest = {
            "value": f'"x":"{said}"',
            "name": f'"{said}":1',
            "deep": f'"x":[[{{"y":"{said}"}}]]',
            "metadata": f'"metadata":{{"user_id":"{said}"}}',
        }[place]
        parse(f'{{"model":"a",{rest}}}'.encode())
        for twice in ('"model":"a","model":"b"', '"model":"a","m\\u006fdel":"b"', '"x1":{"a":1,"\\u0061":2}'):
            with pytest.raises(InvalidCall, match="twice"):
                parse(f"{{{twice},{rest}}}".encode())


@given(st.text(alphabet=st.characters(codec="utf-8")))
@example("null")
def test_null_in_a_prompt(text: str) -> None:
    """A word in a prompt makes no other call of it, nor another way of reading it."""
    said = {**GOOD, "messages": [{"role": "user", "content": text}], "x": None}
    assert read(json.dumps(said).encode(), "messages") == read(json.dumps(said, ensure_ascii=False).encode(), "messages")


# What is no JSON, or odd JSON.


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "must be a JSON object, not a list"),
        (b"-1", "must be a JSON object, not -1"),
        (b"1e400", "must be a JSON object, not a number of that size"),
        (b"null", "must be a JSON object, not null"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":-Infinity}', "not valid JSON"),
        (b'{"a":"\xff"}', "not valid UTF-8 at byte 6"),
        (b'{"a":"\xed\xa0\x80"}', "not valid UTF-8"),
        ('{"a":1}'.encode("utf-16"), "not valid"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_no_json(raw: bytes, why: str) -> None:
    """What is wrong is said, and nothing of what was sent."""
    with pytest.raises(InvalidCall, match=why):
        parse(raw)


@pytest.mark.parametrize(
    "raw", [b'\xef\xbb\xbf{"a":1}', b'{"a":1e400}', b'{"a":"\\ud800"}', b'{"\\ud800":1}', b'{"a":%d}' % 10**400]
)
def test_odd_json(raw: bytes) -> None:
    """A mark, numbers past every range and half characters are JSON, and upstream's to judge; doubled names are not."""
    parse(raw)
    with pytest.raises(InvalidCall, match="twice"):
        parse(raw.replace(b"}", b',"b":1,"b":2}'))


# What it asks.


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (-1, "not -1"),
        (5.0, "not 5.0"),
        (1e300, "not 1e+300"),
        (10**15 - 1, ""),
        (2**53, "not 9007199254740992"),
        (10**30, "not a number of so many digits"),
        (-(10**30), "not a number of so many digits"),
        (True, "not a boolean"),
        ("5", "not a string"),
        (None, "not null"),
        ([], "and is empty"),
        ({}, "not an object"),
        ([1], "not a list"),
    ],
)
def test_max_tokens(value: object, why: str) -> None:
    """What is no count is named for what it is: of a number there is nothing to hide."""
    raw = json.dumps(GOOD | {"max_tokens": value}).encode()
    if not why:
        assert read(raw, "messages").max_tokens == value
        return
    with pytest.raises(InvalidCall) as refused:
        read(raw, "messages")
    assert refused.value.message == f"max_tokens: must be an integer, 0 or more, {why}"
    assert refused.value.metadata == {"field": "max_tokens"}


OPTIONAL = [
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "stream_options",
    "tools",
    "tool_choice",
    "temperature",
    "n",
    "stop",
]


@pytest.mark.parametrize("field", OPTIONAL)
def test_null_in_a_chat(field: str) -> None:
    """In the chat dialect null for an optional field is absence: the very same call."""
    chat = {"model": "m", "messages": MESSAGES}
    assert read(json.dumps(chat | {field: None}).encode(), "chat") == read(json.dumps(chat).encode(), "chat")


def test_null_beside_a_value() -> None:
    """Of two names for one bound, the one that is not null counts; and no stream is no stream."""
    chat = {"model": "m", "messages": MESSAGES}
    assert read(json.dumps(chat | {"max_completion_tokens": None, "max_tokens": 7}).encode(), "chat").max_tokens == 7
    assert read(json.dumps(chat | {"max_tokens": 7, "max_completion_tokens": 9}).encode(), "chat").max_tokens == 9
    assert read(json.dumps(chat | {"stream": False}).encode(), "chat") == read(json.dumps(chat).encode(), "chat")
    assert read(json.dumps(chat | {"stream": True}).encode(), "chat").stream
    inner = {"messages": [{"role": "assistant", "content": None, "tool_calls": None}]}
    assert read(json.dumps(chat | inner).encode(), "chat").no_keep == ""


@pytest.mark.parametrize("field", ["model", "messages"])
def test_null_for_what_must_be(field: str) -> None:
    """What is not optional is not there if it is null; the Messages API takes no null for a flag, either."""
    with pytest.raises(InvalidCall, match="not null"):
        read(json.dumps(GOOD | {field: None}).encode(), "chat")
    with pytest.raises(InvalidCall, match="stream: must be true or false, not null"):
        read(json.dumps(GOOD | {"stream": None}).encode(), "messages")
