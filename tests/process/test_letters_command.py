"""`headrace letters` against an installed daemon: what each command prints, its JSON, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import grpc.aio

from conftest import until
from daemon_process import environment, headrace
from fleet import Daemon, daemon_beside, simulated
from headrace.v1 import messages_service_pb2 as messages
from headrace.v1 import messages_service_pb2_grpc as messages_grpc

PARAMS = {"model": "nobodys-model", "max_tokens": 9, "messages": [{"role": "user", "content": {"text": "hi"}}]}


async def failed(at: Daemon, count: int) -> list[str]:
    """Submit calls that upstream has no model for, and return their tickets, in the order in which they failed."""
    found = []
    async with grpc.aio.insecure_channel(at.grpc) as channel:
        for _ in range(count):
            stub = messages_grpc.MessagesServiceStub(channel)
            found.append((await stub.SubmitMessage(messages.SubmitMessageRequest(params=PARAMS))).ticket.id)  # type: ignore[arg-type]
    return found


class Commands:
    """The commands against one daemon."""

    def __init__(self, at: Daemon, path: Path) -> None:
        self._environ = environment(path, HEADRACE_LISTEN__GRPC=json.dumps([at.grpc]))

    def __call__(self, *words: str, code: int = 0) -> str:
        ran = headrace("letters", *words, environ=self._environ)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout

    def ids(self, *words: str) -> set[str]:
        return {letter["ticket"]["id"] for letter in json.loads(self("list", "--json", *words))}


async def test_commands(valkey_url: str, tmp_path: Path) -> None:
    """Letters are listed, shown, queued again (and fail again), and dropped; what is none has an exit code of its own."""
    async with simulated() as simulator, daemon_beside(simulator.url, valkey_url) as one:
        letters = Commands(one, tmp_path)
        made = await failed(one, 3)
        await until(lambda: letters.ids() == set(made), within=30)
        assert made[0] in letters("list")
        assert letters.ids("--model", "claude-*") == letters.ids("--caller", "somebody") == set()
        assert len(letters.ids("--most", "2")) == 2

        said = json.loads(letters("show", made[0], "--json"))
        assert (said["ticket"]["state"], said["ticket"]["error"]["upstream_status"]) == ("TICKET_STATE_FAILED", 404)
        assert json.loads(said["body"])["model"] == PARAMS["model"]
        assert made[0] in letters("show", made[0])
        letters("show", "tkt_nothing", code=3)

        again = json.loads(letters("requeue", made[0], "--for", "5m", "--json"))
        assert again[made[0]]["id"] == made[0]
        await until(lambda: letters.ids() == set(made), within=30)
        done = letters("drop", made[0], "tkt_nothing", made[1], code=3)
        assert done.count("dropped") == 2
        assert letters.ids() == {made[2]}
        for words in ((), (made[2], "--all"), (made[2], "--caller", "x")):
            letters("drop", *words, code=2)
        letters("drop", "--all", "--caller", "default")
        assert letters.ids() == set()
    letters("list", code=1)
