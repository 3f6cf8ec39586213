"""
Callers: they ask one call after the other, at any daemon, and repeat as SDKs do, until there is an answer or no patience left.

A caller knows nothing of what is done to the daemons. It has a clock of its own, which rings a little after the time that it
states; what it does not hear by then from a daemon that was up and running all the while, hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import aiohttp
import grpc.aio
from tests.chaos.books import Books, Call, End
from tests.chaos.client import Client
from tests.chaos.house import Host, House, Span
from tests.chaos.ways import WAITS, Again, Channels, Grpc, Http, No, Sdk, Submitted, Way

_PAUSE_S = (0.1, 0.5)  # before a repeat
_SDK_PAUSES_S = 60.0  # at most, between an error and its own repeat: as long as a retry-after that it heeds
_MOST_PAUSE_S = 5.0  # however long a retry-after asks for
_HANGS_S = 5.0  # a word that comes so much later than it was due might as well not come
_AUDITORS = 16


@dataclass(frozen=True, slots=True)
class Patience:
    """How long callers wait for one try, and in all; and how long they think before the next call."""

    try_s: float
    call_s: float
    pause_s: tuple[float, float] = (0.05, 0.3)


class Callers:
    """All callers of a run, and what they heard."""

    def __init__(self, house: House, ways: Mapping[str, Way], dice: random.Random, patience: Patience) -> None:
        self._house, self._ways, self._dice, self._patience = house, dict(ways), dice, patience
        self._numbers = itertools.count(1)
        self._is_over = False
        self.books = Books()

    def stop(self) -> None:
        """Begin no more calls."""
        self._is_over = True

    async def run(self, count: int) -> None:
        """Let so many callers ask until `stop`."""
        await asyncio.gather(*(self._caller(number) for number in range(count)))

    async def _caller(self, number: int) -> None:
        names = itertools.cycle(list(self._ways)[number % len(self._ways) :] + list(self._ways)[: number % len(self._ways)])
        while not self._is_over:
            way = next(names)
            name = f"{next(self._numbers):07d}"
            is_keyed = way == "submitted" or self._dice.random() < 0.5
            call = self.books.open(Call(name, way, key=f"key-{name}" if is_keyed else ""))
            await self.pursue(call, self._patience.call_s)
            await asyncio.sleep(self._dice.uniform(*self._patience.pause_s))

    async def pursue(self, call: Call, patience_s: float, first: Host | None = None) -> None:
        """Ask until there is an answer; *first* is the daemon that is asked first, if it matters."""
        began = time.monotonic()
        while (left_s := began + patience_s - time.monotonic()) > 0:
            try:
                host, first = first or self._dice.choice(self._house.daemons), None
                await self._ask_once(call, host, min(self._patience.try_s, max(1.0, left_s)))
            except Again as again:
                call.words.append(str(again))
                pause_s = max(self._dice.uniform(*_PAUSE_S), min(again.after_s, _MOST_PAUSE_S))
                await asyncio.sleep(pause_s)
            except No as no:
                call.words.append(f"final: {no}")
                is_lost = call.ticket and not any(word in str(no) for word in ("FAILED", "EXPIRED"))
                call.end = End.LOST if is_lost else End.REFUSED
                break
            else:
                call.end = End.ANSWERED
                break
        else:
            call.end = End.UNANSWERED
        call.took_s = max(call.took_s, time.monotonic() - began)

    async def _ask_once(self, call: Call, host: Host, timeout_s: float) -> None:
        began, heard = time.monotonic(), "an answer"
        try:
            await self._ask(call, host, timeout_s)
        except (Again, No) as error:
            heard = str(error)
            raise
        finally:
            call.course.append(f"{time.strftime('%X')} {time.monotonic() - began:.1f} s {host.name}: {heard}")

    async def _ask(self, call: Call, host: Host, timeout_s: float) -> None:
        began, life = time.monotonic(), host.starts
        call.tries += 1
        try:
            async with asyncio.timeout(None) as bound:
                most_s = timeout_s + _HANGS_S
                WAITS.set(lambda waits: bound.reschedule(_in(most_s if waits else most_s + _SDK_PAUSES_S)))
                WAITS.get()(True)
                await self._ways[call.way].ask(call, host, _prompt(call), timeout_s)
        except TimeoutError:
            span = Span(began, time.monotonic())
            if host.is_up and host.starts == life and not host.was_deaf(span):
                call.hung.append(f"nothing from {host.name} within {timeout_s + _HANGS_S:.0f} s")
            raise Again("no word in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Again(type(error).__name__) from None
        except grpc.aio.UsageError:
            raise Again("the channel was closed") from None

    async def audit(self, patience_s: float) -> None:
        """
        Ask for all that has a key or a ticket once more, now that all is well: the answer is the same as ever.
        """
        once = asyncio.Semaphore(_AUDITORS)

        async def look(call: Call) -> None:
            before = call.end
            async with once:
                await self.pursue(call, patience_s)
            if call.end is End.UNANSWERED or (before is End.ANSWERED and call.end is End.REFUSED):
                call.end = End.LOST
            elif before is not End.ANSWERED:
                call.end = before

        await asyncio.gather(*(look(call) for call in self.books.calls if call.key and call.end is not End.LOST))


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def _prompt(call: Call) -> str:
    # Some are long and some are short, so that some are cut off in their middle.
    return f"chaos {call.name} sign every word, answer in {40 + int(call.name) * 37 % 200} tokens"


@contextlib.asynccontextmanager
async def ways(names: tuple[str, ...]) -> AsyncIterator[dict[str, Way]]:
    """Yield the ways of these names; what they hold is closed with the block."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(None)) as session:
        channels, sdk, sdk_stream = Channels(), Sdk(streams=False), Sdk(streams=True)
        client, client_stream = Client(streams=False), Client(streams=True)
        known: dict[str, Way] = {
            "http": Http(session, streams=False),
            "http-stream": Http(session, streams=True),
            "grpc": Grpc(channels, streams=False),
            "grpc-stream": Grpc(channels, streams=True),
            "submitted": Submitted(channels),
            "sdk": sdk,
            "sdk-stream": sdk_stream,
            "client": client,
            "client-stream": client_stream,
        }
        try:
            yield {name: known[name] for name in names}
        finally:
            for each in (channels, sdk, sdk_stream, client, client_stream):
                await each.close()


def chosen(hosts: list[Host], dice: random.Random) -> Host:
    """Return one of those that are up; any, if none is."""
    return dice.choice([host for host in hosts if host.is_up] or hosts)
