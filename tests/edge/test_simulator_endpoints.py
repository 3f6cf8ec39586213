"""The simulator's other endpoints by the official SDK: models, batches, files, and a system message in mid-conversation."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest

from headrace.simulator import Options, Simulator, start
from headrace.simulator.files import generated
from simulator_parts import PARAMS, client, listed

BOTH = pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21"])


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """An instant simulator with no limits."""
    async with await start(Options.instant(keep_file_bytes=1_000)) as running:
        yield running


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
