"""The example clients, against a real daemon and the simulator."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from fleet import daemon, simulated

EXAMPLES = Path(__file__).parents[2] / "clients" / "examples"


@pytest.fixture
async def simulator():
    async with simulated() as running:
        yield running


async def run(name: str, *arguments: str, said: str = "") -> list[str]:
    """Run an example to its end, and return the lines that it prints."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = await asyncio.to_thread(subprocess.run, command, input=said, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def test_cached_prompt(simulator):
    """The first answer is upstream's, the second the cache's."""
    with daemon(simulator.url) as running:
        first, second = await run("cached_prompt.py", running.grpc)
    assert first.startswith("upstream, ")
    assert second.startswith("cache, ")
    assert first.partition(": ")[2] == second.partition(": ")[2]


async def test_streaming_chat(simulator):
    """Each line is answered, and an answer that fails does not end the chat."""
    simulator.faults.add("spend_limit", text="dear", count=1)
    with daemon(simulator.url, UPSTREAM__OVERLOAD_GATE="off") as running:  # else it would hold for "again", too
        hello, _, refused, again = await run("streaming_chat.py", running.grpc, said="hello\ndear\nagain\n")
    assert hello.startswith('You said: "hello"')
    assert refused.startswith("(UPSTREAM_ERROR")
    assert again.startswith('You said: "again"')


async def test_ticket_batch(simulator):
    """All calls are answered within the budget; the same job again finds the answers and asks nothing."""
    limit = '[{"name": "nightly", "match": {"caller": "nightly"}, "requests_per_minute": 180, "burst": "1s"}]'
    with daemon(simulator.url, LIMIT=limit) as running:
        handed_in, *answers = await run("ticket_batch.py", running.grpc, "6")
        _, *same = await run("ticket_batch.py", running.grpc, "6")
    assert handed_in == "6 handed in"
    assert [f"Describe mill number {number} " in line for number, line in enumerate(answers)] == [True] * 6
    assert all(' -> You said: "Describe mill' in line for line in answers)
    assert same == answers
    assert simulator.counts.total == 6


async def test_anthropic_sdk(simulator, tmp_path):
    """The SDK asks over the socket; what it streams is what it was told before."""
    address = f"unix:{tmp_path}/headrace.sock"
    with daemon(simulator.url, LISTEN__GRPC=f'["{address}", "127.0.0.1:0"]'):
        whole, streamed = await run("anthropic_sdk.py", address)
    assert whole.startswith("upstream: You said:")
    assert streamed == whole.replace("upstream", "cache", 1)


async def test_openai_sdk(simulator):
    """The SDK asks at the HTTP port."""
    with daemon(simulator.url) as running:
        whole, streamed = await run("openai_sdk.py", running.http)
    assert whole.startswith("You said:")
    assert streamed.startswith("You said:")
