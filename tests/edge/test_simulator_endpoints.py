"""The simulator's other endpoints, as the official SDKs ask them: models, batches, files, chat, and the Admin API."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import openai
import pytest

from headrace.simulator import Options, Simulator, start
from headrace.simulator.files import generated

ADMIN = "sk-ant-admin01-test"
PARAMS: dict[str, Any] = {"model": "claude-sonnet-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
BOTH = pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21"])


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """An instant simulator with no limits."""
    async with await start(Options.instant(keep_file_bytes=1_000)) as running:
        yield running


def client(simulator: Simulator, key: str = "sk-test", version: str = "2026-10-21") -> anthropic.AsyncAnthropic:
    """The official SDK, without its own retries."""
    said = {"anthropic-version": version}
    return anthropic.AsyncAnthropic(api_key=key, base_url=simulator.url, max_retries=0, default_headers=said)


@pytest.fixture(params=["2023-06-01", "2026-10-21"])
async def sdk(simulator: Simulator, request: pytest.FixtureRequest) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The official SDK, with either version."""
    async with client(simulator, version=request.param) as some:
        yield some


@pytest.fixture
async def admin(simulator: Simulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The same with an Admin key."""
    async with client(simulator, ADMIN) as some:
        yield some


@pytest.fixture
async def chat(simulator: Simulator) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's SDK."""
    async with openai.AsyncOpenAI(api_key="sk-test", base_url=simulator.url + "/v1", max_retries=0) as some:
        yield some


async def listed(pages: Any) -> list[Any]:
    return [item async for item in pages]


# Models


async def test_models(sdk: anthropic.AsyncAnthropic) -> None:
    """All models are found page by page, and each by its name; what cannot be a model is 404."""
    first = await sdk.models.list(limit=2)
    assert (len(first.data), first.has_more, first.last_id) == (2, True, first.data[1].id)
    everyone = await listed(sdk.models.list(limit=2))
    assert len({model.id for model in everyone}) == len(everyone) > 2
    back = await sdk.models.list(limit=1, before_id=first.data[1].id)
    assert [model.id for model in back.data] == [first.data[0].id]
    shown = await sdk.models.retrieve(everyone[-1].id)
    assert shown == everyone[-1]
    assert shown.capabilities is not None
    with pytest.raises(anthropic.NotFoundError):
        await sdk.models.retrieve("gpt-4")


# Batches


def requests(*params: dict[str, Any]) -> list[Any]:
    return [{"custom_id": f"n-{number}", "params": PARAMS | more} for number, more in enumerate(params)]


async def test_batch(simulator: Simulator, sdk: anthropic.AsyncAnthropic) -> None:
    """A batch is answered as the Messages API would answer; what that would refuse is errored, and the rest is not."""
    made = await sdk.messages.batches.create(requests=requests({}, {"max_tokens": -1}, {"model": "gpt"}, {"stream": True}))
    assert (made.processing_status, made.results_url, made.request_counts.processing) == ("in_progress", None, 4)
    ended = await sdk.messages.batches.retrieve(made.id)
    assert ended.processing_status == "ended"
    assert ended.results_url == f"{simulator.url}/v1/messages/batches/{made.id}/results"
    assert (ended.request_counts.succeeded, ended.request_counts.errored) == (1, 3)
    results = [result async for result in await sdk.messages.batches.results(made.id)]
    assert [result.custom_id for result in results] == ["n-0", "n-1", "n-2", "n-3"]
    assert [result.result.type for result in results] == ["succeeded", "errored", "errored", "errored"]
    assert [result.result.error.error.type for result in results[1:]] == [
        "invalid_request_error", "not_found_error", "invalid_request_error",
    ]  # fmt: skip
    assert results[0].result.message.content == (await sdk.messages.create(**PARAMS)).content
    assert results == [result async for result in await sdk.messages.batches.results(made.id)]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ([], "from 1 to 100000"),
        ([{"custom_id": "a", "params": PARAMS}, {"custom_id": "a", "params": PARAMS}], "must be unique"),
        ([{"custom_id": "a b", "params": PARAMS}], "should match pattern"),
        ([{"custom_id": "a" * 65, "params": PARAMS}], "should match pattern"),
        ([{"custom_id": "a"}], "params"),
    ],
)
async def test_batch_refused(simulator: Simulator, asked: list[Any], sentence: str) -> None:
    """A batch that is wrong as a whole is refused as a whole."""
    async with client(simulator) as sdk:
        with pytest.raises(anthropic.BadRequestError, match=sentence):
            await sdk.messages.batches.create(requests=asked)
        assert await listed(sdk.messages.batches.list()) == []


async def test_batch_cancelled(simulator: Simulator, sdk: anthropic.AsyncAnthropic) -> None:
    """Those that had their turn are answered, the others are canceled; until then nothing can be had or deleted."""
    now = [1_000.0]
    simulator.batches.clock = lambda: now[0]
    simulator.batches.takes_s = 100
    made = await sdk.messages.batches.create(requests=requests(*[{}] * 10))
    now[0] += 35
    assert (await sdk.messages.batches.retrieve(made.id)).processing_status == "in_progress"
    with pytest.raises(anthropic.BadRequestError, match="still in progress"):
        await sdk.messages.batches.delete(made.id)
    cancelled = await sdk.messages.batches.cancel(made.id)
    assert (cancelled.processing_status, cancelled.request_counts.processing) == ("canceling", 10)
    ended = await sdk.messages.batches.retrieve(made.id)
    assert (ended.request_counts.succeeded, ended.request_counts.canceled) == (3, 7)
    types = [result.result.type async for result in await sdk.messages.batches.results(made.id)]
    assert types == ["succeeded"] * 3 + ["canceled"] * 7
    assert (await sdk.messages.batches.delete(made.id)).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        await sdk.messages.batches.retrieve(made.id)


async def test_batch_expired() -> None:
    """What a batch has no time for is expired; one that has ended cannot be cancelled."""
    async with await start(Options.instant(batch_s=100.0, batch_expires_s=50.0)) as simulator, client(simulator) as sdk:
        now = [0.0]
        simulator.batches.clock = lambda: now[0]
        made = await sdk.messages.batches.create(requests=requests({}, {}))
        now[0] = 50
        ended = await sdk.messages.batches.retrieve(made.id)
        assert (ended.request_counts.succeeded, ended.request_counts.expired) == (1, 1)
        with pytest.raises(anthropic.BadRequestError, match="already ended"):
            await sdk.messages.batches.cancel(made.id)


async def test_batches_listed(simulator: Simulator, sdk: anthropic.AsyncAnthropic) -> None:
    """Batches are listed page by page, the newest first."""
    made = [await sdk.messages.batches.create(requests=requests({})) for _ in range(3)]
    assert [batch.id for batch in await listed(sdk.messages.batches.list(limit=2))] == [batch.id for batch in made[::-1]]


async def test_batch_address() -> None:
    """The address of results is upstream's own where one is named."""
    async with await start(Options.instant(public_url="https://api.example")) as simulator, client(simulator) as sdk:
        made = await sdk.messages.batches.create(requests=requests({}))
        ended = await sdk.messages.batches.retrieve(made.id)
        assert ended.results_url == f"https://api.example/v1/messages/batches/{made.id}/results"
        assert [batch.id for batch in await listed(sdk.messages.batches.list(limit=1))] == [made.id]


# Files


async def test_file(simulator: Simulator, sdk: anthropic.AsyncAnthropic) -> None:
    """A file is taken in as it is, found, given back and deleted."""
    raw = bytes(range(256)) * 3
    made = await sdk.files.upload(file=("a dir/näme.bin", raw, "application/x-mine"), expires_in_seconds=3_600)
    assert (made.filename, made.mime_type, made.size_bytes) == ("näme.bin", "application/x-mine", 768)
    assert made.expires_at is not None
    assert (made.expires_at - made.created_at).total_seconds() == 3_600
    assert await sdk.files.retrieve_metadata(made.id) == made
    assert await (await sdk.files.download(made.id)).read() == raw
    assert simulator.files[made.id].sha256 == hashlib.sha256(raw).hexdigest()
    other = await sdk.files.upload(file=("c:\\b.txt", b""))
    assert (other.filename, other.mime_type, other.size_bytes) == ("b.txt", "text/plain", 0)
    assert [file.id for file in await listed(sdk.files.list(limit=1))] == [other.id, made.id]
    assert [file.id for file in await listed(sdk.files.list(ids=[made.id, "file_gone"]))] == [made.id]
    assert (await sdk.files.delete(made.id)).type == "file_deleted"
    for gone in (sdk.files.retrieve_metadata, sdk.files.delete, sdk.files.download):
        with pytest.raises(anthropic.NotFoundError):
            await gone(made.id)


async def test_file_too_large_to_keep(simulator: Simulator) -> None:
    """Of a larger file only size and SHA-256 are known, and it says so."""
    raw = b"x" * 1_001
    async with client(simulator) as sdk:
        made = await sdk.files.upload(file=("big", raw))
        assert made.downloadable is False
        with pytest.raises(anthropic.BadRequestError, match="not downloadable"):
            await sdk.files.download(made.id)
    async with httpx.AsyncClient() as web:
        [file] = (await web.get(simulator.url + "/_simulator/files")).json()["files"]
    assert (file["size_bytes"], file["sha256"]) == (1_001, hashlib.sha256(raw).hexdigest())


async def test_file_expires(simulator: Simulator) -> None:
    """An expired file is there no more."""
    now = [0.0]
    simulator.files.clock = lambda: now[0]
    async with client(simulator) as sdk:
        made = await sdk.files.upload(file=("a", b"a"), expires_in_seconds=3_600)
        now[0] = 3_600
        with pytest.raises(anthropic.NotFoundError, match="expired"):
            await sdk.files.retrieve_metadata(made.id)
        assert await listed(sdk.files.list()) == []


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_000])
async def test_generated_file(simulator: Simulator, size: int) -> None:
    """A file of any size is always there, and its content follows from its name."""
    name = f"file_sim_{size}"
    async with client(simulator) as sdk:
        assert (await sdk.files.retrieve_metadata(name)).size_bytes == size
        raw = await (await sdk.files.download(name)).read()
    assert raw == b"".join(generated(name))
    assert len(raw) == size
    assert {int.from_bytes(raw[at : at + 8]) for at in range(0, size - 8, 65_536)} == set(range(-(-(size - 8) // 65_536)))


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"files": {"other": ("a", b"a")}}, 400),
        ({"files": [("file", ("a", b"a")), ("file", ("b", b"b"))]}, 400),
        ({"files": {"file": ("a|b", b"a")}}, 400),
        ({"files": {"file": ("a", b"a")}, "data": {"expires_in_seconds": "5"}}, 400),
        ({"json": {}}, 400),
        ({"files": {"file": ("a", b"a" * 5_000)}}, 413),
    ],
)
async def test_file_refused(form: dict[str, Any], status: int) -> None:
    """A wrong form is refused, a file that is too large as well; nothing is made of it."""
    headers = {"x-api-key": "k", "anthropic-version": "2026-10-21"}
    async with await start(Options.instant(max_file_bytes=4_000)) as simulator, httpx.AsyncClient() as web:
        assert (await web.post(simulator.url + "/v1/files", headers=headers, **form)).status_code == status
        assert simulator.files.listed() == []


# Chat


async def test_chat(simulator: Simulator, chat: openai.AsyncOpenAI) -> None:
    """A chat is answered as the Messages API answers the same, in OpenAI's shape, whole or as a stream."""
    asked: dict[str, Any] = {
        "model": "claude-sonnet-5",
        "max_tokens": 30,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    }
    whole = await chat.chat.completions.create(**asked)
    async with client(simulator) as sdk:
        message = await sdk.messages.create(**PARAMS | {"max_tokens": 30, "system": "Be brief."})
    text = whole.choices[0].message.content
    assert text == message.content[0].text  # type: ignore[union-attr]
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (message.usage.input_tokens, 30)
    stream = await chat.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == text
    assert len(chunks) > 5
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    plain = [chunk async for chunk in await chat.chat.completions.create(**asked, stream=True)]
    assert (plain[-1].usage, plain[-1].choices[0].finish_reason) == (None, "length")


async def test_chat_tools(chat: openai.AsyncOpenAI) -> None:
    """A tool is called, in parts or whole, and its result can be given back."""
    parameters = {"type": "object", "properties": {"q": {"type": "string"}}}
    tools: Any = [{"type": "function", "function": {"name": "find", "parameters": parameters}}]
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Where?"}]}]
    asked: dict[str, Any] = {"model": "sim-1", "messages": messages, "tools": tools, "tool_choice": "required"}
    whole = (await chat.chat.completions.create(**asked)).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    assert whole.message.tool_calls
    [used] = whole.message.tool_calls
    assert used.type == "function"
    assert (used.function.name, used.function.arguments) == ("find", '{"q":"Where?"}')
    stream = await chat.chat.completions.create(**asked, stream=True)
    deltas = [d for chunk in [chunk async for chunk in stream] for d in chunk.choices[0].delta.tool_calls or ()]
    assert deltas[0].function is not None
    assert deltas[0].function.name == "find"
    assert "".join(d.function.arguments or "" for d in deltas if d.function) == used.function.arguments
    messages += [whole.message, {"role": "tool", "tool_call_id": used.id, "content": "There."}]
    named = {"type": "function", "function": {"name": "find"}}
    assert (await chat.chat.completions.create(**asked | {"tool_choice": named})).choices[0].finish_reason == "tool_calls"
    assert (await chat.chat.completions.create(**asked | {"tool_choice": "none"})).choices[0].finish_reason == "stop"


async def test_chat_errors(simulator: Simulator, chat: openai.AsyncOpenAI) -> None:
    """Errors are in OpenAI's shape; no version is asked for, and a key is."""
    asked: dict[str, Any] = {"model": "claude-a", "messages": [{"role": "user", "content": "Hello"}]}
    with pytest.raises(openai.NotFoundError) as missing:
        await chat.chat.completions.create(**asked | {"model": "gpt-4"})
    assert missing.value.body == {"type": "not_found_error", "message": "model: gpt-4", "code": None, "param": None}
    simulator.faults.add("spend_limit", path="/v1/chat/*", text="Hello", count=1)
    with pytest.raises(openai.RateLimitError) as limited:
        await chat.chat.completions.create(**asked)
    assert limited.value.code == "enforced_spend_limit_reached"
    simulator.faults.add("stream_error", path="/v1/chat/*", count=1, after_deltas=2)
    with pytest.raises(openai.APIError, match="Overloaded"):
        [chunk async for chunk in await chat.chat.completions.create(**asked, stream=True)]
    async with httpx.AsyncClient() as web:
        said = await web.post(simulator.url + "/v1/chat/completions", json=asked)
    assert (said.status_code, said.json()["error"]["type"]) == (401, "authentication_error")


async def test_chat_models(chat: openai.AsyncOpenAI) -> None:
    """OpenAI's SDK lists the models and finds one."""
    names = [model.id async for model in chat.models.list()]
    assert "claude-sonnet-5" in names
    assert (await chat.models.retrieve(names[0])).id == names[0]


async def test_mid_conversation(simulator: Simulator) -> None:
    """The SDK's system message in mid-conversation is taken by messages, counts and batches, with and without its beta."""
    user, system = {"role": "user", "content": "Hello"}, {"role": "system", "content": "Be brief."}
    asked: Any = {"model": "claude-sonnet-5", "max_tokens": 30, "messages": [user, system]}
    async with client(simulator) as sdk:
        for headers in ({}, {"anthropic-beta": "mid-conversation-system-2026-04-07"}):
            message = await sdk.messages.create(**asked, extra_headers=headers)
            assert message.content[0].text.startswith('You said: "Hello"')  # type: ignore[union-attr]
        count = await sdk.messages.count_tokens(model="claude-sonnet-5", messages=asked["messages"])
        assert count.input_tokens == message.usage.input_tokens
        batch = await sdk.messages.batches.create(requests=[{"custom_id": "1", "params": asked}])
        [result] = [result async for result in await sdk.messages.batches.results(batch.id)]
        assert result.result.type == "succeeded"


async def test_chat_limits() -> None:
    """Chat and messages of a model share its limits, and chat has the headers, too."""
    async with await start(Options.instant(requests_per_minute=1)) as simulator:
        async with client(simulator) as sdk:
            await sdk.messages.create(**PARAMS)
        async with httpx.AsyncClient() as web:
            said = await web.post(simulator.url + "/v1/chat/completions", json=PARAMS, headers={"authorization": "Bearer k"})
        assert (said.status_code, said.headers["anthropic-ratelimit-requests-remaining"]) == (429, "0")


# The Admin API


async def test_admins_only(simulator: Simulator, admin: anthropic.AsyncAnthropic) -> None:
    """The Admin API wants an Admin key, and nothing else takes one."""
    assert (await admin.organization.retrieve()).type == "organization"
    with pytest.raises(anthropic.AuthenticationError):
        await admin.models.list()
    async with client(simulator) as sdk:
        with pytest.raises(anthropic.AuthenticationError):
            await sdk.organization.retrieve()


async def test_named_admins() -> None:
    """An Admin key may also be named, and a named key is only of its kind."""
    options = Options.instant(keys=("k",), admin_keys=("boss",))
    async with await start(options) as simulator, client(simulator, "boss") as boss, client(simulator, "k") as other:
        assert await boss.organization.retrieve()
        assert await other.models.list()
        for refused in (other.organization.retrieve(), boss.models.list()):
            with pytest.raises(anthropic.AuthenticationError):
                await refused


async def test_api_keys(simulator: Simulator, admin: anthropic.AsyncAnthropic) -> None:
    """Keys are listed, changed and made; the two versions name their scope otherwise."""
    keys = await listed(admin.organization.api_keys.list(limit=1))
    assert [key.scope.type for key in keys] == ["workspace", "organization"]
    changed = await admin.organization.api_keys.update(keys[0].id, name="other", status="inactive")
    assert (changed.name, changed.status) == ("other", "inactive")
    assert await admin.organization.api_keys.retrieve(keys[0].id) == changed
    assert [key.id for key in await listed(admin.organization.api_keys.list(status="inactive"))] == [keys[0].id]
    made = await admin.post("/v1/organizations/api_keys", body={"name": "new"}, cast_to=object)
    assert isinstance(made, dict)
    assert made["key"].startswith("sk-ant-sim03-")
    assert (await admin.organization.api_keys.retrieve(made["id"])).name == "new"
    async with client(simulator, ADMIN, "2023-06-01") as older:
        old = await older.get(f"/v1/organizations/api_keys/{keys[0].id}", cast_to=object)
    assert isinstance(old, dict)
    assert old["workspace_id"] == keys[0].scope.workspace_id
    assert "scope" not in old


async def test_workspaces(admin: anthropic.AsyncAnthropic) -> None:
    """Workspaces are made, changed and archived, and have members."""
    workspaces = admin.organization.workspaces
    made = await workspaces.create(name="New", tags={"a": "1", "b": "2"})
    changed = await workspaces.update(made.id, name="Newer", tags={"a": None})
    assert (changed.name, changed.tags, changed.compartment_id) == ("Newer", {"b": "2"}, made.compartment_id)
    users = await listed(admin.organization.users.list())
    added = await workspaces.members.add(made.id, user_id=users[0].id, workspace_role="workspace_user")
    assert [member.user_id for member in await listed(workspaces.members.list(made.id))] == [users[0].id]
    with pytest.raises(anthropic.BadRequestError, match="already"):
        await workspaces.members.add(made.id, user_id=users[0].id, workspace_role="workspace_user")
    promoted = await workspaces.members.update(users[0].id, workspace_id=made.id, workspace_role="workspace_admin")
    assert (added.workspace_role, promoted.workspace_role) == ("workspace_user", "workspace_admin")
    assert await workspaces.members.retrieve(users[0].id, workspace_id=made.id) == promoted
    await workspaces.members.remove(users[0].id, workspace_id=made.id)
    with pytest.raises(anthropic.NotFoundError):
        await workspaces.members.retrieve(users[0].id, workspace_id=made.id)
    archived = await workspaces.archive(made.id)
    assert archived.archived_at is not None
    assert made.id not in [workspace.id for workspace in await listed(workspaces.list())]
    assert made.id in [workspace.id for workspace in await listed(workspaces.list(include_archived=True))]


async def test_users_and_invites(simulator: Simulator, admin: anthropic.AsyncAnthropic) -> None:
    """Users change and go, admins do not; an address is invited once."""
    organization = admin.organization
    [boss] = await listed(organization.users.list(roles=["admin"]))
    [miller] = await listed(organization.users.list(email="miller@example.com"))
    assert (await organization.users.update(miller.id, role="billing")).role == "billing"
    assert (await organization.users.retrieve(miller.id)).role == "billing"
    assert (await organization.users.remove(miller.id)).type == "user_deleted"
    for refused in (organization.users.remove(boss.id), organization.users.update(boss.id, role="user")):
        with pytest.raises(anthropic.BadRequestError, match="Admins"):
            await refused
    made = await organization.invites.create(email="new@example.com", role="developer")
    assert (await organization.invites.retrieve(made.id)).status == "pending"
    with pytest.raises(anthropic.BadRequestError, match="already exists"):
        await organization.invites.create(email="new@example.com", role="developer")
    assert [invite.id for invite in await listed(organization.invites.list(email="new@example.com"))] == [made.id]
    assert (await organization.invites.delete(made.id)).type == "invite_deleted"
    with pytest.raises(anthropic.NotFoundError):
        await organization.invites.delete(made.id)
    simulator.reset()
    assert "miller@example.com" in [user.email for user in await listed(organization.users.list())]


async def test_rate_limits() -> None:
    """The limits that are told are those that are held."""
    async with await start(Options.instant(requests_per_minute=77)) as simulator, client(simulator, ADMIN) as admin:
        limits = admin.organization.rate_limits
        [one] = await listed(limits.list(model="claude-sonnet-5"))
        assert {limit.type: limit.value for limit in one.limits}["requests_per_minute"] == 77
        assert len(await listed(limits.list(limit=1))) == len(await listed(limits.list())) > 2
        assert [limit.group.type for limit in await listed(limits.list(group_type="batch"))] == ["batch"]
        with pytest.raises(anthropic.NotFoundError):
            await limits.list(model="gpt")
        async with client(simulator, ADMIN, "2023-06-01") as older:
            old: Any = await older.get("/v1/organizations/rate_limits", cast_to=object)
        assert old["data"][0]["group_type"] == "model_group"
