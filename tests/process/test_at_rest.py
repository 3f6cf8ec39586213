"""With a key to encrypt, nothing that was asked or said can be read from the disk, our own Valkey's files included."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from daemon_process import Served, environment, serving
from scripted import MESSAGE, Line
from scripted import serving as scripted

PROMPT, SAID = "PROMPTMARK", "ANSWERMARK"


async def talk(line: Line) -> None:
    """Answer; the first time that a prompt is to be late, say that there is too much to do, so that it is parked."""
    if b" late" in line.body and line.body not in _late:
        _late.add(line.body)
        await line.answer(529, json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": SAID}}).encode())
    else:
        await line.answer(200, MESSAGE.replace(b'"Hi"', f'"{SAID}"'.encode()))


_late: set[bytes] = set()


def marks(directory: Path) -> set[str]:
    """Which of the markers can be read in files of the directory."""
    said = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    return {mark for mark in (PROMPT, SAID) if mark.encode() in said}


async def ask(served: Served, kind: str) -> str:
    """Make a call and return what the cache had to do with it."""
    started = next(json.loads(line) for line in served.log.splitlines() if "daemon.started" in line)
    http = started["addresses"][-1]
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": f"{PROMPT} {kind}"}]}
    async with aiohttp.ClientSession() as session, session.post(f"{http}/v1/messages", json=body) as response:
        assert SAID in await response.text()
        return response.headers["cache-status"]


@pytest.mark.parametrize("encrypted", [True, False], ids=["encrypted", "plain"])
async def test_at_rest(tmp_path_factory, encrypted):
    """Answers and parked calls say nothing there, and are found again after a restart with another key before the old one."""
    _late.clear()
    directory, key = tmp_path_factory.mktemp("r"), tmp_path_factory.mktemp("k") / "key"
    key.write_text("old" * 12)
    async with scripted(talk) as upstream:
        environ = environment(
            directory,
            HEADRACE_UPSTREAM__BASE_URL=upstream.url,
            HEADRACE_UPSTREAM__API_KEY="sk-test",
            HEADRACE_UPSTREAM__OVERLOAD_GATE="off",
            HEADRACE_RETRY__BACKOFF="0.05s..0.1s",
            HEADRACE_LISTEN__GRPC="[]",
            **({"HEADRACE_STATE__ENCRYPTION_KEY_FILE": str(key)} if encrypted else {}),
        )
        running = serving(environ)
        served = await asyncio.to_thread(running.__enter__)
        for kind in ("soon", "late"):
            assert "hit" not in await ask(served, kind)
        await asyncio.to_thread(running.__exit__, None, None, None)
        assert marks(directory) == (set() if encrypted else {PROMPT, SAID})

        key.write_text(f"{'new' * 12}\n{'old' * 12}\n")
        running = serving(environ)
        served = await asyncio.to_thread(running.__enter__)
        assert "hit" in await ask(served, "soon")
        await asyncio.to_thread(running.__exit__, None, None, None)
        assert marks(directory) == (set() if encrypted else {PROMPT, SAID})
