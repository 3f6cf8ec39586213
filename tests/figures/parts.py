"""What figures are made of: a process's CPU time, a crowd of plain calls at once, how long /healthz takes meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import select
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds; its children's is not in it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def request(url: str, body: object, *headers: str, path: str = "/v1/messages") -> bytes:
    """Return a whole request, after which the connection is closed."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    host = url.removeprefix("http://")
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", "connection: close", "content-type: application/json",
             "anthropic-version: 2023-06-01", f"content-length: {len(raw)}", *headers]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


async def say(url: str, asked: bytes) -> bytes:
    """Send a request and return everything that comes back."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with contextlib.closing(writer):
        writer.write(asked)
        await writer.drain()
        return await reader.read()


async def crowd(url: str, asked: bytes, number: int) -> Counter[int]:
    """Send the same from so many callers at once; return how often each status came."""
    answers = await asyncio.gather(*(say(url, asked) for _ in range(number)))
    return Counter(int(answer.split(None, 2)[1]) if answer else 0 for answer in answers)


@contextlib.asynccontextmanager
async def watching(url: str) -> AsyncIterator[list[float]]:
    """Ask for /healthz all the time, from a process of its own; the list has the worst answer's seconds after the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    worst: list[float] = []
    await process.stdout.readline()  # it has begun
    try:
        yield worst
    finally:
        process.stdin.close()  # `communicate` leaves it open when it has nothing to say
        said, _ = await process.communicate()
        worst.append(float(said))


def watch(url: str) -> float:
    """Ask for /healthz every few milliseconds until standard input ends; return the slowest answer's seconds."""
    worst = 0.0
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    print("begun", flush=True)
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        began = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        worst = max(worst, time.perf_counter() - began)
    return worst


if __name__ == "__main__":
    print(watch(sys.argv[1]), flush=True)
