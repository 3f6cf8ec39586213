"""Other ways to name what is another's: queries, paths, forms, other bodies, parameters nobody knows; and answers that tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from lent import CALL, House, is_missing, opened
from scripted import Line

DOORS = pytest.mark.parametrize("door", ["http", "grpc"])
KINDS = ("files", "agents", "memory_stores", "user_profiles", "vaults", "deployment_runs", "never_heard_of")
UUID = "3f2b8c1e-7a4d-4c1b-9d2e-0123456789ab"


async def refused(house: House, who: str, method: str, path: str, body: Any = b"", **headers: str) -> bool:
    asked = len(house.upstream.asked)
    status, said = await house.ask(who, method, path, body, **headers)
    return is_missing(status, said) and len(house.upstream.asked) == asked


@DOORS
async def test_any_kind_in_bodies(valkey_url: str, tmp_path: Path, door: str) -> None:
    """Bodies name no other's thing of any kind: of several words, in another spelling, or by a name that tells no kind."""
    async with opened(valkey_url, tmp_path, door) as house:
        for kind in KINDS:
            hers = await house.make("ann", f"/v1/{kind}")
            for body in ({f"{kind}_id": hers}, {"a": [{"b": [hers]}]}, {"ids": [hers.replace("_", "\\u005f")]}):
                raw = json.dumps(body).replace("\\\\u", "\\u").encode()
                assert await refused(house, "bob", "POST", "/v1/sessions", raw), raw
                assert (await house.ask("ann", "POST", "/v1/sessions", raw))[0] == 200
        await house.one.parts.guard.owners.record([UUID], "ann")
        assert await refused(house, "bob", "POST", "/v1/sessions", {"vault": UUID})


@DOORS
async def test_other_bodies(valkey_url: str, tmp_path: Path, door: str) -> None:
    """What a body names counts, whatever it says of its own kind; what lies in a file of a form names nothing."""
    async with opened(valkey_url, tmp_path, door) as house:
        hers = await house.make("ann")
        plain = json.dumps({"requests": [{"params": CALL | {"container": {"skills": [{"skill_id": hers}]}}}]}).encode()
        fields = f'--x\r\ncontent-disposition: form-data; name="file_id"\r\n\r\n{hers}\r\n--x--\r\n'.encode()
        filed = (
            b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
            + f'"{hers}"'.encode()
            + b"\r\n--x--\r\n"
        )
        form, line = "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"
        for path in ("/v1/messages/batches", "/v1/files", "/v1/skills", "/v1/sessions"):
            for raw, kind in (
                (plain, form), (fields, form), (fields.replace(b"_0", b"%5f0"), form), (plain, "text/plain"),
                (plain.replace(b"file_", b"f\\u0069le_"), "text/plain"), (f"file_id={hers}".encode(), line),
                (f"x={hers.replace('_', '%5F')}&y=1".encode(), line),
                (f"- {hers}\n".encode(), "application/yaml"), (plain, "application/vnd.api+json"),
            ):  # fmt: skip
                assert await refused(house, "bob", "POST", path, raw, content_type=kind), (path, raw, kind)
        assert (await house.ask("bob", "POST", "/v1/files", filed, content_type=form))[0] == 200
        assert (await house.ask("ann", "POST", "/v1/files", fields, content_type=form))[0] == 200
        two = "multipart/form-data; boundary=y; boundary=x"
        assert (await house.ask("bob", "POST", "/v1/files", fields, content_type=two))[0] == 400


@DOORS
async def test_paths_and_queries(valkey_url: str, tmp_path: Path, door: str) -> None:
    """Nor do the rest of a path and a query name what is another's, and no other spelling of a collection is another one."""
    async with opened(valkey_url, tmp_path, door, AUTH__UNKNOWN_RESOURCES="shared") as house:
        hers, his = await house.make("ann", "/v1/agents"), await house.make("bob", "/v1/sessions")
        for path in (
            f"/v1/sessions?agent={hers}", f"/v1/sessions/{his}/agents/{hers}", f"/v1/sessions/{his}?x=1,{hers}",
            f"/v1/never_heard_of?agent={hers}", f"/v1/never_heard_of/x/{hers}",
        ):  # fmt: skip
            assert await refused(house, "bob", "POST", path, {}), path
        assert await refused(house, "bob", "GET", f"/v1/sessions/{his}/agents/{hers}")
        assert await refused(house, "bob", "POST", "/v1/never_heard_of", {"agent": hers})
        file = await house.make("ann")
        for collection in ("Files", "FILES", "files;a=b", "files;"):
            assert await refused(house, "bob", "GET", f"/v1/{collection}/{file}"), collection
            assert await refused(house, "bob", "DELETE", f"/v1/{collection}/{file}"), collection
        batch = await house.make("ann", "/v1/messages/batches")
        assert await refused(house, "bob", "GET", f"/v1/Messages/Batches/{batch}")


@DOORS
async def test_models(valkey_url: str, tmp_path: Path, door: str) -> None:
    """Models are everybody's to see, and nobody's to change."""
    async with opened(valkey_url, tmp_path, door) as house:
        house.upstream.things["models"] = [{"id": "m"}]
        for method in ("DELETE", "PATCH", "PUT", "POST"):
            assert await refused(house, "bob", method, "/v1/models/m", {})
        assert (await house.ask("bob", "DELETE", "/v1/models"))[0] == 403
        assert (await house.ask("boss", "DELETE", "/v1/models/m"))[0] == 200


UNHEARD_OF = [
    {"agent": "{}"},
    {"resources": [{"type": "file", "id": "{}"}]},
    {"tools": [{"type": "recall_20270101", "name": "recall", "vault": "{}"}]},
    {"messages": [{"role": "user", "content": [{"type": "video", "file_id": "{}"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "memory", "memory_store_id": "{}"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "audio", "input_audio": {"file_id": "{}"}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "files", "source": {"type": "some", "file_ids": ["{}"]}}]}]},
    {"system": [{"type": "document", "place": {"session_id": "{}"}}]},
]


@DOORS
@pytest.mark.parametrize("scope", ["caller", "shared"])
async def test_unheard_of_in_messages(valkey_url: str, tmp_path: Path, door: str, scope: str) -> None:
    """A message names no other's thing by what we have not heard of, and is not answered from what another was told, either."""
    async with opened(valkey_url, tmp_path, door, CACHE__SCOPE=scope) as house:
        hers = await house.make("ann", "/v1/memory_stores")
        for endpoint in ("/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions"):
            for body in UNHEARD_OF:
                raw = json.dumps(CALL | body).replace("{}", hers).encode()
                status, said = await house.ask("ann", "POST", endpoint, raw)
                assert not is_missing(status, said) or "no" in said["error"]["message"], body
                assert await refused(house, "bob", "POST", endpoint, raw), body


@DOORS
async def test_answers(valkey_url: str, tmp_path: Path, door: str) -> None:
    """What nobody knows is not told what is another's: not by an answer to whatever was asked, nor beside a list."""
    async with opened(valkey_url, tmp_path, door) as house:
        hers, his = await house.make("ann"), await house.make("bob", "/v1/agents")
        said: dict[str, Any] = {"data": [{"id": hers}]}
        more = ""

        async def talk(line: Line) -> None:
            await line.answer(200, json.dumps(said).encode(), "content-type: application/json", *filter(None, [more]))

        house.server.talk = talk
        assert (await house.ask("bob", "POST", "/v1/search", {"q": "*"}))[0] == 403
        assert (await house.ask("ann", "POST", "/v1/search", {"q": "*"}))[0] == 200
        said = {"data": [{"id": his}], "has_more": False, "beside": {"x": [{"id": hers}]}, "next": hers, "odd": [1.5]}
        more = f"link: </v1/agents?after_id={hers}>; rel=next\r\nx-total-count: 2\r\netag: W/7\r\nx-first-id: {hers}"
        for method in ("GET", "HEAD"):
            head, page = await _headed(house, method)
            assert hers not in head
            assert "x-total-count" not in head
            assert "etag" not in head
        assert page == b""
        _, page = await _headed(house, "GET")
        assert json.loads(page) == {"data": [{"id": his}], "has_more": False, "odd": [1.5], "first_id": his, "last_id": his}


async def _headed(house: House, method: str) -> tuple[str, bytes]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{house.http.port}") as web:
        reply = await web.request(method, "/v1/agents", headers={"x-api-key": house.keys["bob"]})
        return str(reply.headers).lower(), reply.content
