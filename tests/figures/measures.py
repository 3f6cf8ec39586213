"""The figures: what a crowd of equal calls costs the daemon, and how long /healthz takes while a large body arrives."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from conftest import until
from figures.parts import cpu_s, crowd, request, say, watching
from fleet import daemon, simulated
from headrace.simulator import Options
from scripted import MESSAGE, Line, serving

BLOCKS = 440_000
EVENTS = 1_000


@dataclass(frozen=True)
class Cost:
    """What a crowd cost: CPU seconds of the daemon, the answers' statuses, and how often upstream was asked."""

    cpu_s: float
    statuses: Counter[int]
    asked: int


def asks(text: str, max_tokens: int = 9) -> dict[str, object]:
    return {"model": "claude-haiku-4-5", "max_tokens": max_tokens, "messages": [{"role": "user", "content": text}]}


async def refused(number: int) -> Cost:
    """Measure so many equal calls at once that do not fit into what is left of a budget."""
    limit = '[{name = "org", requests_per_minute = 1}]'
    async with simulated() as simulator:
        with daemon(simulator.url, LIMIT=limit) as at:
            await say(at.http, request(at.http, asks("the only one")))
            before = cpu_s(at.served.process.pid)
            statuses = await crowd(at.http, request(at.http, asks("the same"), "x-headrace-timeout-ms: 5000"), number)
            return Cost(cpu_s(at.served.process.pid) - before, statuses, simulator.counts.total - 1)


async def hits(number: int) -> Cost:
    """Measure so many equal calls at once that are answered from memory: what the connections alone cost."""
    async with simulated() as simulator:
        with daemon(simulator.url) as at:
            asked = request(at.http, asks("the same"))
            await say(at.http, asked)
            before = cpu_s(at.served.process.pid)
            statuses = await crowd(at.http, asked, number)
            return Cost(cpu_s(at.served.process.pid) - before, statuses, simulator.counts.total - 1)


async def followed(number: int, *, streams: bool = False) -> Cost:
    """Measure so many callers of one stream of a thousand events; each wants it whole, or (*streams*) event by event."""
    options = Options(first_token_s=4, tokens_per_s=EVENTS / 4, jitter=0, answer_tokens=(EVENTS, EVENTS), delta_tokens=1)
    async with simulated(options) as simulator:
        with daemon(simulator.url) as at:
            body = asks("the same", max_tokens=EVENTS)
            leader = asyncio.create_task(say(at.http, request(at.http, body | {"stream": True})))
            await until(lambda: simulator.counts.running == 1)
            before = cpu_s(at.served.process.pid)
            statuses = await crowd(at.http, request(at.http, body | {"stream": streams}), number)
            await leader
            return Cost(cpu_s(at.served.process.pid) - before, statuses, simulator.counts.total)


def large_body(*, word: str = "water") -> bytes:
    """Return 29 MB of small blocks."""
    blocks = [{"type": "text", "text": f"{word} {number:>12} by and by"} for number in range(BLOCKS)]
    return json.dumps(asks("") | {"messages": [{"role": "user", "content": blocks}]}, separators=(",", ":")).encode()


async def say_either(line: Line) -> None:
    """Answer messages and chats."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    chat = {"id": "chatcmpl_1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    usage = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
    is_chat = b"/v1/chat/" in line.head.partition(b"\r\n")[0]
    await line.answer(200, json.dumps(chat | usage).encode() if is_chat else MESSAGE, "content-type: application/json")


async def healthz_s(path: str = "/v1/messages", *, word: str = "water") -> tuple[float, float]:
    """Return the worst /healthz of a daemon at rest, and while a large body arrives, in seconds."""
    body = large_body(word=word)
    async with serving(say_either) as server:
        with daemon(server.url) as at:
            async with watching(at.http) as at_rest:
                await asyncio.sleep(1)
            asked = request(at.http, body, path=path)
            async with watching(at.http) as busy:
                answer = await say(at.http, asked)
            assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
    return at_rest[0], busy[0]
