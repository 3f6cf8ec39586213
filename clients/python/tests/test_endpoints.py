"""Models and batches, which go as JSON over `ApiService.Call`: pages, results cut anywhere, and what is sent."""

from __future__ import annotations

import asyncio
import json

import pytest

from headrace_client import AsyncHeadrace, Headrace
from headrace_client.v1 import api_service_pb2 as api
from headrace_client.v1.api_service_pb2_grpc import ApiServiceServicer
from transport_parts import serving

RESULTS = [{"custom_id": f"c{number}", "result": {"type": "succeeded", "text": "ü\n" * number}} for number in range(5)]
PAGES = {"": (["a", "b"], True), "after_id=b": (["c"], False)}


class Upstream(ApiServiceServicer):
    """Answers as the API would, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def Call(self, parts, context):  # noqa: N802  # the RPC's name
        first = next(parts).head
        body = first.body + b"".join(part.chunk for part in parts)
        headers = {header.name: header.value for header in first.headers}
        self.asked.append((first.method, first.path, first.query, json.loads(body) if body else None, headers))
        yield api.CallResponse(head=api.CallResponseHead(status=200))
        if first.path.endswith("/results"):
            text = "\n".join(map(json.dumps, RESULTS)).encode()
            yield from (api.CallResponse(chunk=text[at : at + 7]) for at in range(0, len(text), 7))
        elif first.method == "GET" and first.path in ("/v1/models", "/v1/messages/batches"):
            ids, more = PAGES[first.query]
            said = {"data": [{"id": name} for name in ids], "has_more": more, "last_id": ids[-1]}
            yield api.CallResponse(chunk=json.dumps(said).encode())
        else:
            yield api.CallResponse(chunk=b'{"id": "one"}')


@pytest.fixture
def upstream(tmp_path):
    with serving(Upstream(), tmp_path / "api.sock") as servicer:
        yield servicer


CALLING = {"caller": "me", "api_key": "k", "lane": "nightly", "labels": {"env": "prod", "feature": "search"}}
WHO = {
    "x-headrace-caller": "me",
    "x-api-key": "k",
    "x-headrace-lane": "nightly",
    "x-headrace-labels": "env=prod, feature=search",
}
BATCH = [{"custom_id": "c", "params": {"model": "m"}}]
DONE = [
    ("GET", "/v1/models", ""),
    ("GET", "/v1/models", "after_id=b"),
    ("GET", "/v1/models/m", ""),
    ("POST", "/v1/messages/batches", ""),
    ("GET", "/v1/messages/batches/b", ""),
    ("GET", "/v1/messages/batches", ""),
    ("GET", "/v1/messages/batches", "after_id=b"),
    ("POST", "/v1/messages/batches/b/cancel", ""),
    ("DELETE", "/v1/messages/batches/b", ""),
    ("GET", "/v1/messages/batches/b/results", ""),
]


def check(upstream):
    assert [asked[:3] for asked in upstream.asked] == DONE
    assert upstream.asked[3][3] == {"requests": BATCH}
    assert all(WHO.items() <= asked[4].items() for asked in upstream.asked)


def test_endpoints(upstream):
    """Each method asks what the API calls for, with who asks, in which lane, and what for."""
    with Headrace(upstream.address, **CALLING) as client:
        assert [model["id"] for model in client.models.list()] == ["a", "b", "c"]
        assert client.models.get("m") == {"id": "one"}
        assert client.batches.create(requests=BATCH) == {"id": "one"}
        assert client.batches.get("b") == {"id": "one"}
        assert [batch["id"] for batch in client.batches.list()] == ["a", "b", "c"]
        assert client.batches.cancel("b") == {"id": "one"}
        assert client.batches.delete("b") == {"id": "one"}
        assert list(client.batches.results("b")) == RESULTS
    check(upstream)


async def test_endpoints_async(upstream):
    """The same for asyncio."""
    async with AsyncHeadrace(upstream.address, **CALLING) as client:
        assert [model["id"] async for model in client.models.list()] == ["a", "b", "c"]
        assert await client.models.get("m") == {"id": "one"}
        assert await client.batches.create(requests=BATCH) == {"id": "one"}
        assert await client.batches.get("b") == {"id": "one"}
        assert [batch["id"] async for batch in client.batches.list()] == ["a", "b", "c"]
        assert await client.batches.cancel("b") == {"id": "one"}
        assert await client.batches.delete("b") == {"id": "one"}
        assert [result async for result in client.batches.results("b")] == RESULTS
    await asyncio.to_thread(check, upstream)


def test_large_bodies(upstream):
    """A body of many parts arrives whole."""
    batch = [{"custom_id": str(number), "params": {"text": "x" * 1_000_000}} for number in range(5)]
    with Headrace(upstream.address) as client:
        client.batches.create(requests=batch)
    assert upstream.asked[0][3] == {"requests": batch}
