"""The typed services over a real server and real parts, with the simulator in both versions of the API."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from headrace.simulator import Options, start
from headrace.v1 import options_pb2
from typed_calls import ADMIN, BY_NAME, PARAMS, Caller, calling

VERSIONS = pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21"])


@contextlib.asynccontextmanager
async def simulated(valkey: str, path: Path, **options: Any) -> AsyncIterator[Caller]:
    chosen = Options.instant(admin_keys=("admin-key",), **options)
    async with await start(chosen) as simulator, calling(valkey, path, simulator.url, **ADMIN) as caller:
        yield caller


async def walk(caller: Caller, name: str, **fields: Any) -> list[Any]:
    """All items of a list, two to a page."""
    items: list[Any] = []
    token = ""
    while token or not items:
        page = await caller.ask(name, page_size=2, page_token=token, **fields)
        said = list(getattr(page, BY_NAME[name].answer))
        assert len(said) == 2 or (said and not page.next_page_token)
        items, token = items + said, page.next_page_token
    return items


@VERSIONS
async def test_models(valkey_url: str, tmp_path: Path, version: str) -> None:
    """Models in pages, one of them, one that is not there, and a count."""
    options = options_pb2.CallOptions(anthropic_version=version)
    async with simulated(valkey_url, tmp_path) as caller:
        models = await walk(caller, "ListModels", options=options)
        assert len({model.id for model in models}) == len(models) == 4
        for model in models:
            assert (await caller.ask("GetModel", id=model.id, options=options)).model == model
            assert (model.type, model.max_input_tokens) == ("model", 200_000)
        assert (await caller.failure("GetModel", id="gpt-1")).code() is grpc.StatusCode.NOT_FOUND
        assert (await caller.ask("CountTokens", params=PARAMS, options=options)).input_tokens == 1


@VERSIONS
async def test_batch(valkey_url: str, tmp_path: Path, version: str) -> None:
    """A batch's life: handed in, ended, listed, its results read, deleted."""
    options = options_pb2.CallOptions(anthropic_version=version)
    calls = [{"custom_id": f"c{number}", "params": PARAMS | {"max_tokens": 9}} for number in range(3)]
    calls.append({"custom_id": "wrong", "params": {"model": "sim-1"}})
    async with simulated(valkey_url, tmp_path, batch_s=0.0) as caller:
        made = (await caller.ask("CreateMessageBatch", params={"requests": calls}, options=options)).message_batch
        assert (made.processing_status, made.request_counts.processing) == ("in_progress", 4)
        ended = (await caller.ask("GetMessageBatch", id=made.id)).message_batch
        assert (ended.processing_status, ended.request_counts.succeeded, ended.request_counts.errored) == ("ended", 3, 1)
        assert await walk(caller, "ListMessageBatches") == [ended]
        came = {
            said.response.custom_id: said.response.result for said in await caller.all("StreamMessageBatchResults", id=made.id)
        }
        assert set(came) == {"c0", "c1", "c2", "wrong"}
        assert came["c0"].succeeded.message.content[0].text.text
        assert came["c0"].succeeded.message.usage.output_tokens
        assert came["wrong"].errored.error.error.type == "invalid_request_error"
        gone = (await caller.ask("DeleteMessageBatch", id=made.id)).deleted_message_batch
        assert (gone.id, gone.type) == (made.id, "message_batch_deleted")
        assert (await caller.failure("GetMessageBatch", id=made.id)).code() is grpc.StatusCode.NOT_FOUND
        assert not (await caller.ask("ListMessageBatches")).message_batches


async def test_batch_cancelled(valkey_url: str, tmp_path: Path) -> None:
    """A batch that runs has no results and cannot be deleted; cancelled, it ends."""
    calls = [{"custom_id": f"c{number}", "params": PARAMS | {"max_tokens": 9}} for number in range(3)]
    async with simulated(valkey_url, tmp_path, batch_s=3600.0) as caller:
        made = (await caller.ask("CreateMessageBatch", params={"requests": calls})).message_batch
        for name in ("StreamMessageBatchResults", "DeleteMessageBatch"):
            assert (await caller.failure(name, id=made.id)).code() is grpc.StatusCode.INVALID_ARGUMENT
        cancelled = (await caller.ask("CancelMessageBatch", id=made.id)).message_batch
        assert cancelled.processing_status == "canceling"
        assert cancelled.cancel_initiated_at
        results = await caller.all("StreamMessageBatchResults", id=made.id)
        assert [said.response.result.WhichOneof("result") for said in results] == ["canceled"] * 3


@VERSIONS
async def test_chat(valkey_url: str, tmp_path: Path, version: str) -> None:
    """A completion whole and in chunks says the same."""
    options = options_pb2.CallOptions(anthropic_version=version)
    params = PARAMS | {"max_tokens": 50, "stream_options": {"include_usage": True}}
    async with simulated(valkey_url, tmp_path) as caller:
        whole = (await caller.ask("CreateChatCompletion", params=PARAMS | {"max_tokens": 50}, options=options)).completion
        chunks = [said.chunk for said in await caller.all("StreamChatCompletion", params=params, options=options)]
        told = "".join(choice.delta.content.text for chunk in chunks for choice in chunk.choices)
        assert told == whole.choices[0].message.content.text
        assert (whole.object, chunks[0].object) == ("chat.completion", "chat.completion.chunk")
        assert whole.choices[0].finish_reason == chunks[-2].choices[0].finish_reason
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens > 0


@VERSIONS
async def test_organization(valkey_url: str, tmp_path: Path, version: str) -> None:
    """Everything that the Admin API has here is made, found, changed and removed."""
    options = options_pb2.CallOptions(anthropic_version=version)

    async with simulated(valkey_url, tmp_path) as caller:

        async def ask(name: str, **fields: Any) -> Any:
            said = await caller.ask(name, options=options, **fields)
            return getattr(said, BY_NAME[name].answer)

        workspace = await ask("CreateWorkspace", params={"name": "w", "tags": {"team": "a"}})
        assert (workspace.name, dict(workspace.tags)) == ("w", {"team": "a"})
        assert (await ask("UpdateWorkspace", id=workspace.id, params={"name": "v"})).name == "v"
        assert (await ask("ArchiveWorkspace", id=workspace.id)).archived_at
        assert (await ask("GetWorkspace", id=workspace.id)).archived_at
        listed = {item.id for item in await walk(caller, "ListWorkspaces", options=options)}
        everything = {item.id for item in await walk(caller, "ListWorkspaces", include_archived=True, options=options)}
        assert everything - listed == {workspace.id}

        other = await ask("CreateWorkspace", params={"name": "x"})
        key = await ask("CreateApiKey", params={"name": "k", "workspace_id": other.id})
        assert "key" in json.loads(key.extra_json)
        assert other.id in (key.workspace_id, key.scope.workspace_id)
        assert (await ask("UpdateApiKey", id=key.id, params={"status": "inactive"})).status == "inactive"
        (found,) = await ask("ListApiKeys", status="inactive", workspace_id=other.id)
        assert found == await ask("GetApiKey", id=key.id)
        assert "key" not in json.loads(found.extra_json)
        assert len(await walk(caller, "ListApiKeys", options=options)) == 3

        users = await walk(caller, "ListUsers", options=options)
        assert len(users) == 3
        (user,) = await ask("ListUsers", roles=["developer", "billing"])
        assert (await ask("UpdateUser", id=user.id, params={"role": "billing"})).role == "billing"
        assert (await ask("GetUser", id=user.id)).email == user.email
        assert (await ask("RemoveUser", id=user.id)).type == "user_deleted"
        assert user.id not in [item.id for item in await ask("ListUsers")]

        invite = await ask("CreateInvite", params={"email": "a@example.com", "role": "developer"})
        assert (await ask("GetInvite", id=invite.id)) == invite
        assert [item.id for item in await ask("ListInvites", email="a@example.com")] == [invite.id]
        assert (await ask("DeleteInvite", id=invite.id)).type == "invite_deleted"

        limits = await walk(caller, "GetRateLimits", options=options)
        assert {limit.group.type or limit.group_type for limit in limits} >= {"model_group", "batch"}
        assert all(value.type and value.value for limit in limits for value in limit.limits)
        (batch,) = await ask("GetRateLimits", group_type="batch")
        assert (batch.group.type or batch.group_type) == "batch"
