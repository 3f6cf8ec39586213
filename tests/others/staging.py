"""A daemon in front of the simulator, both processes of the project's own environment, and what holds of every answer."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "claude-sonnet-5"
MESSAGES, CHATS = "/v1/messages", "/v1/chat/completions"
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Stage:
    """Where programs ask (`edge`), and where to look at what came of it (`simulator`); URLs."""

    edge: str
    simulator: str

    def calls(self, prompt: str) -> list[dict[str, Any]]:
        """Return the simulator's visits with this text in the first 40 characters of their last message."""
        query = urllib.parse.urlencode({"text": prompt})
        return fetched(f"{self.simulator}/_simulator/journal?{query}")["visits"]

    def says(self, prompt: str) -> str:
        """Return what the simulator answers to a prompt, asked past the daemon."""
        asked = {"model": MODEL, "max_tokens": 4096, "messages": [{"role": "user", "content": prompt}]}
        headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
        return fetched(f"{self.simulator}/v1/messages", json.dumps(asked).encode(), headers)["content"][0]["text"]

    def answered(self, prompt: str, text: str, *, stream: bool = False, path: str = MESSAGES) -> None:
        """Check that upstream was asked *prompt* once, in this form, and that *text* is its answer."""
        [call] = self.calls(prompt)
        assert (call["path"], call["model"], call["stream"], call["outcome"]) == (path, MODEL, stream, "answered")
        assert text == self.says(prompt)

    def breaks_off(self, prompt: str, *, after_deltas: int) -> None:
        """Let the next stream with this prompt end with an error."""
        rule = {"kind": "stream_error", "text": prompt, "count": 1, "after_deltas": after_deltas}
        fetched(f"{self.simulator}/_simulator/faults", json.dumps(rule).encode())


def fetched(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
    """Return the JSON at a URL on loopback; with a body, POST it."""
    request = urllib.request.Request(url, body, headers or {})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


@contextlib.contextmanager
def staged(*settings: str) -> Iterator[Stage]:
    """Run both until the block ends; *settings* are the daemon's, as NAME=VALUE."""
    command = (REPOSITORY / ".venv/bin/python", "-m", "tests.stage", *settings)
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line, "the stage did not start: its standard error says why (is .venv installed? make dev)"
        where = json.loads(line)
        try:
            yield Stage(where["http"], where["simulator"])
        finally:
            process.stdin.close()
            process.wait(30)
