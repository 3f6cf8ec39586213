"""
Asks what operators ask in a bad hour, by the commands that answer it: two hosts on one Redis, three callers, and a storm.

    python -m tests.questions      (`make questions`)

Writes the commands and what they said, all of one run, into docs/operate/questions.md; fails where an answer lacks what was
asked for, and then writes nothing. Nothing in it is edited but the names of the hosts: both run on this machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import shlex
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
import grpc.aio
from tests.questions.page import Answer, page

from conftest import start_valkey, until
from daemon_process import headrace
from fleet import Daemon, daemon_beside, simulated
from headrace.simulator import Options, Simulator
from headrace.v1.messages_service_pb2 import SubmitMessageRequest
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub

INTO = Path(__file__).parents[2] / "docs" / "operate" / "questions.md"
MODEL = "claude-sonnet-4-5"
LIMITS = [
    {"name": "org", "per": ["class"], "requests_per_minute": 240, "input_tokens_per_minute": 40_000, "burst": "20s"},
    {"name": "reports", "match": {"caller": "reports"}, "requests_per_minute": 30, "burst": "10s"},
]
SETTINGS = {
    "LIMIT": json.dumps(LIMITS),
    "AUTH__DEFAULT_ROLE": "operator",
    "CALLER__CHECKOUT__TEAM": "payments",
    "CALLER__CHECKOUT__LANE": "interactive",
    "CALLER__REPORTS__TEAM": "analytics",
    "CALLER__REPORTS__LANE": "batch",
    "CALLER__NIGHTLY__TEAM": "analytics",
    "RETRY__BACKOFF": "6s..20s",
    "UPSTREAM__OVERLOAD_GATE": "off",  # else most calls would wait at the gate, where they are not parked
    "LOG__SLOW": "5s",
    "DRAIN__TIME": "3s",
}
PLAN = {"checkout": 1.2, "reports": 1.8, "nightly": 0.6}  # calls a second
UPSTREAM = Options(first_token_s=0.3, tokens_per_s=400.0, answer_tokens=(20, 90), seed=5)
CALM_S, STORM_S = 15.0, 15.0


@dataclass
class Call:
    """A call that was answered: how long it took (s), by which id it is known, and after how many attempts."""

    took_s: float
    id: str
    attempts: int


@dataclass
class Hour:
    """The run: two hosts, what callers got, and what commands said."""

    one: Daemon
    two: Daemon
    simulator: Simulator
    session: aiohttp.ClientSession
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    answered: list[Call] = field(default_factory=list)
    answers: dict[int, list[Answer]] = field(default_factory=dict)

    async def call(self, at: Daemon, caller: str, text: str) -> None:
        """Make a call, and note how it went if it was answered."""
        body = {"model": MODEL, "max_tokens": 90, "messages": [{"role": "user", "content": text}]}
        headers = {"anthropic-version": "2023-06-01", "x-headrace-caller": caller, "x-headrace-timeout-ms": "240000"}
        began = asyncio.get_running_loop().time()
        async with self.session.post(f"{at.http}/v1/messages", json=body, headers=headers) as response:
            await response.read()
            if response.status == 200:
                took_s = asyncio.get_running_loop().time() - began
                said = response.headers
                self.answered.append(Call(took_s, said["x-headrace-request-id"], int(said["x-headrace-attempts"])))

    async def traffic(self, caller: str, a_second: float) -> None:
        """Ask as a caller does, at either host, now and then what it has asked before."""
        asked: set[asyncio.Task[None]] = set()
        try:
            while True:
                await asyncio.sleep(self.chance.expovariate(a_second))
                is_old = self.chance.random() < 0.3
                text = f"{caller} {self.chance.randrange(3)}" if is_old else f"{caller} {self.chance.random()}" + " word" * 150
                task = asyncio.create_task(self.call(self.chance.choice((self.one, self.two)), caller, text))
                asked.add(task)
                task.add_done_callback(asked.discard)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def letters(self, count: int) -> None:
        """Submit calls that fail for good: upstream has no such model."""
        params = {"model": "nobodys-model", "max_tokens": 9, "messages": [{"role": "user", "content": {"text": "hi"}}]}
        request = SubmitMessageRequest(params=params)  # type: ignore[arg-type]
        request.options.caller = "nightly"
        async with grpc.aio.insecure_channel(self.one.grpc) as channel:
            for _ in range(count):
                await MessagesServiceStub(channel).SubmitMessage(request, timeout=20)

    async def said(self, line: str, at: Daemon) -> tuple[int, str]:
        """Give a command, as an operator would; return its exit code, and what it says."""
        environ = at.served.environ | {"HEADRACE_LISTEN__GRPC": json.dumps([at.grpc])}
        done = await asyncio.to_thread(headrace, *shlex.split(line), environ=environ)
        return done.returncode, self._named(done.stdout + done.stderr)

    async def has(self, filters: str) -> bool:
        """Whether there are such tickets."""
        _, said = await self.said(f"tickets list {filters} --json", self.one)
        return json.loads(said) != []

    async def waits(self, limit: str) -> bool:
        """Whether calls wait for a limit."""
        _, said = await self.said(f"limits show {limit}", self.one)
        return "goes in" in said

    async def ask(self, number: int, line: str, *says: str, at: Daemon | None = None) -> None:
        """Give a command, and keep what it says, which has to have *says* in it."""
        code, said = await self.said(line, at or self.one)
        if code or (lacks := [each for each in says if each not in said]):
            raise SystemExit(f"headrace {line}: exit code {code}, lacks {'-' if code else lacks}\n{said}")
        self.answers.setdefault(number, []).append(Answer(line, said))

    def _named(self, said: str) -> str:
        """Return it with names for the two hosts, tables as wide as they were."""
        for name, host in (("web-1", self.one), ("web-2", self.two)):
            ours = rf"{re.escape(socket.gethostname())}-{host.served.process.pid}(-[0-9a-f]+)?(\s?)"
            said = re.sub(ours, lambda found, name=name: _as_wide(name, *found.group(0, 1, 2)), said)
        return said


def _as_wide(name: str, found: str, rest: str | None, space: str) -> str:
    named = name + (rest or "")
    return named.ljust(len(found) - 1) + space if space else named


@asynccontextmanager
async def hour() -> AsyncIterator[Hour]:
    """Run two hosts and their callers until the block ends."""
    with tempfile.TemporaryDirectory(prefix="q") as directory:
        valkey, url = start_valkey(Path(directory))
        try:
            async with (
                simulated(UPSTREAM) as simulator,
                daemon_beside(simulator.url, url, **SETTINGS) as one,
                daemon_beside(simulator.url, url, **SETTINGS) as two,
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
            ):
                made = Hour(one, two, simulator, session)
                callers = [asyncio.create_task(made.traffic(name, rate)) for name, rate in PLAN.items()]
                try:
                    yield made
                finally:
                    for task in callers:
                        task.cancel()
                    await asyncio.gather(*callers, return_exceptions=True)
        finally:
            valkey.terminate()
            valkey.wait(10)


async def in_the_storm(now: Hour) -> None:
    """What is asked and done while upstream refuses everything."""
    await until(lambda: now.waits("reports"), within=60)
    await now.ask(1, "limits", "org", "reports")
    await now.ask(1, "limits show reports", "goes in", at=now.two)
    await now.ask(1, "usage --by caller --since 10m", *PLAN)
    await until(lambda: now.has("--state queued"), within=60)
    await now.ask(5, "tickets list --state queued", "queued", at=now.two)
    await until(lambda: now.has("--caller reports --state queued --older 2s"), within=60)
    await now.ask(6, "tickets cancel --caller 'reports*' --state queued --older 1s --yes --reason storm", "canceled")
    await now.ask(6, "tickets requeue --caller nightly --yes --reason 'the model is there now'", "queued again")
    await now.ask(6, "tickets drop --caller reports --state canceled --yes", "dropped")
    await now.ask(4, f"explain --caller reports --model {MODEL} --tokens 2000", "limit reports")
    await now.ask(8, "hold nightly --for 30m --reason 'runs wild'", "nightly")


async def after_it(now: Hour) -> None:
    """What is asked when upstream is well again."""
    await now.ask(8, "release nightly", "nightly", at=now.two)
    await now.ask(7, "limits set reports --requests-per-minute 300 --for 1h --reason 'month end'", "300")
    await now.ask(7, "limits", "month end", at=now.two)
    await now.ask(2, "usage --by team,model --since 30d", "payments", "analytics")

    def slowest() -> Call:
        return max((call for call in now.answered if call.attempts > 1), key=lambda call: call.took_s)

    await until(lambda: any(call.attempts > 1 and call.took_s > 10 for call in now.answered), within=90)
    await asyncio.sleep(2)  # calls that have ended are written down once a second
    await now.ask(3, f"explain {slowest().id}", "attempt 1", "attempt 2", "parked", at=now.two)
    await now.ask(0, "status", "SERVING".lower())
    await now.ask(0, "audit", "limit.set", "caller.held", "ticket.canceled")


async def main() -> None:
    """Run, and write the page."""
    async with hour() as now:
        await now.letters(2)
        await asyncio.sleep(CALM_S)
        now.simulator.faults.add("overloaded")
        await asyncio.sleep(STORM_S / 2)
        await in_the_storm(now)
        await asyncio.sleep(STORM_S / 2)
        now.simulator.faults.clear()
        await after_it(now)
    INTO.write_text(page(now.answers))
    print(f"{sum(map(len, now.answers.values()))} answers in {INTO.relative_to(Path.cwd())}")


if __name__ == "__main__":
    asyncio.run(main())
