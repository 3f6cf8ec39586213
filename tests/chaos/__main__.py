"""
Lets chaos loose on the installed program, and counts what callers notice of it.

    python -m tests.chaos [--short | --quick] [--seed N] [ROW ...]

Rows (rows.py) have faults that are done one after the other, in an order that the seed draws, while callers ask all the time
and repeat as SDKs do. In the end all is well again, and everything that has a key or a ticket is asked for once more. Fails on
any call that is lost, answered twice, spliced or hung, on a flood of log lines, and on memory or descriptors that are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.chaos.goals import GOALS, SHOWN
from tests.chaos.more import ROWS
from tests.chaos.rows import SHORT
from tests.chaos.run import LONG, QUICK_PLAN, SHORT_PLAN, Measured, Plan, run
from tests.truth.goals import Verdict


async def measure(names: Sequence[str], plan: Plan, seed: int) -> bool:
    """Run some rows and print what comes of them; return whether all promises are kept."""
    if this := asyncio.current_task():  # else whoever is told to end leaves daemons behind
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    columns = [*SHOWN.values(), *(goal.what for goal in GOALS.values())]
    print(f"seed {seed}\n| row | " + " | ".join(columns) + " | |\n|" + "---|" * (len(columns) + 2), flush=True)
    is_kept, at_once = True, asyncio.Semaphore(plan.rows_at_once)

    async def one(name: str) -> Measured:
        async with at_once:
            return await run(name, ROWS[name], plan, random.Random(f"{seed} {name}"))

    for name, running in {name: asyncio.create_task(one(name)) for name in names}.items():
        measured = await running
        is_kept = show(name, measured, plan) and is_kept
        print(*(f"    {name}: {note}" for note in measured.notes), sep="\n", flush=True)
    return is_kept


def show(name: str, measured: Measured, plan: Plan) -> bool:
    """Print the line of one row, and return whether it keeps what is promised."""
    cells = [f"{measured.figures[figure]:,.3g}" if figure in measured.figures else "-" for figure in SHOWN]
    verdicts = []
    for figure, goal in GOALS.items():
        value = measured.figures.get(figure)
        verdict = Verdict.ABSENT if value is None else goal.judge(value, is_short=plan.is_short)
        verdicts.append(verdict)
        said = "-" if value is None else f"{value:,.3g}"
        cells.append(f"**{said}**" if verdict is Verdict.BROKEN else said)
    is_kept = Verdict.BROKEN not in verdicts
    waits_for = ROWS[name].waits_for
    last = "kept" if is_kept else f"not yet: {waits_for}" if waits_for else "BROKEN"
    print(f"| {name} | {' | '.join(cells)} | {last} |", flush=True)
    return is_kept or bool(waits_for)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    form = arguments.add_mutually_exclusive_group()
    form.add_argument("--short", action="store_true", help="every fault once: two or three minutes in all")
    form.add_argument("--quick", action="store_true", help="some faults, which the seed draws, in under a minute: for CI")
    arguments.add_argument("--seed", type=int, default=0, help="of all chance here; 0 draws one")
    arguments.add_argument("row", nargs="*", choices=[*ROWS, []], metavar="ROW", default=[])
    options = arguments.parse_args()
    seed, began = options.seed or random.SystemRandom().randrange(1, 10**6), time.monotonic()
    plan = SHORT_PLAN if options.short else QUICK_PLAN if options.quick else LONG
    try:
        is_kept = asyncio.run(measure(options.row or (SHORT if plan.is_short else list(ROWS)), plan, seed))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print(f"\n{time.monotonic() - began:.0f} s", "" if is_kept else f"; a promise is broken (SEED={seed})", sep="")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
