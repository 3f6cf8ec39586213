"""Yet other ways to name what is another's: forms, queries and headers that two read in two ways, deep fields."""

from __future__ import annotations

import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from lent import CALL, MESSAGE, House, opened
from scripted import Line

DOORS = pytest.mark.parametrize("door", ["http", "grpc"])


async def passed(house: House, who: str, method: str, path: str, body: Any = b"", **headers: str) -> list[str]:
    """Return what a call was if it went upstream, or was answered; [] if it was refused."""
    asked = len(house.upstream.asked)
    status, said = await house.ask_raw(who, method, path, body, **headers)
    is_refused = len(house.upstream.asked) == asked and status in (400, 403, 404)
    return [] if is_refused else [f"{method} {path} {body!r} {headers}: {status} {said[:80]!r}"]


HEAD = "content-disposition: form-data; "
FORMS = [
    # A field, with what says that it is a file standing elsewhere in its head.
    ("x", f'--x\r\n{HEAD}name="file_id"\r\nx-note: filename="a"\r\n\r\n{{}}\r\n--x--\r\n'),
    ("x", f'--x\r\n{HEAD}name="filename_id"\r\n\r\n{{}}\r\n--x--\r\n'),
    ("x", f'--x\r\n{HEAD}name="file_id; filename=a"\r\n\r\n{{}}\r\n--x--\r\n'),
    ("x", f'--x\r\n{HEAD}name="a"; filename="b"\r\n{HEAD}name="file_id"\r\n\r\n{{}}\r\n--x--\r\n'),
    ("x", f'--x\r\nx-a: b\r\n {HEAD}filename="b"\r\n{HEAD}name="i"\r\n\r\n{{}}\r\n--x--\r\n'),
    # Another boundary for another reader.
    ("x; boundary*=utf-8''y", f'--x\r\n{HEAD}filename="a"\r\n\r\n--y\r\n{HEAD}name="file_id"\r\n\r\n{{}}\r\n--y--\r\n'),
    ("x; boundary*0=y", f'--x\r\n{HEAD}filename="a"\r\n\r\n--y\r\n{HEAD}name="file_id"\r\n\r\n{{}}\r\n--y--\r\n'),
    ("x", '{{"--x filename": 1,\r\n\r\n"file_id": "{}"}}'),
]


@DOORS
async def test_forms(valkey_url: str, tmp_path: Path, door: str) -> None:
    """A field of a form is read as one whatever else its head says; a file's content is still its own."""
    async with opened(valkey_url, tmp_path, door) as house:
        hers, wrong = await house.make("ann"), []
        for boundary, form in FORMS:
            said = {"content_type": f"multipart/form-data; boundary={boundary}"}
            wrong += await passed(house, "bob", "POST", "/v1/sessions", form.replace("{}", hers).encode(), **said)
        assert not wrong
        for file in (
            'name="file"; filename="a b"',
            "filename=a; name=file",
            'name="file"; filename="a"; filename*=utf-8\'\'a%20b',
        ):
            form = f"--x\r\ncontent-type: text/plain\r\n{HEAD}{file}\r\n\r\n{hers}\r\n--x--\r\n"
            status, _ = await house.ask(
                "bob", "POST", "/v1/files", form.encode(), content_type="multipart/form-data; boundary=x"
            )
            assert status == 200, file


@DOORS
async def test_packed(valkey_url: str, tmp_path: Path, door: str) -> None:
    """Nobody hides in a packed body what it names, whatever the method."""
    async with opened(valkey_url, tmp_path, door) as house:
        hers, his, wrong = await house.make("ann"), await house.make("bob", "/v1/sessions"), []
        for name, packer in (("gzip", zlib.compressobj(9, wbits=31)), ("deflate", zlib.compressobj(9))):
            packed = bytearray(packer.compress(json.dumps({"file_id": hers}).encode()) + packer.flush())
            if name == "gzip":
                packed[4:8] = b"when"  # no bytes of zero
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                wrong += await passed(house, "bob", method, f"/v1/sessions/{his}", bytes(packed), content_encoding=name)
        assert not wrong


@DOORS
async def test_spelled(valkey_url: str, tmp_path: Path, door: str) -> None:
    """Where unknown collections are everybody's, no spelling of a known one is unknown to upstream alone."""
    async with opened(valkey_url, tmp_path, door, AUTH__UNKNOWN_RESOURCES="shared") as house:
        hers, wrong = await house.make("ann"), []
        for collection in (
            "files.",
            "files%20",
            "files.json",
            "%EF%BD%86iles",
            "files%09",
            "files%3B",
            "files%23",
            "files+",
            "x/files.",
        ):
            for below in ("", "/content", ".", "%20"):
                for method in ("GET", "DELETE", "POST"):
                    wrong += await passed(house, "bob", method, f"/v1/{collection}/{hers}{below}")
        assert not wrong


@DOORS
async def test_queries(valkey_url: str, tmp_path: Path, door: str) -> None:
    """A query and the rest of a path name nothing of others', in whatever grammar."""
    async with opened(valkey_url, tmp_path, door) as house:
        hers, his, wrong = await house.make("ann"), await house.make("bob", "/v1/sessions"), []
        for query in (
            "a=1;file={}", "q=%7B%22file_id%22%3A%22{}%22%7D", "q=id:{}", "q={}|x", "q={}+x", "q={}%20x", "{}=1", "{}",
            "ids[{}]=1", "q=%22{}%22", "q={}.", "a=1&{}&b", "q=fil{}",
        ):  # fmt: skip
            asked = query.replace("{}", hers.removeprefix("fil") if "fil{" in query else hers)
            wrong += await passed(house, "bob", "POST", f"/v1/sessions/{his}?{asked}", {})
            wrong += await passed(house, "bob", "GET", f"/v1/sessions/{his}?{asked}")
        for below in ("a:{}", "{}:cancel", "{};x", "(id={})", "{}.json", "{},x"):
            wrong += await passed(house, "bob", "GET", f"/v1/sessions/{his}/{below.replace('{}', hers)}")
        assert not wrong
        assert (await house.ask("ann", "POST", f"/v1/sessions?file={hers}", {}))[0] == 200


@DOORS
async def test_headers(valkey_url: str, tmp_path: Path, door: str) -> None:
    """Nor does a header, by whatever name; what says nothing of things is not asked about."""
    async with opened(valkey_url, tmp_path, door) as house:
        hers, wrong = await house.make("ann"), []
        for name in ("anthropic_file_id", "anthropic_session_id", "anthropic_container", "mcp_session_id"):
            for value in (hers, f"a={hers}", f'"{hers}"', f"x, {hers}"):
                wrong += await passed(house, "bob", "POST", "/v1/sessions", {}, **{name: value})
                if name.startswith("anthropic"):  # of a message call no other travels on
                    wrong += await passed(house, "bob", "POST", "/v1/messages", CALL, **{name: value})
        assert not wrong
        assert (await house.ask("ann", "POST", "/v1/messages", CALL, anthropic_session_id=hers))[0] == 200
        assert (await house.ask("bob", "POST", "/v1/sessions", {}, user_agent=hers))[0] == 200


def block(**said: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [said]}]}


DEEP: list[dict[str, Any]] = [
    {"container": {"mounts": [{"file_id": "{}"}]}},
    {"container": ["{}"]},
    {"container": {"skills": [{"type": "anthropic", "skill_id": "{}"}]}},
    {"mcp_servers": [{"type": "url", "url": "https://x", "name": "a", "vault_id": "{}"}]},
    {"context_management": {"edits": [{"type": "memory_20270101", "store": "{}"}]}},
    {"thinking": {"type": "enabled", "budget_tokens": 5, "kept_in": "{}"}},
    {"tools": [{"name": "f", "input_schema": {"type": "object"}, "vault_id": "{}"}]},
    {"tools": [{"type": "custom", "name": "f", "input_schema": {"type": "object"}, "from": {"agent": "{}"}}]},
    {"messages": [{"role": "user", "content": "x", "file_ids": ["{}"]}]},
    {"messages": [{"role": "user", "content": "x", "attachments": [{"file_id": "{}"}]}]},
    {"messages": [{"role": "user", "content": {"type": "image", "source": {"type": "file", "file_id": "{}"}}}]},
    {"system": {"type": "document", "source": {"type": "file", "file_id": "{}"}}},
    block(type="video", a={"b": {"file_id": "{}"}}),
    block(type="video", file="{}"),
    block(type="video", source={"type": "x", "id": "{}"}),
    block(type="image", source={"type": "stored", "id": "{}"}),
    block(type="image", sources=[{"type": "file", "file_id": "{}"}]),
    block(type="container_upload", files=["{}"]),
]


@DOORS
async def test_deep(valkey_url: str, tmp_path: Path, door: str) -> None:
    """A message names nothing of others' in fields that known parts of it may come to have, alone or in a batch."""
    async with opened(valkey_url, tmp_path, door) as house:
        wrong = []
        for kind in ("files", "memory_stores"):
            hers = await house.make("ann", f"/v1/{kind}")
            for body in DEEP:
                call = json.loads(json.dumps(CALL | body).replace("{}", hers))
                for path in ("/v1/messages", "/v1/messages/count_tokens"):
                    wrong += await passed(house, "bob", "POST", path, call)
                batch = {"requests": [{"custom_id": "a", "params": call}]}
                wrong += await passed(house, "bob", "POST", "/v1/messages/batches", batch)
        assert not wrong


@DOORS
async def test_batches_of_texts(valkey_url: str, tmp_path: Path, door: str) -> None:
    """What only looks like an id in a batch is its caller's own text, however much of it there is."""
    async with opened(valkey_url, tmp_path, door) as house:
        hers = await house.make("ann", "/v1/agents")
        texts = [{"custom_id": f"order-{number:012}", "params": {"x": f"call_{number:024}"}} for number in range(12_000)]
        assert (await house.ask("bob", "POST", "/v1/messages/batches", {"requests": texts}))[0] == 200
        named = [*texts, {"custom_id": hers, "params": {"x": "y"}}]
        assert (await house.ask("bob", "POST", "/v1/messages/batches", {"requests": named}))[0] == 200
        named = [*texts, {"custom_id": "a", "params": {"x": hers}}]
        assert (await house.ask("bob", "POST", "/v1/messages/batches", {"requests": named}))[0] == 404


TOLD = [
    ("application/JSON", '{"data": [{"id": "{}"}]}'),
    ("", '{"data": [{"id": "{}"}]}'),
    ("application/vnd.api+json; charset=utf-8", '{"data": [{"id": "{}"}]}'),
    ("text/event-stream", 'event: a\ndata: {"id": "{}"}\n\n'),
    ("application/x-jsonl", '{"id":"{}"}\n'),
    ("text/plain", "id {} is"),
    ("application/octet-stream", "{}"),
]


@DOORS
async def test_answers_of_other_types(valkey_url: str, tmp_path: Path, door: str) -> None:
    """What nobody knows is not told what is another's, of whatever type the answer says that it is."""
    async with opened(valkey_url, tmp_path, door) as house:
        hers = await house.make("ann")
        kind, body, more = "", b"", ""

        async def talk(line: Line) -> None:
            await line.answer(200, body, *filter(None, [kind and f"content-type: {kind}", more]))

        house.server.talk = talk
        for kind, text in TOLD:
            body = text.replace("{}", hers).encode()
            with contextlib.suppress(grpc.aio.AioRpcError):  # over gRPC what has begun ends so
                _, came = await house.ask_raw("bob", "POST", "/v1/search", {"q": "*"})
                assert hers.encode() not in came, kind
            assert (await house.ask_raw("ann", "POST", "/v1/search", {"q": "*"}))[1] == body
        more, body = "content-encoding: gzip", zlib.compress(hers.encode(), wbits=31)
        assert (await house.ask_raw("bob", "POST", "/v1/search", {"q": "*"}))[0] == 403
        kind, body, more = "Application/Json", b'{"id": "agent_000000000000000000000abc"}', ""
        assert (await house.ask("bob", "POST", "/v1/agents", {}))[0] == 200
        assert (await house.ask("bob", "GET", "/v1/agents/agent_000000000000000000000abc"))[0] == 200


@DOORS
async def test_tools_with_dates(valkey_url: str, tmp_path: Path, door: str) -> None:
    """A tool's type has a date and is no id: calls with tools that their callers run are kept, as any."""
    tools = [{"type": "bash_20250124", "name": "bash"}, {"type": "text_editor_20250728", "name": "edit"}]
    async with opened(valkey_url, tmp_path, door) as house:
        for _ in range(2):
            status, said = await house.ask("bob", "POST", "/v1/messages", CALL | {"tools": tools})
            assert (status, said["content"]) == (200, MESSAGE["content"])
        assert len(house.upstream.asked) == 1
