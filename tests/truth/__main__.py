"""
Measures what is promised of limits, order and loss, at the simulator's door, and prints it beside the promises.

    python -m tests.truth [--short] [ROW ...]

Rows: no-limit, others, weights, lanes, lost-hosts, redis, commands, tickets, long. Daemons are the installed program, Valkey is
real, and what is counted are arrivals at upstream. Fails where a goal that was reached is missed; see goals.py. In the short
form a row that misses one is measured once more, by itself: what the machine did goes by that, what the daemon does stays.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.truth.commands import commands
from tests.truth.counting import quantile
from tests.truth.goals import GOALS, Verdict
from tests.truth.long import long
from tests.truth.loss import lost_hosts, redis
from tests.truth.measured import Measured, Row
from tests.truth.order import lanes, weights
from tests.truth.tickets import tickets
from tests.truth.tune import no_limit, others

ROWS: dict[str, Row] = {
    "no-limit": no_limit,
    "others": others,
    "weights": weights,
    "lanes": lanes,
    "lost-hosts": lost_hosts,
    "redis": redis,
    "commands": commands,
    "tickets": tickets,
    "long": long,
}
# In the short form, those that keep the machine least busy are measured side by side.
TOGETHER = (("no-limit", "others", "weights", "lost-hosts", "redis"), ("lanes",), ("commands",), ("tickets",), ("long",))


async def measure(names: Sequence[str], *, is_short: bool) -> bool:
    """Measure some rows and print what comes of them; return whether all goals are kept."""
    batches = [[name for name in batch if name in names] for batch in TOGETHER] if is_short else [[name] for name in names]
    verdicts, notes, late_s = [], [], list[float]()
    if this := asyncio.current_task():  # else whoever is told to end leaves daemons behind
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    looking = asyncio.create_task(look(late_s))
    print("| row | what | before | wanted | measured | |\n|---|---|---|---|---|---|", flush=True)
    for batch in filter(None, batches):
        for name, measured in zip(batch, await asyncio.gather(*(ROWS[name](is_short) for name in batch)), strict=True):
            if is_short and Verdict.BROKEN in judge(name, measured, is_short=is_short).values():
                notes.append(f"- {name}: missed a goal, and was measured once more: {dict(measured.figures)}")
                measured = await ROWS[name](is_short)
            verdicts += show(name, measured, is_short=is_short)
            notes += [f"- {name}: {note}" for note in measured.notes]
    looking.cancel()
    print("", *notes, sep="\n")
    print(f"- the machine: what was due came {1000 * quantile(late_s, 0.99):.0f} ms late at p99, {max(late_s):.1f} s at most")
    return Verdict.BROKEN not in verdicts


async def look(late_s: list[float]) -> None:
    """Note how late this process is: on a machine that is busy otherwise, figures are worth less."""
    while True:
        due = time.monotonic() + 0.05
        await asyncio.sleep(0.05)
        late_s.append(time.monotonic() - due)


def judge(name: str, measured: Measured, *, is_short: bool) -> dict[str, Verdict]:
    """Say what each figure of a row comes to."""
    return {figure: goal.judge(measured.figures[figure], is_short=is_short) for figure, goal in GOALS[name].items()}


def show(name: str, measured: Measured, *, is_short: bool) -> list[Verdict]:
    """Print the lines of one row."""
    verdicts = judge(name, measured, is_short=is_short)
    for figure, verdict in verdicts.items():
        print(GOALS[name][figure].line(name, measured.figures[figure], verdict), flush=True)
    return list(verdicts.values())


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--short", action="store_true", help="a minute and a half in all: for CI")
    arguments.add_argument("row", nargs="*", choices=[*ROWS, []], metavar="ROW", default=[])
    options = arguments.parse_args()
    began = time.monotonic()
    try:
        is_kept = asyncio.run(measure(options.row or list(ROWS), is_short=options.short))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print(f"\n{time.monotonic() - began:.0f} s", "" if is_kept else "; a goal that was reached is missed", sep="")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
