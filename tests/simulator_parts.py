"""What tests of the simulator share: calls of it over plain HTTP and by the official SDK, and its control endpoints."""

from __future__ import annotations

from typing import Any

import aiohttp
import anthropic
import msgspec

from headrace.simulator import Simulator

KEY = {"x-api-key": "sk-test", "anthropic-version": "2026-10-21"}
ADMIN = "sk-ant-admin01-test"
PARAMS: dict[str, Any] = {"model": "claude-sonnet-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}


def call(prompt: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": "claude-sonnet-5", "max_tokens": 200, "messages": [{"role": "user", "content": prompt}], **fields}


async def post(web: aiohttp.ClientSession, simulator: Simulator, body: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Send a call, a value or raw bytes; an empty header is one that is not sent."""
    sent = {name: value for name, value in (KEY | {k.replace("_", "-"): v for k, v in headers.items()}).items() if value}
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    async with web.post(simulator.url + "/v1/messages", data=raw, headers=sent) as response:
        text = await response.read()
        is_json = response.content_type == "application/json"
        return (
            response.status,
            msgspec.json.decode(text) if is_json else text,
            {k.lower(): v for k, v in response.headers.items()},
        )


async def control(web: aiohttp.ClientSession, simulator: Simulator, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else msgspec.json.encode(body)
    async with web.request(method, f"{simulator.url}/_simulator/{path}", data=data) as response:
        return msgspec.json.decode(await response.read()) | {"status": response.status}


def client(simulator: Simulator, key: str = "sk-test", version: str = "2026-10-21") -> anthropic.AsyncAnthropic:
    """The official SDK, without its own retries."""
    said = {"anthropic-version": version}
    return anthropic.AsyncAnthropic(api_key=key, base_url=simulator.url, max_retries=0, default_headers=said)


async def listed(pages: Any) -> list[Any]:
    return [item async for item in pages]
