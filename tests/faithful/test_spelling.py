"""
However JSON is spelled, and whatever is wrong in it, our messages give it back.

The examples of the SDK's shapes are bent (a member more, a null for an object, a wrong type, a number that no machine has) and
spelled in unusual ways. Equal means equal as JSON, and numbers are compared as decimals: 1 is 1.0, but 0.1 is not
0.1000000000000000055.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from faithful.shapes import ANSWERS, MESSAGES, REQUESTS, Root, shapes
from headrace import forms
from headrace.edge import translate
from headrace.forms import exact
from headrace.model import Answer, Form
from headrace.v1 import events_pb2, messages_pb2


class Number(str):
    """A number as it is spelled."""


SPELLINGS = [
    "0", "-0", "-0.0", "1.0", "1.00", "1E5", "1e+05", "-2.5e-3", "0.1000", "0.1000000000000000055511151231257827", "1e400",
    "-1e400", "1e-400", "4.9e-324", "1.7976931348623157e308", "1.7976931348623159e308", "1e99999999999999999999",
    "9007199254740993", "9007199254740993.0", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
    "18446744073709551616", "1" * 300, "1" * 300 + ".5", "1" * 5000,
]  # fmt: skip
DEEP = 150  # lists inside lists

numbers = st.sampled_from(SPELLINGS).map(Number) | st.from_regex(
    r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,4})?", fullmatch=True
).map(Number)
texts = st.text(max_size=6) | st.sampled_from(
    ["\ud83d", "\udc00\ud800", "\U0001f600", "\u2028", '"\\/\b\f\n\r\t', "\x00\x7f", "type"]
)
scalars = st.none() | st.booleans() | numbers | texts
odd = (
    st.recursive(scalars, lambda one: st.lists(one, max_size=2) | st.dictionaries(texts, one, max_size=2), max_leaves=5)
    | st.integers(1, DEEP).map(lambda depth: _nested(depth))
    | st.sampled_from([[], {}, None, ""])
)
names = texts | st.sampled_from(["unheard_of", "extra_json", "other_json", "origin", "blocks", "index", "text", "content"])


def _nested(depth: int) -> Any:
    value: Any = Number("1e400")
    for level in range(depth):
        value = [value] if level % 2 else {"\u00e9": value}
    return value


def spell(value: Any, style: str) -> str:
    """Say a value as JSON: `escaped`, `plain` or `spacious`."""
    gap = "\r\n\t " if style == "spacious" else ""
    if isinstance(value, dict):
        members = (f"{gap}{spell(name, style)}{gap}:{gap}{spell(member, style)}{gap}" for name, member in value.items())
        return "{" + (",".join(members) or gap) + "}"
    if isinstance(value, list):
        return "[" + (",".join(f"{gap}{spell(item, style)}{gap}" for item in value) or gap) + "]"
    if isinstance(value, Number):
        return value
    if isinstance(value, str) and style == "escaped":
        units = value.encode("utf-16-be", "surrogatepass")
        return '"' + "".join(f"\\u{units[at]:02x}{units[at + 1]:02X}" for at in range(0, len(units), 2)) + '"'
    is_whole = isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
    return json.dumps(value, ensure_ascii=not is_whole)


def heard(raw: bytes) -> Any:
    """Read JSON so that == tells values apart exactly."""

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: told(member) for name, member in value.items()}
        if isinstance(value, list):
            return [told(item) for item in value]
        return ("bool", value) if isinstance(value, bool) else value

    def fraction(said: str) -> Any:
        digits, _, exponent = said.lower().partition("e")
        if len(exponent) > 15:
            return ("beyond a Decimal", digits, exponent)
        return ("number", Decimal(said), said.startswith("-"))

    def whole(said: str) -> Any:
        return ("number", Decimal(said), said.startswith("-"))

    return told(json.loads(raw, parse_float=fraction, parse_int=whole))


@st.composite
def bent(draw: st.DrawFn, roots: tuple[Root, ...]) -> tuple[Root, bytes]:
    """An example with a few things wrong in it, in an unusual spelling."""
    root = draw(st.sampled_from(roots))
    value = copy.deepcopy(draw(st.sampled_from(shapes(root))))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        inside, name = places[draw(st.integers(0, len(places) - 1))]
        if isinstance(inside, dict) and draw(st.booleans()):
            name = draw(names)
        inside[name] = draw(odd)
    return root, spell(value, draw(st.sampled_from(["plain", "escaped", "spacious"]))).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value: what it is in, and under which name or number."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in pairs:
        yield value, name
        yield from _places(inner)


thorough = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@thorough
@given(bent((*REQUESTS, *ANSWERS)))
def test_there_and_back(case: tuple[Root, bytes]) -> None:
    """JSON -> message -> wire -> message -> JSON is the identity."""
    root, raw = case
    message = root.message.FromString(translate.read(raw, root.message).SerializeToString())
    assert heard(translate.write(message)) == heard(raw)


@thorough
@given(bent(MESSAGES))
def test_told(case: tuple[Root, bytes]) -> None:
    """A message told as events, and those put together again, is the same; each event too goes through our messages."""
    _, raw = case
    assume(b'"fallback"' not in json.dumps(json.loads(raw, parse_int=str)).encode())  # which renames the model
    try:
        stream = forms.sse_payload(Answer(Form.JSON, raw, 0.0))
    except ValueError:
        assume(False)
    assert heard(forms.json_payload(Answer(Form.EVENTS, stream, 0.0))) == heard(raw)
    for event in forms.split(stream):
        said = translate.read(event.data, events_pb2.StreamEvent)
        assert heard(translate.write(said)) == heard(event.data)


@pytest.mark.parametrize("number", SPELLINGS)
@pytest.mark.parametrize("beside", ['"x"', r'"\ud800"'])
def test_spelled(number: str, beside: str) -> None:
    """Where no field holds it, a number keeps its spelling, whatever it stands beside."""
    raw = b'{"unheard_of":{"n":%b,"s":%b}}' % (number.encode(), beside.encode())
    said = translate.write(translate.read(raw, messages_pb2.Message))
    assert said == raw


@pytest.mark.parametrize("number", SPELLINGS)
@pytest.mark.parametrize("field", ["temperature", "max_tokens"])
def test_typed(number: str, field: str) -> None:
    """A field takes exactly the numbers that it can hold."""
    raw = b'{"%b":%b}' % (field.encode(), number.encode())
    params = translate.read(raw, messages_pb2.MessageParams)
    if params.HasField(field):  # type: ignore[arg-type]
        assert heard(b"%b" % repr(getattr(params, field)).encode()) == heard(number.encode())
    else:
        assert json.loads(params.extra_json, parse_float=str, parse_int=str) == {field: number}


@pytest.mark.parametrize("raw", [rb'["\ud800",1e400,{"a":1.50}]', rb'[["\ud800"],-0.0,"\u00e9"]'])
def test_items(raw: bytes) -> None:
    """Taken apart and put together, an array is what it was, though msgspec refuses what is in it."""
    assert heard(b"[%b]" % b",".join(map(bytes, exact.items(raw)))) == heard(raw)
    assert heard(exact.spell(exact.fields(b'{"\\ud800":%b}' % raw))) == heard(b'{"\\ud800":%b}' % raw)


def test_too_deep() -> None:
    """What is nested deeper than JSON readers go is a ValueError, wherever that shows."""
    for depth in range(900, 1100, 7):
        raw = b'{"s":"\\ud800","content":[{"type":"tool_use","input":%b}]}' % (b"[" * depth + b"]" * depth)
        try:
            said = translate.read(raw, messages_pb2.Message)
        except ValueError:
            continue
        assert said.content[0].tool_use.input.count(b"[") == depth
