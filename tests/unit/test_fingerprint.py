"""The fingerprint: equal for what is the same call, different for any change that could change the answer."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from headrace.cache.fingerprint import canonical, essence, fingerprint
from headrace.errors import InvalidCall

BODY = {
    "model": "claude-x",
    "max_tokens": 10,
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    "temperature": 1.0,
    "tools": [{"name": "t", "input_schema": {"type": "object", "properties": {}}}],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "system": "Be brief.",
    "a_field_of_tomorrow": [1, 2],
}

PARTS = {"scope": "me", "path": "/v1/messages", "version": "2023-06-01", "betas": ("a",), "headers": (), "body": BODY}

texts = st.text(st.characters(codec=None), max_size=8)  # lone surrogates too
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
bodies = st.dictionaries(texts, values, max_size=5)


def of(**changed):
    parts = {**PARTS, **changed}
    body, endpoint = parts.pop("body"), parts.pop("endpoint", "messages")
    return fingerprint(**parts, essence=essence(body, endpoint))


def exact(value):
    """A form of a JSON value that two values share only if they are the same, the order of names included."""
    if isinstance(value, dict):
        return [(name, exact(item)) for name, item in value.items()]
    if isinstance(value, list):
        return [exact(item) for item in value]
    return type(value).__name__, repr(value)


@given(bodies)
def test_top_order(body):
    """At the top level the order of names says nothing."""
    assert of(body=body) == of(body=dict(reversed(body.items())))


@given(bodies, st.data())
def test_any_field_counts(body, data):
    """Another value under any name, known to us or not, is another call; so is one field more."""
    name = data.draw(texts.filter(lambda name: name not in ("stream", "metadata")))
    value = data.draw(values)
    changed = {**body, name: value}
    assume(name not in body or exact(value) != exact(body[name]))

    assert of(body=changed) != of(body=body)


@given(st.sampled_from(sorted(BODY)), values)
def test_each_known_field(name, value):
    """Each field of a real call counts, and its absence too."""
    assume(exact(value) != exact(BODY[name]))

    without = {key: kept for key, kept in BODY.items() if key != name}

    assert len({of(), of(body={**BODY, name: value}), of(body=without)}) == 3


@given(values, values)
def test_canonical_tells_apart(one, other):
    """Two values share a canonical text only if they are the same value."""
    assume(exact(one) != exact(other))

    assert canonical(one) != canonical(other)


@pytest.mark.parametrize("field", ["stream", "metadata"])
def test_what_does_not_count(field):
    """The form of the answer and a user id change no answer, but only at the top level."""
    assert of(body={**BODY, field: {"user_id": "u"}}) == of()
    deep = {**BODY, "tools": [{"name": "t", field: True}]}
    assert of(body=deep) != of(body={**BODY, "tools": [{"name": "t"}]})


@pytest.mark.parametrize(
    "changed",
    [
        {"scope": "you"},
        {"scope": ""},
        {"path": "/v1/messages?beta=true"},
        {"version": "2026-10-21"},
        {"betas": ("a", "b")},
        {"betas": ()},
        {"headers": (("anthropic-workspace-id", "w"),)},
    ],
)
def test_each_part(changed):
    """Scope, path, version, betas and headers each split the cache."""
    assert of(**changed) != of()


def test_headers():
    """Names are compared without case, order says nothing, and what is known to be harmless is left out."""
    one, other = ("Anthropic-A", "1"), ("anthropic-b", "2")
    assert of(headers=(one, other)) == of(headers=(other, ("anthropic-a", "1")))
    assert of(headers=(("anthropic-dangerous-direct-browser-access", "true"),)) == of()


def test_betas():
    """Neither the order nor a repeat of a beta says anything."""
    assert of(betas=("b", "a", "b")) == of(betas=("a", "b"))


def test_parts_do_not_run_together():
    """What moves from one part to the next is another call."""
    assert of(scope="a", path="b/c") != of(scope="ab", path="/c")
    assert of(betas=("a,b",)) != of(betas=("a", "b"))
    assert of(headers=(("x", "y"),), betas=()) != of(headers=(), betas=("x", "y"))


def test_odd_json():
    """Half a character, numbers of any size and NaN have a fingerprint each."""
    odd = [
        json.loads(text) for text in ('"\\ud800"', "NaN", "Infinity", "1e999", "-1e999", "null", "9" * 400, "1", "1.0", "true")
    ]

    assert len({of(body={"x": value}) for value in odd}) == 9  # 1e999 is Infinity


def test_deep():
    """Nesting beyond what can be walked is the caller's fault, not a crash."""
    deep = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(InvalidCall):
        of(body={"x": deep})


def test_stays_the_same():
    """The fingerprint is a format: entries on disk and in Redis are found by it. Change it only with FORMAT."""
    assert of() == "372dd519502415bff73d3a76ce527d906895a1e20051e51bc032e0b46b609817"
