"""The official Python SDK through the daemon: it sees, and upstream is asked, what would be without the daemon."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from comparison.inventory import CARRIED, COMPARED, METHODS, carry, roots
from comparison.pair import KEY, Compare, Pair, differences
from comparison.python import Recorder, client, observe, plain
from comparison.rows import LEFT_OUT, MODEL, ORDERED, ROWS, Row, ask

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, about models and parameters


@pytest.mark.parametrize(("prefix", "row"), COMPARED, ids=[f"{prefix}{row.name}" for prefix, row in COMPARED])
def test_same(compare: Compare, prefix: str, row: Row) -> None:
    """What the SDK says, each answer as it came, and each call as upstream saw it."""
    direct, through = compare(observe, lambda sdk: row.work(roots(sdk)[prefix]), *row.orders, is_admin=row.is_admins)
    assert "error" not in direct["said"]
    assert direct["exchanged"]
    assert not differences(direct, through)


@pytest.mark.parametrize(("prefix", "resource"), CARRIED, ids=["".join(each) for each in CARRIED])
def test_carried(compare: Compare, prefix: str, resource: str) -> None:
    """So does what the daemon knows nothing of."""
    made_up = CARRIED[prefix, resource]
    ordered = ("answers", {"path": "/v1/*", "json": ORDERED})
    is_admin = resource == "organization"
    direct, through = compare(observe, lambda sdk: carry(roots(sdk)[prefix], made_up), ordered, is_admin=is_admin)
    assert direct["said"].keys() == made_up.keys()
    assert not differences(direct, through)


def test_whole() -> None:
    """Every public method of the SDK's resources is compared, or is in the list of those that are not, with its reason."""
    everything = {name for names in METHODS.values() for name in names}
    by_row, carried = {row.method for row in ROWS}, {name for names in CARRIED.values() for name in names}
    assert len(everything) > 200
    assert by_row | carried | set(LEFT_OUT) == everything
    assert not [name for name in carried if name.startswith(("messages.", "models.", "files."))]


def test_by_path(compare: Compare) -> None:
    """A call that is no method of the SDK's, by its path."""

    def make_key(sdk: Any) -> Any:
        return sdk.post("/v1/organizations/api_keys", body={"name": "sluice"}, cast_to=object)

    direct, through = compare(observe, make_key, is_admin=True)
    assert direct["said"]["key"].startswith("sk-ant-")
    assert not differences(direct, through)


def test_again(both: Pair) -> None:
    """An answer that is kept is the first one, in either form, for each of the SDK's ways to ask for it."""
    both.order("reset")
    recorder = Recorder()
    with client(both.through, recorder, "again") as sdk:
        for work in (_message, _events, _counted, _models):
            assert work(sdk) == work(sdk)
    assert [visit["path"] for visit in both.through.journal()] == [
        "/v1/messages", "/v1/messages", "/v1/messages/count_tokens", "/v1/models",
    ]  # fmt: skip


def _message(sdk: anthropic.Anthropic) -> Any:
    return plain(sdk.messages.create(**ask("kept whole")))


def _events(sdk: anthropic.Anthropic) -> Any:
    return plain(sdk.messages.create(**ask("kept as events"), stream=True))


def _counted(sdk: anthropic.Anthropic) -> Any:
    return plain(sdk.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "x"}]))


def _models(sdk: anthropic.Anthropic) -> Any:
    return plain(sdk.models.list())


@pytest.mark.parametrize("work", ["create", "stream", "batches", "files"])
async def test_async(both: Pair, work: str) -> None:
    """The SDK's asynchronous client says the same."""
    both.order("reset")
    said = []
    for side in both:
        headers = {"x-headrace-caller": f"async-{work}"}
        async with anthropic.AsyncAnthropic(api_key=KEY, base_url=side.url, max_retries=0, default_headers=headers) as sdk:
            said.append(side.normal(await ASYNC[work](sdk)))
    assert said[0]
    assert not differences(*said)


async def _created(sdk: anthropic.AsyncAnthropic) -> Any:
    return plain(await sdk.messages.create(**ask("later")))


async def _streamed(sdk: anthropic.AsyncAnthropic) -> Any:
    async with sdk.messages.stream(**ask("later, in parts")) as stream:
        return [plain(event) async for event in stream]


async def _batches(sdk: anthropic.AsyncAnthropic) -> Any:
    for text in ("one", "two", "three"):
        made = await sdk.messages.batches.create(requests=[{"custom_id": "one", "params": ask(text)}])
    results = [plain(result) async for result in await sdk.messages.batches.results(made.id)]
    return [plain(batch) async for batch in sdk.messages.batches.list(limit=2)], results


async def _files(sdk: anthropic.AsyncAnthropic) -> Any:
    made = await sdk.files.upload(file=("pond.txt", b"water", "text/plain"))
    return plain(made), plain(await (await sdk.files.download(made.id)).read())


ASYNC = {"create": _created, "stream": _streamed, "batches": _batches, "files": _files}
