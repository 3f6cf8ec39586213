"""What lives at upstream under our one key: each caller has its own, by any door, and to others it is not there."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from msgspec.structs import replace

from conftest import until
from headrace import keys
from headrace.config.tables import Auth
from headrace.owner import Owner
from headrace.v1 import message_batches_service_pb2 as pb
from headrace.v1.message_batches_service_pb2_grpc import MessageBatchesServiceStub
from lent import CALL, is_missing, opened, thing

DOORS = pytest.mark.parametrize("door", ["http", "grpc"])
COLLECTIONS = pytest.mark.parametrize(
    "path", ["/v1/files", "/v1/messages/batches", "/v1/skills", "/v1/sessions", "/v1/containers", "/v1/never_heard_of"]
)


@DOORS
@COLLECTIONS
async def test_each_its_own(valkey_url: str, tmp_path: Path, door: str, path: str) -> None:
    """Another's thing is not there: not to be had, changed, deleted or listed, nor what is below it; admins have all."""
    async with opened(valkey_url, tmp_path, door) as house:
        hers, his = await house.make("ann", path), await house.make("bob", path)
        asked = len(house.upstream.asked)
        for who in ("bob", "eye", "ops"):
            for method, below in (
                ("GET", ""), ("HEAD", ""), ("DELETE", ""), ("POST", ""), ("PATCH", ""), ("PUT", ""), ("GET", "/content"),
                ("POST", "/cancel"), ("GET", "/results"), ("GET", "/versions/1"), ("GET", "/"), ("GET", "?beta=true"),
            ):  # fmt: skip
                status, said = await house.ask(who, method, f"{path}/{hers}{below}", b"" if method == "GET" else {})
                assert status == 404 if method == "HEAD" else is_missing(status, said), (who, method, below, status, said)
        assert len(house.upstream.asked) == asked
        assert await house.listed("ann", path) == [hers]
        assert await house.listed("bob", path) == [his]
        assert await house.listed("eye", path) == []
        assert await house.listed("boss", path) == [his, hers]
        for who in ("ann", "boss"):
            assert (await house.ask(who, "GET", f"{path}/{hers}"))[0] == 200
        assert (await house.ask("ann", "DELETE", f"{path}/{hers}"))[0] == 200
        assert is_missing(*await house.ask("ann", "GET", f"{path}/{hers}"))
        nobodys = thing("file", 77)  # neither is what nobody made through us
        house.upstream.things[path.removeprefix("/v1/").replace("messages/", "")].append({"id": nobodys})
        assert is_missing(*await house.ask("ann", "GET", f"{path}/{nobodys}"))
        assert await house.listed("ann", path) == []


@DOORS
async def test_pages(valkey_url: str, tmp_path: Path, door: str) -> None:
    """A list has so many of one's own as were asked for, forth and back, and its ends and `has_more` speak of those alone."""
    async with opened(valkey_url, tmp_path, door) as house:
        mine = [await house.make("ann" if number % 7 == 0 else "bob") for number in range(80)][::7][::-1]
        assert len(mine) == 12
        got, cursor = [], ""
        while True:
            _, page = await house.ask("ann", "GET", f"/v1/files?limit=5{cursor}")
            ids = [each["id"] for each in page["data"]]
            assert (page["first_id"], page["last_id"]) == (ids[0], ids[-1])
            assert page["odd"] == 1.5
            got += ids
            if not page["has_more"]:
                break
            assert len(ids) == 5
            cursor = f"&after_id={ids[-1]}"
        assert got == mine
        _, page = await house.ask("ann", "GET", f"/v1/files?limit=5&before_id={mine[7]}")
        assert [each["id"] for each in page["data"]] == mine[2:7]
        assert page["has_more"] is True
        _, page = await house.ask("ann", "GET", f"/v1/files?limit=5&before_id={mine[3]}")
        assert [each["id"] for each in page["data"]] == mine[:3]
        assert page["has_more"] is False
        _, page = await house.ask("eye", "GET", "/v1/files")
        assert page == {"data": [], "has_more": False, "first_id": None, "last_id": None, "odd": 1.5}
        assert len(await house.listed("ann", "/v1/files?limit=12")) == 12


@DOORS
async def test_pages_by_cursor(valkey_url: str, tmp_path: Path, door: str) -> None:
    """A list that goes on by a cursor is filtered page by page, and its cursors lead to all of one's own."""
    async with opened(valkey_url, tmp_path, door) as house:
        mine = [await house.make("ann" if number % 5 == 0 else "bob", "/v1/agents") for number in range(23)][::5][::-1]
        got, page = [], {"next_page": "0"}
        while page["next_page"] is not None:
            _, page = await house.ask("ann", "GET", f"/v1/agents?limit=4&page={page['next_page']}")
            got += [each["id"] for each in page["data"]]
        assert got == mine


async def test_public_skills(valkey_url: str, tmp_path: Path) -> None:
    """Upstream's own skills are everybody's to see, and nobody's to change."""
    async with opened(valkey_url, tmp_path) as house:
        house.upstream.things["skills"] = [{"id": "pptx", "source": "anthropic"}, {"id": thing("skill", 9), "source": "custom"}]
        assert await house.listed("ann", "/v1/skills") == ["pptx"]
        assert (await house.ask("ann", "GET", "/v1/skills/pptx/versions"))[0] == 200
        assert is_missing(*await house.ask("ann", "DELETE", "/v1/skills/pptx"))


BODIES = [
    {"container": "{}"},
    {"container": {"id": "{}"}},
    {"container": {"skills": [{"type": "custom", "skill_id": "{}", "version": "latest"}]}},
    {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "{}"}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "{}"}]}]},
    {"messages": [{"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {"type": "file", "file_id": "{}"}}]}
    ]}]},
    {"messages": [{"role": "user", "content": [{"type": "document", "source": {
        "type": "content", "content": [{"type": "image", "source": {"type": "file", "file_id": "{}"}}]}}]}]},
    {"system": [{"type": "text", "text": "x" * 9000}], "container": "{}"},
]  # fmt: skip


def naming(body: dict[str, Any], name: str) -> bytes:
    return json.dumps(CALL | body).replace("{}", name, 1).encode()


@DOORS
@pytest.mark.parametrize("endpoint", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_named_in_messages(valkey_url: str, tmp_path: Path, door: str, endpoint: str) -> None:
    """A message that names another's container, skill or file is refused as one that names what is not there."""
    async with opened(valkey_url, tmp_path, door) as house:
        hers = await house.make("ann")
        for body in BODIES:
            raw = naming(body, hers)
            assert (await house.ask("ann", "POST", endpoint, raw))[0] == 200, body
            asked = len(house.upstream.asked)
            spelled = raw.replace(b"file_0", b"f\\u0069le_\\u0030")
            for sent in (raw, spelled):
                assert is_missing(*await house.ask("bob", "POST", endpoint, sent)), body
            assert len(house.upstream.asked) == asked
            assert (await house.ask("boss", "POST", endpoint, raw))[0] == 200
        said = {"messages": [{"role": "user", "content": f"what is {hers}?"}, {"role": "user", "content": hers}]}
        assert (await house.ask("bob", "POST", endpoint, CALL | said))[0] == 200  # a text is a text


@DOORS
async def test_named_in_batches(valkey_url: str, tmp_path: Path, door: str) -> None:
    """So it is in the requests of a batch, however large it is and however its ids are written, and with no batch made."""
    async with opened(valkey_url, tmp_path, door) as house:
        hers = await house.make("ann")
        for filler in ("x" * 1_500_000, "x"):
            for body in BODIES:
                params = json.loads(naming(body, hers)) | {"metadata": {"user_id": filler}}
                raw = json.dumps({"requests": [{"custom_id": "file_invoice_2026_001_of_100", "params": params}]}).encode()
                made = house.upstream.made
                for sent in (raw, raw.replace(b"file_0", b"f\\u0069le_\\u0030")):
                    status, said = await house.ask("bob", "POST", "/v1/messages/batches", sent)
                    assert is_missing(status, said), (body, status, said)
                assert house.upstream.made == made
        assert (await house.ask("ann", "POST", "/v1/messages/batches", raw))[0] == 200
        status, _ = await house.ask("bob", "POST", "/v1/messages/batches", gzip.compress(raw), content_encoding="gzip")
        assert status in (400, 404)


@DOORS
async def test_named_elsewhere(valkey_url: str, tmp_path: Path, door: str) -> None:
    """Other bodies may not name what is another's, whatever it is called there."""
    async with opened(valkey_url, tmp_path, door) as house:
        agent, file = await house.make("ann", "/v1/agents"), await house.make("ann")
        for body in ({"agent": agent}, {"agent": {"id": agent}}, {"resources": [{"type": "file", "file_id": file}]}, [file]):
            assert is_missing(*await house.ask("bob", "POST", "/v1/sessions", body))
            assert (await house.ask("ann", "POST", "/v1/sessions", body))[0] == 200
        his = await house.make("bob", "/v1/sessions")
        assert is_missing(*await house.ask("bob", "POST", f"/v1/sessions/{his}/resources", {"file_id": file}))


async def test_shared(valkey_url: str, tmp_path: Path) -> None:
    """What upstream holds is everybody's where that is configured, and where no key is asked for: a name tells nobody apart."""
    for settings in ({"AUTH__SHARED_RESOURCES": "true"}, {"AUTH__REQUIRED": "false"}):
        async with opened(valkey_url, tmp_path, **settings) as house:
            hers = await house.make("ann")
            assert (await house.ask("bob", "GET", f"/v1/files/{hers}"))[0] == 200
            assert hers in await house.listed("bob", "/v1/files")
            assert await house.one.parts.link.do("EXISTS", keys.resource(hers)) == 0


async def test_reload(valkey_url: str, tmp_path: Path) -> None:
    """A new configuration holds from then on, for who asks with a key and for who asks without."""
    async with opened(valkey_url, tmp_path, AUTH__SHARED_RESOURCES="true") as house:
        before = await house.make("ann")
        parts = house.one.parts
        parts.reload(replace(parts.settings, auth=Auth(required=True)))
        assert is_missing(*await house.ask("bob", "GET", f"/v1/files/{before}"))
        hers = await house.make("ann")
        assert is_missing(*await house.ask("bob", "GET", f"/v1/files/{hers}"))
        assert (await house.ask("ann", "GET", f"/v1/files/{hers}"))[0] == 200


async def test_unknown(valkey_url: str, tmp_path: Path) -> None:
    """What nobody can tell apart is not given; unknown collections that are configured as shared are everybody's."""
    async with opened(valkey_url, tmp_path) as house:
        house.upstream.answer = {"total": 5}
        for path in ("/v1/messages", "/v1/messages?x=1"):
            assert (await house.ask("ann", "GET", path))[0] == 403
            assert (await house.ask("boss", "GET", path))[0] == 200
        for method in ("PUT", "PATCH", "DELETE"):
            assert (await house.ask("ann", method, "/v1/never_heard_of", {}))[0] == 403
    async with opened(valkey_url, tmp_path, AUTH__UNKNOWN_RESOURCES="shared") as house:
        ours, hers = await house.make("ann", "/v1/never_heard_of"), await house.make("ann", "/v1/agents")
        assert (await house.ask("bob", "GET", f"/v1/never_heard_of/{ours}"))[0] == 200
        assert is_missing(*await house.ask("bob", "GET", f"/v1/agents/{hers}"))


async def test_typed(valkey_url: str, tmp_path: Path) -> None:
    """The typed services go the same way: NOT_FOUND, and pages of one's own."""
    async with opened(valkey_url, tmp_path) as house, grpc.aio.insecure_channel(f"127.0.0.1:{house.port}") as channel:
        batches = [await house.make("ann" if number % 3 else "bob", "/v1/messages/batches") for number in range(9)]
        stub, bob, ann = MessageBatchesServiceStub(channel), *(((("x-api-key", house.keys[name])),) for name in ("bob", "ann"))
        got, token = [], ""
        while True:
            page = await stub.ListMessageBatches(pb.ListMessageBatchesRequest(page_size=2, page_token=token), metadata=bob)
            got += [batch.id for batch in page.message_batches]
            token = page.next_page_token
            if not token:
                break
        assert got == batches[::3][::-1]
        for rpc, request in (
            (stub.GetMessageBatch, pb.GetMessageBatchRequest(id=batches[1])),
            (stub.CancelMessageBatch, pb.CancelMessageBatchRequest(id=batches[1])),
            (stub.DeleteMessageBatch, pb.DeleteMessageBatchRequest(id=batches[1])),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await rpc(request, metadata=bob)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            await rpc(request, metadata=ann)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in stub.StreamMessageBatchResults(pb.StreamMessageBatchResultsRequest(id=batches[4]), metadata=bob):
                pass
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_from_before(valkey_url: str, tmp_path: Path) -> None:
    """Of a batch from before owners were recorded there is who made it."""
    async with opened(valkey_url, tmp_path) as house:
        old = thing("msgbatch", 3)
        house.upstream.things["batches"] = [{"id": old}]
        maker = {"caller": "ann", "team": "", "workspace": "", "lane": "standard", "labels": []}
        await house.one.parts.link.do("SET", keys.batch(old), json.dumps(maker))
        assert (await house.ask("ann", "GET", f"/v1/messages/batches/{old}"))[0] == 200
        assert is_missing(*await house.ask("bob", "GET", f"/v1/messages/batches/{old}"))


async def test_first_stays(valkey_url: str, tmp_path: Path) -> None:
    """Nobody takes over what is another's by having it made again."""
    async with opened(valkey_url, tmp_path) as house:
        hers = await house.make("ann")
        house.upstream.made -= 1
        assert await house.make("bob") == hers
        assert is_missing(*await house.ask("bob", "GET", f"/v1/files/{hers}"))
        owners = house.one.parts.guard.owners
        assert await owners.of([hers]) == {hers: Owner("ann").text}
        await until(lambda: owners.stats().pending == 0)


@DOORS
async def test_profiles(valkey_url: str, tmp_path: Path, door: str) -> None:
    """Nobody has a call counted to another's customer."""
    async with opened(valkey_url, tmp_path, door) as house:
        profile = {"anthropic_user_profile_id": await house.make("ann", "/v1/user_profiles")}
        batch = {"requests": [{"custom_id": "a", "params": CALL}]}
        for path, body in (("/v1/messages", CALL), ("/v1/messages/batches", batch), ("/v1/messages", CALL)):
            assert is_missing(*await house.ask("bob", "POST", path, body, **profile))
            assert (await house.ask("ann", "POST", path, body, **profile))[0] == 200


@DOORS
async def test_files_of_chats(valkey_url: str, tmp_path: Path, door: str) -> None:
    """A chat names files in its own way."""
    async with opened(valkey_url, tmp_path, door) as house:
        hers = await house.make("ann")
        said = {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": hers}}]}]}
        assert is_missing(*await house.ask("bob", "POST", "/v1/chat/completions", CALL | said))
