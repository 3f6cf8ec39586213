"""What the results of a message batch say was used: any pieces, any line, and little held."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.batches.results import Results, readable
from headrace.model import Usage
from headrace.prices import Prices


def line(model: str = "m", *, kind: str = "succeeded", **usage: Any) -> bytes:
    message = {"type": "message", "model": model, "content": [{"type": "text", "text": "é\\n"}], "usage": usage}
    result = {"type": kind, "message": message} if kind == "succeeded" else {"type": kind, "error": {"message": "usage"}}
    return json.dumps({"custom_id": "x", "result": result}).encode() + b"\n"


def used(body: bytes, size: int = 1 << 16, long_prompt: int = 0) -> Results:
    results = Results(lambda model: long_prompt)
    for first in range(0, len(body), size):
        results.feed(body[first : first + size])
    results.end()
    return results


def sums(results: Results) -> dict[tuple[str, int], Usage]:
    return {(each.model, each.requests): each.usage for each in results.sums()}


BODY = (
    line("a", input_tokens=10, output_tokens=1, service_tier="batch")
    + line("b", input_tokens=7, output_tokens=2, cache_creation_input_tokens=5, cache_read_input_tokens=None,
           cache_creation={"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3})
    + line(kind="errored") + line(kind="expired") + b"\n"
    + line("a", input_tokens=20, output_tokens=2, cache_read_input_tokens=4)
)  # fmt: skip
USED = {
    ("a", 2): Usage(30, 3, cache_read_input_tokens=4, tier="batch"),
    ("b", 1): Usage(7, 2, cache_creation_input_tokens=5, cache_creation_1h_input_tokens=3, tier="batch"),
}


@given(size=st.integers(1, len(BODY)))
def test_any_pieces(size):
    """However a body is cut, the same comes out; what did not succeed, and blank lines, used nothing."""
    assert sums(used(BODY, size)) == USED
    assert sums(used(BODY.rstrip(), size)) == USED  # the last line need have no end


@pytest.mark.parametrize(
    "bad",
    [
        b"no json\n", b'{"result":{"type":"succeeded","message":{"model":"m"}}}\n', b"{}\n", b"[]\n", b"\xff\n",
        line("m", input_tokens=-1, output_tokens=1), line("m", input_tokens="1", output_tokens=1),
        line("m", input_tokens=10**18, output_tokens=1), b"x" * (17 << 20) + b"\n",
    ],
    ids=["none", "no usage", "empty", "list", "bytes", "less than none", "text", "senseless", "endless"],
)  # fmt: skip
def test_cannot_be_read(bad):
    """One line that cannot be read is said to be one, and takes nothing of the others with it."""
    results = used(BODY + bad + BODY)
    assert repr(results) == "<Results [6 told, 1 cannot be read]>"


def test_many_models():
    """However many models there are, few are held, and no token is lost."""
    body = b"".join(line(f"m{n}" * 100, input_tokens=1, output_tokens=2) for n in range(500))
    found = used(body).sums()
    assert len(found) <= 65
    assert sum(each.output for each in found) == 1000
    assert max(len(each.model) for each in found) <= 100


def test_long_prompts():
    """Prompts that cost more by their length are summed apart, so that what all cost is what each costs."""
    haiku = "claude-haiku-5-5"
    tokens = [99_999, 100_001, 60_000, 250_000, 5]
    prices = Prices()
    body = b"".join(line(haiku, input_tokens=count, output_tokens=10) for count in tokens)
    found = used(body, long_prompt=100_000).sums()
    assert [each.requests for each in found] == [3, 2]
    cost = sum(prices.cost(haiku, each.usage, requests=each.requests) or 0 for each in found)
    assert cost == sum(prices.cost(haiku, Usage(count, 10), is_batch=True) or 0 for count in tokens)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("gzip, deflate, br, zstd", "gzip"), ("br;q=1.0, GZIP;q=0.5", "gzip"), ("br", None), ("gzip;q=0", None),
        ("gzip; q=0.000, br", None), ("identity", None), ("", None),
    ],
)  # fmt: skip
def test_readable(asked, sent):
    """Upstream is asked for what the caller takes and we can read: gzip, or plain."""
    headers = readable((("accept", "*/*"), ("accept-encoding", asked)))
    assert dict(headers).get("accept-encoding") == sent
    assert headers[0] == ("accept", "*/*")
