"""Ends that come at the worst moment: a process that dies while it stands still or leaves, and all of them at once."""

from __future__ import annotations

import asyncio
import random
import signal

from tests.chaos.callers import chosen
from tests.chaos.faults import Form, restart_redis
from tests.chaos.house import Host, House


async def leave_worker(house: House, dice: random.Random, form: Form) -> None:
    """SIGTERM of a worker in mid-load, which is started anew."""
    host = chosen(house.workers, dice)
    await host.leave()
    await host.start()


async def killed_still(house: House, dice: random.Random, form: Form) -> None:
    """SIGSTOP of a process, and kill -9 before it wakes."""
    host = chosen(house.hosts, dice)
    house.kills += 1
    host.send(signal.SIGSTOP)
    await asyncio.sleep(dice.uniform(*form.spell_s))
    await host.kill()
    await host.start()


async def killed_leaving(house: House, dice: random.Random, form: Form) -> None:
    """SIGTERM of a process, and kill -9 while it drains."""
    host = chosen(house.hosts, dice)
    house.kills += 1
    host.send(signal.SIGTERM)
    await asyncio.sleep(dice.uniform(0.0, 1.0))
    await host.kill()
    await host.start()


async def leaves_silent_redis(house: House, dice: random.Random, form: Form) -> None:
    """SIGTERM of a process while Redis stands still; it comes back while the process drains."""
    assert house.valkey is not None
    host = chosen(house.hosts, dice)
    pausing = asyncio.create_task(house.valkey.pause(dice.uniform(*form.spell_s)))
    await asyncio.sleep(dice.uniform(0.0, 0.5))
    await host.leave()
    await pausing
    await host.start()


async def kill_each(house: House, dice: random.Random, form: Form) -> None:
    """kill -9 of every process, one soon after the other: what one takes over it soon leaves behind itself."""

    async def kill_soon(host: Host) -> None:
        await asyncio.sleep(dice.uniform(0.0, 3.0))
        house.kills += 1
        await host.kill()
        await host.start()

    await asyncio.gather(*(kill_soon(host) for host in house.hosts))


async def power_failure(house: House, dice: random.Random, form: Form) -> None:
    """kill -9 of everything at once; Redis comes back on its data, and so do all others."""
    house.kills += len(house.hosts)
    await asyncio.gather(*(host.kill() for host in house.hosts))
    await restart_redis(house, dice, form)
    await asyncio.gather(*(host.start() for host in house.hosts))
