"""
All that is done to a house: one function a fault, from its beginning until it is over. What comes after that is recovery.

Times come from the form: the short one has no time to stop a daemon for half a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import redis
from tests.chaos.callers import chosen
from tests.chaos.house import Host, House


@dataclass(frozen=True, slots=True)
class Form:
    """
    How long things take.

    Args:
        calm_s: between the end of one fault and the beginning of the next.
        spell_s: how long most faults last, from and to.
        still_s: how long a process stands still.
        storm_s: how long upstream is overloaded.
    """

    calm_s: float
    spell_s: tuple[float, float]
    still_s: float
    storm_s: float


Fault = Callable[[House, random.Random, Form], Awaitable[None]]


# Processes die, stand still, leave.


async def kill_daemon(house: House, dice: random.Random, form: Form) -> None:
    """kill -9 of a daemon, which is started anew."""
    await _kill(house, chosen(house.daemons, dice))


async def kill_worker(house: House, dice: random.Random, form: Form) -> None:
    """kill -9 of a worker, which is started anew."""
    await _kill(house, chosen(house.workers, dice))


async def _kill(house: House, host: Host) -> None:
    house.kills += 1
    await host.kill()
    await host.start()


async def stop_daemon(house: House, dice: random.Random, form: Form) -> None:
    """SIGSTOP of a daemon, and SIGCONT."""
    await chosen(house.daemons, dice).still(form.still_s)


async def stop_worker(house: House, dice: random.Random, form: Form) -> None:
    """SIGSTOP of a worker, and SIGCONT."""
    await chosen(house.workers, dice).still(form.still_s)


async def drain(house: House, dice: random.Random, form: Form) -> None:
    """SIGTERM of a daemon in mid-load, which is started anew."""
    host = chosen(house.daemons, dice)
    await host.leave()
    await host.start()


async def step_clock(house: House, dice: random.Random, form: Form) -> None:
    """The clock of one process goes wrong, ahead or behind, by a little or by a day, for a while."""
    file = house.root / chosen(house.hosts, dice).name / "clock"
    file.write_text(dice.choice(("60", "-60", "4", "-4", "86400", "-86400")))
    await asyncio.sleep(dice.uniform(*form.spell_s))
    file.unlink()


# Redis.


async def restart_redis(house: House, dice: random.Random, form: Form) -> None:
    """kill -9 of Redis, which comes back on its data."""
    assert house.valkey is not None
    house.kills += 1
    await house.valkey.restart()


async def stop_redis(house: House, dice: random.Random, form: Form) -> None:
    """Redis stands still."""
    assert house.valkey is not None
    await house.valkey.pause(dice.uniform(*form.spell_s))


async def pause_redis(house: House, dice: random.Random, form: Form) -> None:
    """CLIENT PAUSE ALL."""
    seconds = dice.uniform(*form.spell_s)
    await say_to_redis(house, "CLIENT", "PAUSE", str(round(1000 * seconds)), "ALL")
    await asyncio.sleep(seconds)


async def sleep_redis(house: House, dice: random.Random, form: Form) -> None:
    """DEBUG SLEEP: Redis is busy with one command."""
    await say_to_redis(house, "DEBUG", "SLEEP", f"{dice.uniform(*form.spell_s):.2f}")


async def full_redis(house: House, dice: random.Random, form: Form) -> None:
    """Out of memory: what writes is refused."""
    await say_to_redis(house, "CONFIG", "SET", "maxmemory", "1mb")
    await asyncio.sleep(dice.uniform(*form.spell_s))
    await say_to_redis(house, "CONFIG", "SET", "maxmemory", "0")


async def replica_redis(house: House, dice: random.Random, form: Form) -> None:
    """Redis becomes a replica that may not write, and a primary again."""
    await say_to_redis(house, "REPLICAOF", "127.0.0.1", "1")
    await asyncio.sleep(dice.uniform(*form.spell_s))
    await say_to_redis(house, "REPLICAOF", "NO", "ONE")


async def forget_scripts(house: House, dice: random.Random, form: Form) -> None:
    """SCRIPT FLUSH."""
    await say_to_redis(house, "SCRIPT", "FLUSH")


async def kick_clients(house: House, dice: random.Random, form: Form) -> None:
    """CLIENT KILL of every connection."""
    for kind in ("normal", "pubsub"):
        await say_to_redis(house, "CLIENT", "KILL", "TYPE", kind)


async def say_to_redis(house: House, *words: str) -> None:
    """Say a command to Redis, past the wire; one that breaks the connection is done, too, or that takes half a minute."""

    def say() -> None:
        with house.redis() as client, contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
            client.execute_command(*words)

    await asyncio.to_thread(say)


async def fail_over(house: House, dice: random.Random, form: Form) -> None:
    """The Sentinels are told to make another server the primary."""
    assert house.group is not None
    await asyncio.to_thread(house.group.fail_over)


async def kill_primary(house: House, dice: random.Random, form: Form) -> None:
    """kill -9 of the primary; the Sentinels make another one the primary, and it comes back as a replica."""
    assert house.group is not None
    house.kills += 1
    await asyncio.to_thread(house.group.kill_primary)


# The wire to it.


async def hang_wire(house: House, dice: random.Random, form: Form) -> None:
    """Nothing goes over the wire, and no connection breaks."""
    assert house.wire is not None
    with house.wire.hanging():
        await asyncio.sleep(dice.uniform(*form.spell_s))


async def drop_wire(house: House, dice: random.Random, form: Form) -> None:
    """All connections break, again and again."""
    assert house.wire is not None
    give_up = time.monotonic() + dice.uniform(*form.spell_s)
    while time.monotonic() < give_up:
        house.wire.drop()
        await asyncio.sleep(dice.uniform(0.02, 0.4))


async def late_wire(house: House, dice: random.Random, form: Form) -> None:
    """Everything comes later."""
    assert house.wire is not None
    with house.wire.late(dice.uniform(0.02, 0.3)):
        await asyncio.sleep(dice.uniform(*form.spell_s))


async def torn_wire(house: House, dice: random.Random, form: Form) -> None:
    """Connections break in the middle of a reply."""
    assert house.wire is not None
    with house.wire.torn():
        await asyncio.sleep(dice.uniform(*form.spell_s))


async def bad_wire(house: House, dice: random.Random, form: Form) -> None:
    """It hangs, drops and delays, by turns."""
    assert house.wire is not None
    give_up = time.monotonic() + 2 * dice.uniform(*form.spell_s)
    while time.monotonic() < give_up:
        with dice.choice((house.wire.hanging, lambda: house.wire.late(0.2)))():  # type: ignore[union-attr]
            await asyncio.sleep(dice.uniform(0.05, 1.0))
        house.wire.drop()
        await asyncio.sleep(dice.uniform(0.0, 0.3))


# Upstream.

_ILLS: Mapping[str, tuple[dict[str, object], ...]] = {
    "hang": ({"kind": "hang", "probability": 0.2}, {"kind": "hang", "probability": 0.1, "after_deltas": 2, "stream": True}),
    "reset": ({"kind": "reset", "probability": 0.3}, {"kind": "reset", "probability": 0.2, "after_deltas": 2}),
    "slow": ({"kind": "slow", "probability": 0.3, "delay_s": 2.0},),
    "garbage": ({"kind": "garbage", "probability": 0.3}, {"kind": "garbage", "probability": 0.1, "status": 502}),
    "half": ({"kind": "half_json", "probability": 0.3}, {"kind": "half_stream", "probability": 0.3}),
    "error-events": (
        {"kind": "stream_error", "probability": 0.3, "after_deltas": 2},
        {"kind": "api_error", "probability": 0.2},
    ),
    "at-once": ({"kind": "rate_limit", "probability": 0.3, "retry_after_s": 0},),
    "in-three-days": ({"kind": "rate_limit", "probability": 0.03, "retry_after_s": 259200},),
}


def ill(name: str) -> Fault:
    """Return the fault of an upstream that is so."""

    async def upstream(house: House, dice: random.Random, form: Form) -> None:
        await house.tell_upstream(*_ILLS[name])
        await asyncio.sleep(dice.uniform(*form.spell_s) + 1.0)
        await house.tell_upstream()

    upstream.__doc__ = f"Upstream: {name}."
    return upstream


async def storm(house: House, dice: random.Random, form: Form) -> None:
    """Upstream says 529 to everybody."""
    await house.tell_upstream({"kind": "overloaded"})
    await asyncio.sleep(form.storm_s)
    await house.tell_upstream()


async def rubbish(house: House, dice: random.Random, form: Form) -> None:
    """429 with a retry-after that makes no sense."""
    for text in ("soon", "-1", "1e400", "NaN", ""):
        await house.order_answers(_told(text))
        await asyncio.sleep(0.4)
    await house.order_answers()


def _told(retry_after: str) -> dict[str, object]:
    said = {"type": "error", "error": {"type": "rate_limit_error", "message": "not now"}}
    return {"path": "/v1/messages", "status": 429, "headers": {"retry-after": retry_after}, "json": said}


# A Valkey of one's own, and the files beside it.


async def kill_own_valkey(house: House, dice: random.Random, form: Form) -> None:
    """kill -9 of the daemon's own Valkey."""
    if (pid := _valkey_of(house.hosts[0])) is not None:
        house.kills += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def stop_own_valkey(house: House, dice: random.Random, form: Form) -> None:
    """The daemon's own Valkey stands still."""
    if (pid := _valkey_of(house.hosts[0])) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(dice.uniform(*form.spell_s))
            os.kill(pid, signal.SIGCONT)


def _valkey_of(host: Host) -> int | None:
    if not host.is_up:
        return None
    for task in Path(f"/proc/{host.pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                if "valkey" in Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace").partition("\0")[0]:
                    return int(child)
    return None


async def cut_cache(house: House, dice: random.Random, form: Form) -> None:
    """The files of the disk tier lose their ends, while it is in use; but for what is mapped into memory (SQLite's index)."""
    for file in sorted((house.root / house.hosts[0].name / "cache").rglob("*")):
        if file.is_file() and not file.name.endswith("-shm") and dice.random() < 0.5:
            with contextlib.suppress(OSError):
                os.truncate(file, file.stat().st_size // 2)


@contextlib.contextmanager
def filled(ballast: Path) -> Iterator[None]:
    """Leave no room on the disk where *ballast* lies for as long as the block lasts."""
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    try:
        yield
    finally:
        ballast.unlink(missing_ok=True)


async def fill_disk(house: House, dice: random.Random, form: Form) -> None:
    """Nothing can be written where the state lies; after a while there is room again."""
    with filled(house.root / house.hosts[0].name / "ballast"):
        await asyncio.sleep(dice.uniform(*form.spell_s))
