"""Traces through a collector of OpenTelemetry's own: what it takes over OTLP, and hands on, is what befell the call."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.packaged.place import ROOT

from conftest import missing, until
from fleet import simulated
from otlp import Receiver, outline, receiving, tree
from traced import MODEL, SETTINGS, Stage, daemon_with, named, new

TREE = """\
headrace call
  admission
  cache
  flight
  attempt 1
  parked
  attempt 2"""
CONFIGURATION = """
receivers: {{otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}}}
exporters: {{otlphttp: {{endpoint: "{onward}"}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{traces: {{receivers: [otlp], exporters: [otlphttp]}}}}
"""


@contextlib.asynccontextmanager
async def collecting(directory: Path, onward: Receiver) -> AsyncIterator[Receiver]:
    """Run a collector that hands on what it takes; yields where it takes it."""
    binary = ROOT / ".venv-tools" / "bin" / "collector"
    if not binary.exists():
        missing("collector (make packaged)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (directory / "config.yaml").write_text(CONFIGURATION.format(port=port, onward=onward.url))
    process = await asyncio.create_subprocess_exec(binary, "--config", str(directory / "config.yaml"))

    async def listens() -> bool:
        assert process.returncode is None
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    try:
        await until(listens, within=30)
        yield Receiver(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.long
async def test_collector(tmp_path: Path) -> None:
    """A parked call, whole: each span under its parent, with what it says."""
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        receiver, simulator = await enter(receiving()), await enter(simulated())
        collector = await enter(collecting(tmp_path, receiver))
        simulator.faults.add("overloaded", path="/v1/*", text="prompt", count=1)
        daemon = await enter(daemon_with(collector, simulator.url, **SETTINGS))
        stage, asked = Stage(simulator, daemon, receiver, await enter(aiohttp.ClientSession()), None), new()
        assert await stage.http("prompt", asked) == "upstream"
        spans = await stage.told(asked, "headrace call", "attempt 1", "attempt 2")
    print(tree(spans))
    assert outline(spans) == TREE
    call, second = named(spans, "headrace call"), named(spans, "attempt 2")
    assert (call.parent, second.parent) == (asked.span_id, call.span_id)
    assert (second.attributes["gen_ai.request.model"], second.resource["service.name"]) == (MODEL, "headrace")
