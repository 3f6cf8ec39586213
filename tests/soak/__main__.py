"""
Lets two daemons and a worker work for half an hour, and looks whether anything grows.

    python -m tests.soak [--minutes N] [--plot FILE]

Callers of every kind ask all the time, and some calls are parked. Every few seconds memory and descriptors of each process are
noted, and how long answers took. Then ten thousand calls wait at once and leave, three times. All of it is drawn over time
(docs/soak.png). Fails if memory or descriptors rise, if answers get slower, or if the last crowd takes more than those before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.chaos.callers import Callers, Patience, ways
from tests.chaos.house import House, house
from tests.chaos.rows import EVERY_WAY
from tests.soak.crowd import ROOM, crowds, wrong
from tests.soak.samples import PLOT, Samples, draw

_CALLERS = 16
_WARM_S = 60.0  # of a long run: until caches are full and pools have their size
_EVERY_S = 5.0
_SLOWLY = ("--first-token", "0.1", "--tokens-per-second", "400")


async def soak(minutes: float, plot: Path) -> bool:
    """Run, print, draw, and return whether nothing grows."""
    if this := asyncio.current_task():  # else whoever is told to end leaves daemons behind
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    async with house(2, 1, upstream=_SLOWLY, **ROOM) as at:
        samples = await _steady(at, minutes)
        await at.tell_upstream({"kind": "hang"})
        waited = await crowds(at.hosts[0])
    for line in (*samples.lines(), *(left.line() for left in waited)):
        print(line, flush=True)
    draw(samples, waited, plot)
    troubles = [*samples.wrong(), *wrong(waited)]
    print(*troubles, sep="\n")
    return not troubles


async def _steady(at: House, minutes: float) -> Samples:
    samples = Samples(at.hosts)
    dice = random.Random(1)
    await at.tell_upstream({"kind": "overloaded", "probability": 0.02}, {"kind": "rate_limit", "probability": 0.02})
    async with ways(EVERY_WAY) as known:
        callers = Callers(at, known, dice, Patience(30.0, 120.0, pause_s=(0.05, 0.4)))
        asking = asyncio.create_task(callers.run(_CALLERS))
        await asyncio.sleep(min(_WARM_S, 60 * minutes / 4))
        over = time.monotonic() + 60 * minutes
        seen = len(callers.books.calls)
        while time.monotonic() < over:
            await asyncio.sleep(_EVERY_S)
            ended = [call.took_s for call in callers.books.calls[seen:] if call.took_s]
            seen = len(callers.books.calls) - _CALLERS
            samples.take(ended)
        callers.stop()
        await asking
    assert not callers.books.troubles(), callers.books.troubles()
    return samples


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=30.0)
    arguments.add_argument("--plot", type=Path, default=PLOT)
    options = arguments.parse_args()
    with contextlib.suppress(asyncio.CancelledError):
        return 0 if asyncio.run(soak(options.minutes, options.plot)) else 1
    return 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main())
