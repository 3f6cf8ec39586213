"""What answers tell of having been made at upstream belongs to whoever asked; and what is so while Redis is away."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import start_valkey, until
from headrace import keys
from lent import CALL, MESSAGE, is_missing, opened, thing
from scripted import Line

DOORS = pytest.mark.parametrize("door", ["http", "grpc"])

RAN = {"type": "code_execution_tool_result", "tool_use_id": "srvtoolu_1", "content": {
    "type": "code_execution_result", "content": [{"type": "code_execution_output", "file_id": "file_written0by0code0"}],
}}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@DOORS
async def test_made_in_answers(valkey_url: str, tmp_path: Path, door: str, stream: bool) -> None:
    """The container of an answer, and files written there, belong to whoever asked; what the model says claims none."""
    tools = {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}], "stream": stream}
    spoken = {
        "type": "tool_use",
        "id": "toolu_1",
        "name": "f",
        "input": {"file_id": thing("file", 5), "container": {"id": "c"}},
    }
    answer = MESSAGE | {
        "content": [RAN, spoken, {"type": "text", "text": json.dumps({"file_id": thing("file", 6)})}],
        "container": {"id": thing("container", 1), "expires_at": "2026-12-01T00:00:00Z"},
    }

    async def talk(line: Line) -> None:
        if line.head.startswith(b"POST /v1/messages "):
            if not json.loads(line.body).get("stream"):
                return await line.answer(200, json.dumps(answer).encode(), "content-type: application/json")
            events = [{"type": "message_start", "message": MESSAGE | {"content": []}}]
            for index, block in enumerate(answer["content"]):
                events.append({"type": "content_block_start", "index": index, "content_block": block})
                events.append({"type": "content_block_stop", "index": index})
            delta = {"stop_reason": "end_turn", "container": answer["container"]}
            events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 2}})
            events.append({"type": "message_stop"})
            body = "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events).encode()
            return await line.answer(200, body, "content-type: text/event-stream")
        return await line.answer(200, b"{}", "content-type: application/json")

    async with opened(valkey_url, tmp_path, door) as house:
        house.server.talk = talk
        status, _ = await house.ask_raw("ann", "POST", "/v1/messages", CALL | tools)
        assert status == 200
        link = house.one.parts.link
        found = {key.decode().removeprefix(keys.resource("")) for key in await link.do("KEYS", keys.resource("*"))}
        assert found == {thing("container", 1), "file_written0by0code0"}
        assert (await house.ask("ann", "GET", "/v1/files/file_written0by0code0/content"))[0] == 200
        assert is_missing(*await house.ask("bob", "GET", "/v1/files/file_written0by0code0/content"))
        again = CALL | tools | {"container": thing("container", 1), "stream": False}
        assert (await house.ask("ann", "POST", "/v1/messages", again))[0] == 200
        assert is_missing(*await house.ask("bob", "POST", "/v1/messages", again))
        assert await link.do("TTL", keys.resource(thing("container", 1))) > 30 * 86_400
        assert await link.do("TTL", keys.resource("file_written0by0code0")) == -1


@DOORS
async def test_made_in_results(valkey_url: str, tmp_path: Path, door: str) -> None:
    """What the requests of a batch have made is its owner's, once it has the results."""
    async with opened(valkey_url, tmp_path, door) as house:
        batch = await house.make("ann", "/v1/messages/batches")
        message = MESSAGE | {"content": [RAN], "container": {"id": thing("container", 4)}}
        plain = {"custom_id": "b", "result": {"type": "succeeded", "message": MESSAGE}}
        lines = [plain, {"custom_id": "a", "result": {"type": "succeeded", "message": message}}, plain]

        async def talk(line: Line) -> None:
            body = "".join(json.dumps(each) + "\n" for each in lines).encode() if b"results" in line.head else b"{}"
            await line.answer(200, body, "content-type: application/x-jsonl")

        house.server.talk = talk
        status, came = await house.ask_raw("ann", "GET", f"/v1/messages/batches/{batch}/results")
        assert (status, [json.loads(each) for each in came.splitlines()]) == (200, lines)
        assert (await house.ask("ann", "GET", "/v1/files/file_written0by0code0"))[0] == 200
        assert is_missing(*await house.ask("bob", "GET", "/v1/files/file_written0by0code0"))
        assert (await house.ask("ann", "POST", "/v1/messages/count_tokens", CALL | {"container": thing("container", 4)}))[
            0
        ] == 200


@pytest.mark.parametrize("stream", [False, True])
@DOORS
async def test_threads(valkey_url: str, tmp_path: Path, door: str, stream: bool) -> None:
    """A conversation that upstream holds is continued by its caller alone, in messages and in batches."""
    async with opened(valkey_url, tmp_path, door) as house:
        name = f"msg_{1:024}"
        answer = MESSAGE | {"id": name}

        async def talk(line: Line) -> None:
            if not json.loads(line.body or b"{}").get("stream"):
                return await line.answer(200, json.dumps(answer).encode(), "content-type: application/json")
            events = [
                {"type": "message_start", "message": answer | {"content": []}},
                {"type": "content_block_start", "index": 0, "content_block": answer["content"][0]},
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
                {"type": "message_stop"},
            ]
            body = "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events).encode()
            return await line.answer(200, body, "content-type: text/event-stream")

        house.server.talk = talk
        again = CALL | {"thread": {"type": "continue", "previous_message_id": name}}
        assert is_missing(*await house.ask("ann", "POST", "/v1/messages", again))
        first = CALL | {"thread": {"type": "create"}, "stream": stream}
        assert (await house.ask_raw("ann", "POST", "/v1/messages", first))[0] == 200
        assert (await house.ask("ann", "POST", "/v1/messages", again))[0] == 200
        assert is_missing(*await house.ask("bob", "POST", "/v1/messages", again))
        batch = {"requests": [{"custom_id": "a", "params": again}]}
        assert is_missing(*await house.ask("bob", "POST", "/v1/messages/batches", batch))
        assert (await house.ask("ann", "POST", "/v1/messages/batches", batch))[0] == 200


DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@contextlib.contextmanager
def own_valkey(path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Run a Valkey of the test's own; yield its URL, and what ends it."""
    process, url = start_valkey(path, *DURABLE)

    def stop() -> None:
        process.kill()
        process.wait()

    try:
        yield url, stop
    finally:
        stop()


@DOORS
async def test_redis_away(tmp_path: Path, door: str) -> None:
    """While Redis is away nobody is given what may be another's, and nothing is made; what is known goes on being known."""
    with own_valkey(tmp_path) as (url, stop):
        async with opened(url, tmp_path / "1", door) as house:
            known, other = await house.make("ann"), thing("file", 7)
            house.upstream.things["files"].append({"id": other})
            made = house.upstream.made
            stop()
            refused = await asyncio.gather(
                house.ask("ann", "GET", f"/v1/files/{other}"),
                house.ask("ann", "GET", "/v1/files"),
                house.ask("ann", "POST", "/v1/files", {}),
                house.ask("ann", "POST", "/v1/messages", CALL | {"container": other}),
            )
            assert [(status, said["error"]["type"]) for status, said in refused] == [(503, "api_error")] * 4
            assert house.upstream.made == made
            assert (await house.ask("ann", "GET", f"/v1/files/{known}"))[0] == 200
            assert is_missing(*await house.ask("bob", "GET", f"/v1/files/{known}"))


async def test_redis_goes_meanwhile(tmp_path: Path) -> None:
    """What was made while Redis went away is its maker's all the same, and Redis hears of it when it is back."""
    with own_valkey(tmp_path) as (url, stop):
        async with opened(url, tmp_path / "1") as house:
            owners, talk = house.one.parts.guard.owners, house.server.talk

            async def stopping(line: Line) -> None:
                stop()
                await talk(line)

            house.server.talk = stopping
            hers = await house.make("ann")
            house.server.talk = talk
            assert owners.stats().pending == 1
            assert (await house.ask("ann", "GET", f"/v1/files/{hers}"))[0] == 200
            assert is_missing(*await house.ask("bob", "GET", f"/v1/files/{hers}"))
            process, _ = await asyncio.to_thread(start_valkey, tmp_path, *DURABLE)
            try:
                await until(lambda: owners.stats().pending == 0, within=30)
                assert await house.one.parts.link.do("GET", keys.resource(hers)) == b"ann"
            finally:
                process.kill()
                process.wait()
