"""
Loses, doubles and delays every command that a call says to Redis on its way, one at a time.

    python -m tests.chaos.paths [--short] [--seed N] [PATH ...]

A path is one way of a call through the daemon: submit, claim, park, and within them attempt, finish, lead, land, reserve and
settle. It is walked in peace, to see what is said; then once for each command and each trouble (nth.py). Each time the call
ends in one terminal state, with one answer, which a repeat gets too, and then all buckets are whole again. The short form draws
one trouble for each command.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import redis
from tests.chaos.books import Books, Call, End
from tests.chaos.callers import Callers, Patience, ways
from tests.chaos.house import House, host
from tests.chaos.nth import ECHO, HELD, TROUBLES, NthWire, Trouble, nth_wired
from tests.chaos.ways import Way
from tests.truth.rig import Upstream, Valkey

_ALL = (*TROUBLES, HELD, ECHO)
QUICK = tuple(kind for kind in TROUBLES if kind != "late")  # what is late, held or said again takes seconds each time
_PATIENCE = Patience(20.0, 45.0)
_WHOLE_WITHIN_S = 20.0
_OF_A_KIND = 3
_TURNS = 6  # until the daemon behind the wire is the one that does it
_LIMIT = '[{name = "org", requests_per_minute = 60000, output_tokens_per_minute = 6000000, concurrency = 50}]'
# What belongs to a call, and not to what processes say to each other all the time.
_SCRIPTS = "create take start park finish look lead join land leave end append reserve settle line store"
_WORDS = ("HMGET headrace:ticket", "HGET headrace:ticket", "HSET headrace:flight", "XRANGE headrace:log")
_OURS = frozenset((*_SCRIPTS.split(), *_WORDS))


@dataclass(frozen=True, slots=True)
class Walk:
    """
    A path: how the call is asked, with a key or without, and what upstream says to it first.

    Args:
        knows: what its commands are called by, where one script serves several paths.
    """

    way: str
    is_keyed: bool = False
    fault: str = ""
    knows: Mapping[str, str] = field(default_factory=dict)


WALKS: Mapping[str, Walk] = {
    "plain": Walk("http"),
    "stream": Walk("http-stream"),
    "grpc-stream": Walk("grpc-stream"),
    "claim": Walk("http", is_keyed=True, knows={"create": "claim"}),
    "stream-claimed": Walk("http-stream", is_keyed=True, knows={"create": "claim"}),
    "submit": Walk("submitted", is_keyed=True, knows={"create": "submit", "start": "attempt"}),
    "park": Walk("grpc", fault="overloaded", knows={"create": "park", "start": "attempt"}),
    "park-claimed": Walk("grpc", is_keyed=True, fault="overloaded", knows={"create": "claim", "start": "attempt"}),
    "stream-parked": Walk("http-stream", fault="overloaded", knows={"create": "park", "start": "attempt"}),
    "stream-parked-claimed": Walk(
        "grpc-stream", is_keyed=True, fault="overloaded", knows={"create": "claim", "start": "attempt"}
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """What came of one command's trouble: upstream calls, seconds until answer and until all was whole, and what is wrong."""

    asked: int
    took_s: float
    whole_s: float
    wrong: str


class Stage:
    """Two daemons: one behind the wire, where calls come first, and one that is there for repeats."""

    def __init__(self, house: House, wire: NthWire, known: Mapping[str, Way]) -> None:
        self._house, self._wire, self._known = house, wire, known
        self._numbers = itertools.count(1)

    async def seen(self, walk: Walk) -> list[tuple[str, int]]:
        """
        Walk in peace, and return what is said of it to Redis: each command and which of its kind it is.

        A stream says the same for each piece; the first ones and the last stand for all of them.
        """
        await self._walk(walk)  # then Redis knows all scripts
        with self._wire.armed():
            case = await self._walk(walk)
        assert not case.wrong, f"in peace: {case.wrong}"
        counts: dict[str, int] = {}
        found = []
        for name in self._wire.seen:
            if name in _OURS or name.startswith("EXEC rq:"):
                counts[name] = counts.get(name, 0) + 1
                found.append((name, counts[name]))
        return [(name, which) for name, which in found if which <= _OF_A_KIND or which == counts[name]]

    async def troubled(self, walk: Walk, trouble: Trouble) -> Case | None:
        """Walk with trouble, and return what comes of it; None if the command was not said this time."""
        for _ in range(_TURNS):
            with self._wire.armed(trouble):
                case = await self._walk(walk, trouble)
            if trouble.times or case.wrong:
                return case
        return None

    async def _walk(self, walk: Walk, trouble: Trouble | None = None) -> Case:
        name = f"{next(self._numbers):07d}"
        call = Call(name, walk.way, key=f"key-{name}" if walk.is_keyed else "")
        callers = Callers(self._house, self._known, random.Random(name), _PATIENCE)
        callers.books = Books([call])
        await self._house.tell_upstream(*([{"kind": walk.fault, "count": 1, "text": name}] if walk.fault else []))
        began = time.monotonic()
        await callers.pursue(call, _PATIENCE.call_s, first=self._house.hosts[0])
        took_s = time.monotonic() - began
        if trouble is not None and trouble.times:
            await asyncio.wait_for(trouble.is_over.wait(), 10)
        heard, ended = len(call.marks), time.monotonic()
        if call.key:
            await callers.audit(_PATIENCE.call_s)
        arrivals = [arrival for arrival in await self._house.upstream.arrivals() if arrival.name == name]
        wrong = [*callers.books.troubles(), *([] if heard == 1 else [f"{call.end} {call.words[-3:]}"]), *await self._left()]
        said = "; ".join(wrong) if call.end is End.ANSWERED else f"{call.end}: {wrong}"
        return Case(len(arrivals), took_s, time.monotonic() - ended, said)

    async def _left(self) -> list[str]:
        """Wait until buckets and tickets are as if nothing had been, and return what is not."""
        give_up = time.monotonic() + _WHOLE_WITHIN_S
        while True:
            with self._house.redis() as client:
                left = _not_whole(client)
            if not left or time.monotonic() > give_up:
                return left
            await asyncio.sleep(0.05)


def _not_whole(client: redis.Redis) -> list[str]:
    held = [
        name for kind in ("permits", "line", "waits") for name in client.scan_iter(f"headrace:{{budget}}:{kind}:*", count=1000)
    ]
    left = [f"{name.decode()} is held" for name in held if client.type(name) == b"zset" and client.zcard(name)]
    for name in client.scan_iter("headrace:ticket:*", count=1000):
        state = client.hget(name, "state")
        if state in (b"QUEUED", b"RUNNING"):
            left.append(f"{name.decode()} is {state.decode()}")
    now_us = _now_us(client)
    for name in client.scan_iter("headrace:flight:*", count=1000):
        if (until := client.hget(name, "until_us")) is not None and int(until) > now_us:
            left.append(f"{name.decode()} is led")
    left += [f"{ticket.decode()} is looked after" for ticket in client.zrange("headrace:tickets", 0, -1)]
    return left


def _now_us(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return seconds * 1_000_000 + micros


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Run a stage until the block ends."""
    async with contextlib.AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="n", ignore_cleanup_errors=True)))
        upstream = await stack.enter_async_context(Upstream("--first-token", "0.02", "--tokens-per-second", "2000"))
        (root / "v").mkdir()
        valkey = stack.enter_context(await asyncio.to_thread(Valkey, root / "v"))
        wire = await stack.enter_async_context(nth_wired(root / "v" / "valkey.sock", root / "w"))
        more = {
            "UPSTREAM__BASE_URL": upstream.url,
            "UPSTREAM__API_KEY": "sk-test",
            "LIMIT": _LIMIT,
            "RETRY__BACKOFF": "0.1s..0.2s",
        }
        more |= {"UPSTREAM__OVERLOAD_GATE": "off", "SCHEDULE__BORROW": "off"}
        hosts = [
            host(root, "behind", "serve", {**more, "REDIS__URL": f"unix://{root}/w"}),
            host(root, "beside", "serve", {**more, "REDIS__URL": valkey.url, "RETRY__MAX_RUNNING": "1"}),
        ]
        for each in hosts:
            stack.push_async_callback(each.stop)
        await asyncio.gather(*(each.start() for each in hosts))
        known = await stack.enter_async_context(ways(("http", "http-stream", "grpc", "grpc-stream", "submitted")))
        yield Stage(House(root, upstream, hosts, valkey, None, None), wire, known)


async def measure(names: Sequence[str], dice: random.Random | None) -> bool:
    """Walk the paths, print the table, and return whether nothing is wrong; *dice* draw one trouble for each command."""
    print("\n| path | command | " + " | ".join(_ALL) + " |\n|---|---|" + "---|" * len(_ALL), flush=True)
    is_well, notes, slowest = True, [], 0.0
    async with stage() as at:
        for name in names:
            for number, (command, which) in enumerate(await at.seen(WALKS[name]), 1):
                drawn = _ALL if dice is None else (dice.choice(QUICK),)
                cells = []
                for kind in _ALL:
                    case = await at.troubled(WALKS[name], Trouble(kind, command, which)) if kind in drawn else None
                    cells.append(_cell(case))
                    slowest = max(slowest, case.took_s if case else 0.0)
                    if case and case.wrong:
                        is_well = False
                        notes.append(f"- {name} {number}, {command}, {kind}: {case.wrong}")
                said = WALKS[name].knows.get(command, command)
                print(f"| {name} | {number}. {said}{f' ({which})' if which > 1 else ''} | {' | '.join(cells)} |", flush=True)
    print(
        "\nIn each cell: upstream calls, seconds until the answer, and from then until all was whole.",
        *notes,
        f"slowest: {slowest:.1f} s",
        sep="\n",
    )
    return is_well


def _cell(case: Case | None) -> str:
    if case is None:
        return "-"
    said = f"{case.asked}, {case.took_s:.1f} s, {case.whole_s:.1f} s"
    return f"**WRONG** {said}" if case.wrong else said


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--short", action="store_true", help="one trouble for each command")
    arguments.add_argument("--seed", type=int, default=1, help="draws which")
    arguments.add_argument("path", nargs="*", choices=[*WALKS, []], metavar="PATH", default=[])
    options = arguments.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # else it tells of each write to a connection that broke
    began = time.monotonic()
    dice = random.Random(options.seed) if options.short else None
    is_well = asyncio.run(measure(options.path or list(WALKS), dice))
    print(f"\n{time.monotonic() - began:.0f} s", "" if is_well else "; a promise is broken", sep="")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
