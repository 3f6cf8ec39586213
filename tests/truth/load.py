"""
Load that costs little and ends by itself: callers in one event loop, with a prompt that nobody asked before in each call.

A prompt is "<mark> <number> ...": by its mark and number a call is found again in the simulator's log.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import aiohttp

Pick = Callable[[], str]
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Ask:
    """
    Who asks, and for what.

    Args:
        mark: the first word of each prompt.
        url: where the next call goes.
        timeout_s: how long a caller waits.
        output_tokens: of an answer, from and to; drawn anew for each call.
        input_tokens: about so many, from and to.
        headers: of each call.
    """

    mark: str
    url: Pick
    timeout_s: float = 30.0
    model: str = "claude-haiku-4-5"
    max_tokens: int = 200
    output_tokens: tuple[int, int] = (40, 40)
    input_tokens: tuple[int, int] = (20, 20)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """What callers were given: counts by status (0: no answer at all), the first words of failures, when each call was sent."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    sent: dict[str, float] = field(default_factory=dict)


class Load:
    """Callers, in one session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._dice = random.Random(8)

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls) -> AsyncIterator[Load]:
        """Yield a load; its connections close with the block."""
        connector, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(None)
        async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
            yield cls(session)

    async def closed(self, ask: Ask, callers: int, seconds: float) -> Report:
        """Let so many callers ask one call after the other."""
        report, until = Report(), time.monotonic() + seconds

        async def caller() -> None:
            while (left_s := until - time.monotonic()) > 0:
                status = await self._ask(ask, report, left_s)
                if status != 200:
                    await asyncio.sleep(min(0.1, max(0.0, until - time.monotonic())))

        await asyncio.gather(*(caller() for _ in range(callers)))
        return report

    async def open(self, ask: Ask, rate_per_s: float, seconds: float, *, is_even: bool = False) -> Report:
        """Ask so often, whatever becomes of it: at random moments, or evenly."""
        report, until, due = Report(), time.monotonic() + seconds, time.monotonic()
        async with asyncio.TaskGroup() as group:
            while (due := due + (1 / rate_per_s if is_even else self._dice.expovariate(rate_per_s))) < until:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._ask(ask, report, until + ask.timeout_s - time.monotonic()))
        return report

    async def _ask(self, ask: Ask, report: Report, patience_s: float) -> int:
        name = f"{next(_numbers):07d}"
        url, headers = (
            ask.url(),
            {"anthropic-version": "2023-06-01", "content-type": "application/json", "x-api-key": "sk-others"} | ask.headers,
        )
        headers["x-headrace-timeout-ms"] = str(round(1000 * ask.timeout_s))
        report.sent[name] = time.time()
        try:
            async with asyncio.timeout(patience_s + 1):
                async with self._session.post(f"{url}/v1/messages", data=self._body(ask, name), headers=headers) as response:
                    said = await response.read()
        except TimeoutError:
            return -1  # the load ends: nobody knows what would have become of it
        except (aiohttp.ClientError, OSError) as error:
            report.statuses[0] += 1
            report.failures.append(f"{type(error).__name__}: {error}"[:160])
            return 0
        report.statuses[response.status] += 1
        if response.status != 200:
            report.failures.append(f"{response.status} {said[:160].decode(errors='replace')}")
        return response.status

    def _body(self, ask: Ask, name: str) -> bytes:
        length = self._dice.randint(*ask.output_tokens)
        text = f"{ask.mark} {name} answer in {length} tokens".ljust(4 * self._dice.randint(*ask.input_tokens), "~")
        return (
            f'{{"model":"{ask.model}","max_tokens":{ask.max_tokens},"messages":[{{"role":"user","content":"{text}"}}]}}'
        ).encode()
