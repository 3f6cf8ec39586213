"""What was asked and said, as bytes: the same comes back, older bytes are read, and nothing else is taken for it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import codec, errors
from headrace.model import Answer, Event, Form, Usage
from headrace.upstream.remarks import remarks

# As the doors may hold them: each byte a character, or as UTF-8 with PEP 383's halves of characters for what is none.
values = st.binary(max_size=20).map(lambda raw: raw.decode("latin-1")) | st.binary(max_size=20).map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)
headers = st.lists(st.tuples(st.text("abc-", min_size=1, max_size=5), values), max_size=4).map(tuple)
answers = st.builds(
    Answer,
    form=st.sampled_from(Form),
    payload=st.binary(max_size=300),
    created=st.floats(min_value=0, max_value=1e12),
    usage=st.builds(Usage, *[st.integers(0, 10**9)] * 4, known=st.booleans()),
    request_id=st.text(max_size=10),
    no_keep=st.text(max_size=10),
    is_kept=st.booleans(),
    headers=headers,
)


@given(answers)
def test_answer(answer: Answer) -> None:
    """An answer comes back as it was, to the byte."""
    assert codec.decode_answer(codec.encode_answer(answer)) == answer


@given(st.text(max_size=10), st.binary(max_size=50), st.binary(max_size=50), st.integers(0, 99), headers)
def test_event(name: str, data: bytes, raw: bytes, attempts: int, said: tuple[tuple[str, str], ...]) -> None:
    """So does an event, with what is known of its flight."""
    event = Event(name, data, raw)
    came, head = codec.decode_event(codec.encode_event(event, attempts=attempts, request_id="req_1", headers=said))
    assert came == event
    assert (head.attempts, head.request_id, head.headers) == (attempts, "req_1", said)


@given(st.binary(max_size=50), headers)
def test_error(body: bytes, said: tuple[tuple[str, str], ...]) -> None:
    """So does upstream's error, as the class it was."""
    error = errors.OutOfTime("m", status=529, type="overloaded_error", body=body, headers=said, retry_after_s=2.5)
    came = codec.decode_error(codec.encode_error(error))
    assert type(came) is errors.OutOfTime
    assert vars(came) == vars(error)


@pytest.mark.parametrize("kind", [errors.BudgetExhausted, errors.DeadlinePassed, errors.HeadraceError])
def test_own_error(kind: type[errors.HeadraceError]) -> None:
    """So does one of ours; a class that a newer version has comes back as the root's."""
    error = kind("m", retry_after_s=1.0, metadata={"a": "b"})
    raw = codec.encode_error(error)
    assert vars(codec.decode_error(raw)) == vars(error)
    assert type(codec.decode_error(raw)) is kind
    assert type(codec.decode_error(raw.replace(kind.__name__.encode(), b"Unheard"))) is errors.HeadraceError


def test_usage_by_tier() -> None:
    """What prices need to know of an answer's usage comes back with it."""
    answer = Answer(Form.JSON, b"{}", 1.5, Usage(1, 2, 3, 4, True, 2, "priority"))
    assert codec.decode_answer(codec.encode_answer(answer)) == answer


def test_older_bytes() -> None:
    """What a version wrote that knew of no headers is read: a ticket outlives an upgrade."""
    head = {"form": "json", "created": 1.5, "request_id": "req_1", "no_keep": "", "usage": [1, 2, 3, 4, True]}
    raw = json.dumps(head, separators=(",", ":")).encode() + b'\n{"a":\n1}'
    assert codec.decode_answer(raw) == Answer(Form.JSON, b'{"a":\n1}', 1.5, Usage(1, 2, 3, 4), "req_1")


def test_newer_bytes() -> None:
    """What a newer version adds is skipped; what it says is spelled in another way is refused."""
    raw = codec.encode_answer(Answer(Form.JSON, b"{}", 1.5))
    assert codec.decode_answer(raw.replace(b"{", b'{"novelty":[1],', 1)) == Answer(Form.JSON, b"{}", 1.5)
    with pytest.raises(ValueError, match="another version"):
        codec.decode_answer(raw.replace(b'"version":1', b'"version":2'))


@given(st.binary(max_size=60) | st.sampled_from([b"{}", b"{}\n", b"null\n", b'{"form":"x"}\n', b'{"class":7}\n']))
def test_garbage(raw: bytes) -> None:
    """Anything else is a ValueError, and no other."""
    for decode in (codec.decode_answer, codec.decode_event, codec.decode_error):
        try:
            decode(raw)
        except ValueError:
            continue
        assert decode is codec.decode_error  # whose fields all have defaults
        assert raw.partition(b"\n")[0].strip().startswith(b"{")


# What is kept beside an answer.


@pytest.mark.parametrize(
    "name",
    [
        "anthropic-organization-id", "anthropic-priority-input-tokens-limit", "anthropic-fast-tokens-remaining", "x-request-id",
        "openai-version", "cf-ray", "x-robots-tag", "content-language",
    ],
)  # fmt: skip
def test_kept(name: str) -> None:
    """Whatever is as true of a copy is kept, names that nobody has heard of included."""
    assert remarks(((name, "v"),)) == ((name, "v"),)


@pytest.mark.parametrize(
    "name",
    [
        "set-cookie", "set-cookie2", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade",
        "proxy-authenticate", "date", "age", "expires", "last-modified", "etag", "cache-control", "cache-status",
        "vary", "retry-after", "x-should-retry", "content-length", "content-type", "content-encoding",
        "anthropic-ratelimit-tokens-reset", "x-ratelimit-reset-requests", "x-headrace-source", "x-headrace-anything",
        "request-id", "via", "server", "strict-transport-security", "alt-svc", "access-control-allow-origin",
    ],
)  # fmt: skip
def test_left_out(name: str) -> None:
    """What is of the one exchange, or not upstream's to say to our callers, is not."""
    assert remarks(((name, "v"), ("x-other", "v"))) == (("x-other", "v"),)


def test_one_hop() -> None:
    """Nor is what `Connection` names."""
    said = (("connection", "keep-alive, X-Hop"), ("x-hop", "v"), ("x-kept", "v\tv"))
    assert remarks(said) == (("x-kept", "v\tv"),)
