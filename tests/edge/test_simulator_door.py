"""The simulator's manners over plain HTTP: faults anywhere, the journal, encodings, ordered answers, HEAD and OPTIONS."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from conftest import until
from headrace.simulator import Simulator
from simulator_parts import KEY

CALL = {"model": "claude-sonnet-5", "max_tokens": 200, "messages": [{"role": "user", "content": "Hello"}]}
BATCH = {"requests": [{"custom_id": f"n-{number}", "params": CALL} for number in range(5)]}


@pytest.fixture
async def web(simulator: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it, with a key."""
    async with httpx.AsyncClient(base_url=simulator.url, headers=KEY) as client:
        yield client


async def results_of(web: httpx.AsyncClient) -> str:
    """Make a batch, and return the path of its results."""
    made = await web.post("/v1/messages/batches", json=BATCH)
    return f"/v1/messages/batches/{made.json()['id']}/results"


async def read_on(response: httpx.Response, seen: bytearray) -> None:
    """Read an answer to its end, keeping what came before it broke off."""
    async for part in response.aiter_raw():
        seen += part


# Faults


@pytest.mark.parametrize(
    ("kind", "status"), [("rate_limit", 429), ("overloaded", 529), ("api_error", 500), ("unavailable", 503)]
)
async def test_error_anywhere(simulator: Simulator, web: httpx.AsyncClient, kind: str, status: int) -> None:
    """A rule that names a path meets that endpoint, and nothing has been done; others and messages are spared."""
    simulator.faults.add(kind, path="/v1/messages/batches", method="POST", retry_after_s=0.25)
    refused = await web.post("/v1/messages/batches", json=BATCH)
    assert (refused.status_code, refused.headers["retry-after"]) == (status, "0.25")
    assert simulator.journal.visits[-1].outcome == kind
    assert simulator.journal.visits[-1].body_bytes == len(refused.request.content)
    assert (await web.get("/v1/messages/batches")).json()["data"] == []
    assert (await web.post("/v1/messages", json=CALL)).status_code == 200


async def test_early(simulator: Simulator) -> None:
    """An early error does not wait for the body."""
    simulator.faults.add("overloaded", path="/v1/files", early=True, count=1)
    host, port = simulator.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "".join(f"{name}: {value}\r\n" for name, value in KEY.items())
    writer.write(f"POST /v1/files HTTP/1.1\r\nhost: x\r\n{head}content-length: 9\r\n\r\nhalf".encode())
    async with asyncio.timeout(5):
        assert (await reader.readline()).split()[1] == b"529"
    assert simulator.journal.visits[-1].body_bytes == 0
    writer.close()


async def test_reset_before_and_half_after(simulator: Simulator, web: httpx.AsyncClient) -> None:
    """A reset comes before anything is done; half an answer comes after it."""
    simulator.faults.add("reset", path="/v1/messages/batches", method="POST", count=1)
    with pytest.raises(httpx.ReadError):
        await web.post("/v1/messages/batches", json=BATCH)
    assert (await web.get("/v1/messages/batches")).json()["data"] == []
    simulator.faults.add("half_json", path="/v1/messages/batches", method="POST", count=1)
    with pytest.raises(httpx.RemoteProtocolError):
        await web.post("/v1/messages/batches", json=BATCH)
    assert len((await web.get("/v1/messages/batches")).json()["data"]) == 1


@pytest.mark.parametrize(("after", "lines"), [(3, 3), (None, 1), (0, 0), (99, 5)])
async def test_broken_stream(simulator: Simulator, web: httpx.AsyncClient, after: int | None, lines: int) -> None:
    """A streamed answer breaks off after as many parts as asked, at the latest before its end."""
    path = await results_of(web)
    simulator.faults.add("half_stream", path="*/results", count=1, after_deltas=after)
    seen = bytearray()
    async with web.stream("GET", path) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await read_on(response, seen)
    assert seen.count(b"\n") == lines
    assert (await web.get(path)).content.startswith(bytes(seen))


async def test_reset_stream(simulator: Simulator, web: httpx.AsyncClient) -> None:
    """A download can be reset on its way."""
    simulator.faults.add("reset", path="/v1/files/*/content", after_deltas=1)
    with pytest.raises(httpx.ReadError):
        await web.get("/v1/files/file_sim_1000000/content")


async def test_hang_garbage_slow(simulator: Simulator, web: httpx.AsyncClient) -> None:
    """Silence, nonsense and slowness can be had of any endpoint."""
    for kind in ("garbage", "slow", "hang"):
        simulator.faults.add(kind, path="/v1/models", count=1, delay_s=0.1, status=502)
    nonsense = await web.get("/v1/models")
    assert (nonsense.status_code, nonsense.headers["content-type"]) == (502, "text/html")
    late = await web.get("/v1/models")
    assert late.status_code == 200
    assert simulator.journal.visits[-1].took_s >= 0.1
    with pytest.raises(httpx.ReadTimeout):
        await web.get("/v1/models", timeout=0.1)
    await until(lambda: simulator.counts.running == 0)
    assert [visit.outcome for visit in simulator.journal.visits] == ["garbage", "slow", "hang"]


# The journal


async def test_journal(web: httpx.AsyncClient) -> None:
    """The journal shows what a proxy passed on, and no key."""
    body = b'{"name": "x"}' * 10_000
    await web.put("/v1/things/a%20b?q=%C3%A4&q=2", content=body, headers={"X-Mine": "1", "Cookie": "c=secret"})
    await web.post("/v1/messages", json=CALL)
    [visit] = (await web.get("/_simulator/journal?path=/v1/things/*")).json()["visits"]
    assert (visit["method"], visit["target"], visit["path"]) == ("PUT", "/v1/things/a%20b?q=%C3%A4&q=2", "/v1/things/a b")
    headers = visit["headers"]
    assert (headers["x-mine"], headers["x-api-key"], headers["cookie"]) == ("1", "***", "***")
    assert "secret" not in str(visit)
    assert "sk-test" not in str(visit)


async def test_journal_digest(simulator: Simulator, web: httpx.AsyncClient) -> None:
    """A body is known by its size and SHA-256 at every endpoint that takes one."""
    simulator.answers.add(path="/v1/new", json={})
    bodies = {"/v1/messages/batches": b"{" + b" " * 200_000, "/v1/new": b"x" * 200_000, "/v1/messages": b"[]"}
    for path, body in bodies.items():
        await web.post(path, content=body)
        visit = simulator.journal.visits[-1]
        assert (visit.body_bytes, visit.body_sha256) == (len(body), hashlib.sha256(body).hexdigest())
        assert visit.fingerprint == visit.body_sha256[:16]


# Methods


@pytest.mark.parametrize("path", ["/v1/models", "/v1/files/file_sim_1000000/content"])
async def test_head(web: httpx.AsyncClient, path: str) -> None:
    """HEAD says what GET would, without a body, and the connection goes on."""
    head, whole = await web.head(path), await web.get(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type"):
        assert head.headers[name] == whole.headers[name]


async def test_head_has_no_body(simulator: Simulator) -> None:
    """Nothing follows the headers of an answer to HEAD but the next answer, however large the content is."""
    host, port = simulator.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "host: x\r\n" + "".join(f"{name}: {value}\r\n" for name, value in KEY.items())
    writer.write(f"HEAD /v1/files/file_sim_1000000000000/content HTTP/1.1\r\n{head}\r\n".encode())
    writer.write(f"GET /v1/models HTTP/1.1\r\n{head}\r\n".encode())
    async with asyncio.timeout(5):
        assert b"content-length: 1000000000000\r\n" in (await reader.readuntil(b"\r\n\r\n")).lower()
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()


async def test_options(web: httpx.AsyncClient) -> None:
    """OPTIONS names the methods, to anyone; so does a 405."""
    said = await web.options("/v1/files", headers={"x-api-key": ""})
    assert (said.status_code, said.headers["allow"]) == (204, "POST, GET, HEAD, OPTIONS")
    assert (await web.options("/v1/nothing")).status_code == 404
    refused = await web.request("PATCH", "/v1/messages/batches/x/cancel")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST, OPTIONS")


async def test_expect_continue(simulator: Simulator) -> None:
    """Who asks whether to go on is told so only where the body is wanted."""
    host, port = simulator.url.removeprefix("http://").split(":")
    for key, first in (("k", b"HTTP/1.1 100 Continue"), ("", b"HTTP/1.1 401 Unauthorized")):
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nanthropic-version: 2026-10-21\r\n"
        writer.write(f"{head}content-type: multipart/form-data; boundary=b\r\n".encode())
        writer.write(b"expect: 100-continue\r\ncontent-length: 9\r\n\r\n")
        async with asyncio.timeout(5):
            assert (await reader.readline()).strip() == first
        writer.close()


# Encodings


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
async def test_encodings(simulator: Simulator, web: httpx.AsyncClient, encoding: str) -> None:
    """An offered encoding is used for whole answers, errors and streams, and only for those who take it."""
    path = await results_of(web)
    asked: list[tuple[str, str, Any]] = [
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/gpt", None),
        ("GET", path, None),
        ("GET", "/v1/files/file_sim_200000/content", None),
        ("POST", "/v1/messages", CALL | {"stream": True}),
        ("POST", "/v1/chat/completions", CALL | {"stream": True}),
    ]
    plain = [await web.request(method, path, json=body) for method, path, body in asked]
    assert (await web.post("/_simulator/settings", json={"encodings": [encoding]})).json()["encodings"] == [encoding]
    for (method, path, body), before in zip(asked, plain, strict=True):
        assert "content-encoding" not in before.headers
        said = await web.request(method, path, json=body, headers={"accept-encoding": encoding})
        assert said.headers["content-encoding"] == encoding
        assert said.status_code == before.status_code
        if "msg_" not in said.text and "chatcmpl" not in said.text and "request_id" not in said.text:
            assert said.content == before.content
        else:
            assert len(said.text) == len(before.text)
        other = await web.request(method, path, json=body, headers={"accept-encoding": "identity"})
        assert "content-encoding" not in other.headers


async def test_encoded_stream_error(simulator: Simulator, web: httpx.AsyncClient) -> None:
    """An encoded stream that ends in an error can be read to its end."""
    simulator.encodings = ("gzip",)
    simulator.faults.add("stream_error", count=1, after_deltas=2)
    raw, unpacker = bytearray(), zlib.decompressobj(wbits=31)
    asked = CALL | {"stream": True}
    async with web.stream("POST", "/v1/messages", json=asked, headers={"accept-encoding": "gzip"}) as response:
        await read_on(response, raw)
    text = unpacker.decompress(raw).decode()
    assert unpacker.eof
    assert text.count("event: content_block_delta") == 2
    assert text.rstrip().rpartition("\n\n")[2].startswith("event: error")


# Ordered answers


async def test_answers(simulator: Simulator, web: httpx.AsyncClient) -> None:
    """An endpoint that is not there yet can be ordered: any status, headers and bytes, to those with a key."""
    ordered = [
        {"path": "/v1/things/*", "method": "GET", "json": {"a": None}, "headers": {"x-theirs": "1"}},
        {"path": "/v1/things/raw", "status": 418, "base64": base64.b64encode(b"\xff\x00").decode()},
        {"path": "/v1/models", "text": "other", "headers": {"content-type": "text/odd"}},
    ]
    assert len((await web.post("/_simulator/answers", json=ordered)).json()["answers"]) == 3
    one = await web.get("/v1/things/x")
    assert (one.status_code, one.json(), one.headers["x-theirs"]) == (200, {"a": None}, "1")
    assert one.headers["content-type"] == "application/json"
    raw = await web.patch("/v1/things/raw", content=b"body")
    assert (raw.status_code, raw.content) == (418, b"\xff\x00")
    assert (await web.get("/v1/things/raw")).status_code == 418
    assert (await web.get("/v1/models")).text == "other"
    assert (await web.post("/v1/things/x")).status_code == 404
    assert (await web.get("/v1/things/x", headers={"x-api-key": ""})).status_code == 401
    simulator.faults.add("overloaded", path="/v1/things/x", count=1)
    assert (await web.get("/v1/things/x")).status_code == 529
    await web.delete("/_simulator/answers")
    assert (await web.get("/v1/things/x")).status_code == 404
    assert (await web.get("/v1/models")).json()["data"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/chat/new"])
async def test_answers_of_chats(simulator: Simulator, method: str, path: str) -> None:
    """An ordered answer asks for what its endpoint asks for: in chats no version, and errors are in OpenAI's shape."""
    simulator.answers.add(path="/v1/chat/*", json={"id": "ordered"})
    async with httpx.AsyncClient(base_url=simulator.url) as web:
        said = await web.request(method, path, headers={"authorization": "Bearer k"})
        assert (said.status_code, said.json()) == (200, {"id": "ordered"})
        keyless = await web.request(method, path)
        assert (keyless.status_code, set(keyless.json())) == (401, {"error"})
        simulator.answers.add(path="/v1/messages", json={})
        assert (await web.request(method, "/v1/messages", headers={"x-api-key": "k"})).status_code == 400


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/sim-1"])
async def test_models_for_both(simulator: Simulator, path: str) -> None:
    """Models are told to OpenAI's SDK, too, which has its key as a bearer and tells no version; others tell one."""
    async with httpx.AsyncClient(base_url=simulator.url) as web:
        assert (await web.get(path, headers={"authorization": "Bearer k"})).status_code == 200
        assert (await web.get(path, headers={"x-api-key": "k"})).status_code == 400
        wrong = {"authorization": "Bearer k", "anthropic-version": "2020-01-01"}
        assert (await web.get(path, headers=wrong)).status_code == 400
        assert (await web.get(path)).status_code == 401
        simulator.answers.add(path=path, json={"ordered": True})
        assert (await web.get(path, headers={"authorization": "Bearer k"})).json() == {"ordered": True}


async def test_answer_in_parts(simulator: Simulator, web: httpx.AsyncClient) -> None:
    """An ordered answer may be a stream: its first part is there before its last one is sent."""
    simulator.answers.add(path="/v1/new", parts=["data: 1\n\n", "data: 2\n\n"], pause_s=0.2)
    seen: list[bytes] = []
    async with web.stream("POST", "/v1/new", content=b"x") as response:
        async for part in response.aiter_raw():
            assert seen or simulator.counts.running == 1
            seen.append(part)
    assert seen == [b"data: 1\n\n", b"data: 2\n\n"]


@pytest.mark.parametrize(
    ("where", "body"),
    [
        ("answers", {"path": "/other"}),
        ("answers", {"path": "/v1/x", "status": 7}),
        ("answers", {"path": "/v1/x", "base64": "?"}),
        ("answers", [{"path": "/v1/x", "more": 1}]),
        ("settings", {"batch_s": -1}),
        ("settings", {"encodings": ["lzma"]}),
        ("settings", {"other": 1}),
    ],
)
async def test_control_refuses(web: httpx.AsyncClient, where: str, body: Any) -> None:
    """What cannot be meant is refused when it is given."""
    assert (await web.post(f"/_simulator/{where}", json=body)).status_code == 400


async def test_settings_and_reset(simulator: Simulator, web: httpx.AsyncClient) -> None:
    """Batches can be made to take their time; a reset brings all back to the options and forgets what was made."""
    assert (await web.post("/_simulator/settings", json={"batch_s": 50, "encodings": ["br"]})).json()["batch_s"] == 50
    path = await results_of(web)
    assert (await web.get(path)).status_code == 400
    await web.post("/v1/files", files={"file": ("a", b"a")})
    simulator.answers.add(path="/v1/new", json={})
    await web.post("/_simulator/reset")
    assert (await web.get("/v1/messages/batches")).json()["data"] == []
    assert (await web.get("/v1/files")).json()["data"] == []
    assert (await web.get("/v1/new")).status_code == 404
    assert (await web.get(await results_of(web))).status_code == 200
    assert simulator.encodings == ()
