"""What GetUsage says of a run is what upstream itself counted, to the token, whoever was answered, and from where."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import aiohttp
import grpc.aio
import pytest

from daemon_process import environment, headrace
from fleet import daemon_beside, simulated
from headrace.simulator.faults import Kind, Rule
from headrace.v1 import usage_service_pb2 as pb
from headrace.v1.usage_service_pb2_grpc import UsageServiceStub

pytestmark = pytest.mark.slow

MODELS = ("claude-sonnet-5", "claude-haiku-4-5", "sim-1")
FAULTS = (
    Rule(kind=Kind.OVERLOADED, text="overloaded", probability=0.4),
    Rule(kind=Kind.API_ERROR, text="failing", probability=0.4),
    Rule(kind=Kind.RESET, text="reset", probability=0.3),
    Rule(kind=Kind.HALF_JSON, text="halved", stream=False, probability=0.3),
    Rule(kind=Kind.HALF_STREAM, text="halved", stream=True, after_deltas=0, probability=0.3),
    Rule(kind=Kind.STREAM_ERROR, text="broken", after_deltas=2),
    Rule(kind=Kind.HANG, text="left", after_deltas=2),
)
KINDS = ("plain", "overloaded", "failing", "reset", "halved")


class Run:
    """Calls to some daemons, and how many ended in which way, by the daemons' own word to their callers."""

    def __init__(self, session: aiohttp.ClientSession, doors: list[str]) -> None:
        self.session, self.doors = session, doors
        self.ends: Counter[str] = Counter()
        self.made = 0

    async def call(self, model: str, text: str, *, stream: bool = False, leaves: bool = False) -> None:
        """Make a call; the daemons take turns."""
        self.made += 1
        door, caller = self.doors[self.made % len(self.doors)], f"caller-{self.made % 3}"
        body = {"model": model, "max_tokens": 60, "stream": stream, "messages": [{"role": "user", "content": text}]}
        headers = {"anthropic-version": "2023-06-01", "x-headrace-caller": caller}
        async with self.session.post(f"{door}/v1/messages", json=body, headers=headers) as response:
            if leaves:
                await response.content.readany()
                return
            said = await response.read()
            whole = b"message_stop" in said if stream else response.status == 200
            self.ends[response.headers["x-headrace-source"] if whole else "failed"] += 1


async def usage(address: str, **asked) -> list[pb.UsageRow]:
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await UsageServiceStub(channel).GetUsage(pb.GetUsageRequest(**asked), timeout=10)
    return list(reply.rows)


async def told(addresses: list[str]) -> dict[str, dict[str, int]]:
    """Return what each daemon has, posted by its asking it, as the last one tells it."""
    rows = [await usage(address, group_by=["model"]) for address in addresses][-1]
    return {row.group[0]: {"input_tokens": row.tokens.input, "output_tokens": row.tokens.output} for row in rows}


async def test_to_the_token(valkey_url, tmp_path):
    """Streams and units, hits and shared calls, retries by whichever daemon, broken streams, and callers that leave."""
    settings = {"RETRY__BACKOFF": "0.05s..0.2s"}
    async with (
        simulated() as simulator,
        daemon_beside(simulator.url, valkey_url, **settings) as one,
        daemon_beside(simulator.url, valkey_url, **settings) as other,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=40)) as session,
    ):
        for rule in FAULTS:
            simulator.faults.add(rule)
        run = Run(session, [one.http, other.http])
        await asyncio.gather(
            *(
                run.call(model, f"{kind} {number % 9}", stream=number % 3 == 0)  # each is asked several times at once
                for model in MODELS for kind in KINDS for number in range(27)
            ),
            *(run.call(model, f"broken {number}", stream=True) for model in MODELS for number in range(5)),
        )  # fmt: skip
        for number in range(30):
            await run.call(MODELS[0], f"plain {number % 9}", stream=number % 3 == 0)
        await asyncio.gather(*(run.call(MODELS[1], f"left {number}", stream=True, leaves=True) for number in range(4)))

        addresses = [one.grpc, other.grpc]
        wanted = simulator.counts.told
        found = await told(addresses)
        for _ in range(50):  # the callers that left are missed a moment later
            if found == wanted:
                break
            await asyncio.sleep(0.1)
            found = await told(addresses)
        assert found == wanted

        [row] = await usage(one.grpc)
        calls = {field.name: count for field, count in row.calls.ListFields()}
        assert calls.pop("left") == 4
        assert calls == run.ends
        assert sum(calls.values()) + 4 == run.made > 400
        assert {"upstream", "shared", "cache", "failed"} <= calls.keys()
        assert row.attempts.total == simulator.counts.total
        assert row.attempts.total - row.attempts.failed == simulator.counts.outcomes["answered"]
        assert row.saved_by_cache.output_tokens > 0 < row.saved_by_sharing.output_tokens
        assert row.unpriced_tokens == sum(wanted["sim-1"].values())
        haiku = wanted["claude-haiku-4-5"]
        [priced] = await usage(one.grpc, model="*haiku*")
        assert priced.cost_nano_usd == 1000 * haiku["input_tokens"] + 5000 * haiku["output_tokens"]

        environ = environment(tmp_path, HEADRACE_LISTEN__GRPC=json.dumps([one.grpc]))
        command = await asyncio.to_thread(headrace, "usage", "--by", "model", "--since", "1h", "--json", environ=environ)
        assert {row["model"]: row["output_tokens"] for row in json.loads(command.stdout)} == {
            model: told["output_tokens"] for model, told in wanted.items()
        }
        for option in ("--csv", "--per=day"):
            command = await asyncio.to_thread(headrace, "usage", "--by", "caller", option, environ=environ)
            assert command.returncode == 0, command.stderr
            assert "caller-2" in command.stdout
