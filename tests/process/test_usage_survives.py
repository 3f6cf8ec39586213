"""What a killed daemon had counted, another one tells; and the calls of a run can be written into a file."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import grpc.aio
import pytest

from conftest import until
from daemon_process import environment, headrace
from fleet import daemon_beside, simulated
from headrace.v1 import usage_service_pb2 as pb
from headrace.v1.usage_service_pb2_grpc import UsageServiceStub

pytestmark = pytest.mark.slow

CALLS = 20


async def answered(address: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await UsageServiceStub(channel).GetUsage(pb.GetUsageRequest(), timeout=10)
    return sum(row.calls.upstream for row in reply.rows)


async def ask(door: str, number: int) -> None:
    body = {"model": "claude-sonnet-5", "max_tokens": 20, "messages": [{"role": "user", "content": f"call {number}"}]}
    headers = {"anthropic-version": "2023-06-01", "x-headrace-lane": "batch", "x-headrace-timeout-ms": "30000"}
    async with aiohttp.ClientSession() as session, session.post(f"{door}/v1/messages", json=body, headers=headers) as response:
        assert response.status == 200


async def test_killed(valkey_url, tmp_path):
    """A daemon posts by itself, so that another has its figures when it is killed; nothing is lost at an orderly end."""
    settings = {"USAGE__TRAFFIC": "on"}
    async with simulated() as simulator, daemon_beside(simulator.url, valkey_url) as watching:
        async with daemon_beside(simulator.url, valkey_url, **settings) as killed:
            await asyncio.gather(*(ask(killed.http, number) for number in range(CALLS)))
            await until(lambda: _is(watching.grpc, CALLS), within=5)
            killed.served.process.kill()
            killed.served.process.wait()
        async with daemon_beside(simulator.url, valkey_url, **settings) as leaving:
            await asyncio.gather(*(ask(leaving.http, number) for number in range(CALLS, 2 * CALLS)))
        assert await answered(watching.grpc) == 2 * CALLS

    environ = environment(tmp_path, HEADRACE_REDIS__URL=valkey_url)
    path = tmp_path / "traffic.jsonl"
    command = await asyncio.to_thread(headrace, "usage", "--export-traffic", str(path), environ=environ)
    assert command.stdout == f"{2 * CALLS} calls in {path}\n"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 2 * CALLS
    for line in lines:
        assert line.keys() == {
            "at", "caller", "lane", "model", "endpoint", "input_tokens", "output_tokens", "seconds", "deadline_s",
            "max_tokens", "body_bytes", "labels",
        }  # fmt: skip
        assert (line["lane"], line["endpoint"], line["deadline_s"]) == ("batch", "messages", 30.0)
        assert (line["max_tokens"], line["labels"]) == (20, "")
        assert line["body_bytes"] > 80
        assert line["input_tokens"] > 0 < line["output_tokens"]
    assert sum(line["output_tokens"] for line in lines) == simulator.counts.told["claude-sonnet-5"]["output_tokens"]


async def test_no_traffic(valkey_url, tmp_path):
    """Where none is kept, that is said."""
    environ = environment(tmp_path, HEADRACE_REDIS__URL=valkey_url)
    command = await asyncio.to_thread(headrace, "usage", "--export-traffic", str(tmp_path / "t"), environ=environ)
    assert (command.returncode, "usage.traffic" in command.stderr) == (1, True)


async def _is(address: str, count: int) -> bool:
    return await answered(address) == count
