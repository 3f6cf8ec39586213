"""A daemon that asks for keys, before an upstream that holds things for all who have its one key; and who asks."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doors import call, grpc_server, http_door
from flow_parts import Daemon, daemon
from headrace.callers import KeyStore
from headrace.edge.http_server import HttpServer
from scripted import Line, Server, serving

ROLES = {"CALLER__BOSS__ROLE": "admin", "CALLER__EYE__ROLE": "observer", "CALLER__OPS__ROLE": "operator"}
KEYS = {"AUTH__REQUIRED": "true", **ROLES}
NAMES = ("ann", "bob", "eye", "ops", "boss")
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 2},
}  # fmt: skip
CALL = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


def thing(prefix: str, number: int) -> str:
    return f"{prefix}_{number:024}"


@dataclass
class Upstream:
    """An upstream with things in collections, and lists of them in both shapes; everybody with our key has them all."""

    things: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=lambda: MESSAGE)
    made: int = 0

    async def talk(self, line: Line) -> None:
        method, target = line.head.split(b" ")[:2]
        path, _, query = target.decode().partition("?")
        self.asked.append((method.decode(), target.decode()))
        status, said = self._say(method.decode(), path, dict(pair.split("=") for pair in query.split("&") if pair), line.body)
        body = b"" if method == b"HEAD" else json.dumps(said).encode()
        await line.answer(status, body, "content-type: application/json")

    def _say(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any]:
        if path in ("/v1/messages", "/v1/messages/count_tokens"):
            return 200, self.answer
        parts = path.removeprefix("/v1/").replace("messages/batches", "batches").split("/")
        kept = self.things.setdefault(parts[0], [])
        if len(parts) == 1:
            return self._collection(method, parts[0], kept, query)
        found = next((each for each in kept if each["id"] == parts[1]), None)
        if found is None:
            return 404, {"type": "error", "error": {"type": "not_found_error", "message": "no"}}
        if method == "DELETE" and len(parts) == 2:
            kept.remove(found)
        return 200, found

    def _collection(self, method: str, name: str, kept: list[Any], query: dict[str, str]) -> tuple[int, Any]:
        if method == "POST":
            self.made += 1
            prefix = {"batches": "msgbatch", "files": "file", "skills": "skill"}.get(name, name.rstrip("s"))
            kept.insert(0, made := {"id": thing(prefix, self.made), "type": prefix})
            return 200, made
        size = int(query.get("limit", 20))
        if name not in ("batches", "files"):  # by cursor
            first = int(query.get("page", 0))
            more = str(first + size) if first + size < len(kept) else None
            return 200, {"data": kept[first : first + size], "next_page": more}
        ids = [each["id"] for each in kept]
        if before := query.get("before_id"):
            last = ids.index(before)
            first = max(0, last - size)
            has_more = first > 0
        else:
            first = ids.index(query["after_id"]) + 1 if "after_id" in query else 0
            last = min(len(kept), first + size)
            has_more = last < len(kept)
        page = kept[first:last]
        ends = (page[0]["id"], page[-1]["id"]) if page else (None, None)
        return 200, {"data": page, "has_more": has_more, "first_id": ends[0], "last_id": ends[1], "odd": 1.50}


@dataclass
class House:
    """A daemon, both its doors, and a key for everybody."""

    upstream: Upstream
    server: Server
    one: Daemon
    http: HttpServer
    port: int
    keys: dict[str, str]
    door: str = "http"

    async def ask(self, who: str, method: str, path: str, body: Any = b"", **headers: str) -> tuple[int, Any]:
        """Ask by the door that is to be tried; return the status, and the JSON that came."""
        status, came = await self.ask_raw(who, method, path, body, **headers)
        return status, json.loads(came) if came else None

    async def ask_raw(self, who: str, method: str, path: str, body: Any = b"", **headers: str) -> tuple[int, bytes]:
        key = {"x-api-key": self.keys[who]} if who else {}
        said = {"content-type": "application/json"} if who else {}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        if self.door == "grpc":
            path, _, query = path.partition("?")
            pairs, metadata = tuple(said.items()), tuple(key.items())
            status, _, came = await call(self.port, method, path, pairs, raw, metadata, query=query)
            return status, came
        return await self._http(method, path, key | said, raw)

    async def _http(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.http.port)
        head = [f"{method} {path} HTTP/1.1", "host: localhost", "connection: close", f"content-length: {len(body)}"]
        with contextlib.closing(writer):
            writer.write("\r\n".join([*head, *(f"{name}: {value}" for name, value in headers.items())]).encode())
            writer.write(b"\r\n\r\n" + body)
            came = await asyncio.wait_for(reader.read(), 20)
        head_, _, rest = came.partition(b"\r\n\r\n")
        return int(head_.split()[1]), rest

    async def make(self, who: str, path: str = "/v1/files") -> str:
        status, said = await self.ask(who, "POST", path, {} if "batches" not in path else {"requests": []})
        assert status == 200, said
        return said["id"]

    async def listed(self, who: str, path: str) -> list[str]:
        status, said = await self.ask(who, "GET", path)
        assert status == 200, said
        return [each["id"] for each in said["data"]]


@contextlib.asynccontextmanager
async def opened(url: str, path: Path, door: str = "http", **settings: str) -> AsyncIterator[House]:
    settings, upstream = KEYS | settings, Upstream()
    async with (
        serving(upstream.talk) as server,
        daemon(url, server.url, path, **settings) as one,
        http_door(one, **settings) as http,
        grpc_server(one, path, **settings) as rpc,
    ):
        named = {name: await KeyStore(one.parts.link).create(name) for name in NAMES}
        await one.parts.callers.load()
        yield House(upstream, server, one, http, rpc.ports[0], named, door)


def is_missing(status: int, said: Any) -> bool:
    return status == 404 and said["type"] == "error" and said["error"]["type"] == "not_found_error"
