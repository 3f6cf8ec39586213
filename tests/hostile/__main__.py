"""
Attacks the installed daemon in every way that is known, and measures what others notice of it.

    python -m tests.hostile [--short] [ROW ...]

Others' hits, their failures, memory, log lines and the longest stall of the loop stand in one line for each attack (rows.py),
and what is beyond its bound (goals.py) below. Fails where one is that was reached. The short form has few seconds for each.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
from tests.hostile.goals import BACK_MB, HITS, TIMES, goals
from tests.hostile.others import Others, body
from tests.hostile.rig import House, Memory, house
from tests.hostile.rows import INNOCENT, ROWS, SHORT_ROWS
from tests.truth.counting import quantile
from tests.truth.goals import Verdict


@dataclass(frozen=True, slots=True)
class Form:
    """
    How long each attack takes, how often others ask at each door in a second, and how long memory may take to be given back.

    Args:
        after_s: others go on for so long when the attack is over: what it left may harm them yet.
    """

    attack_s: float
    after_s: float
    rate: float
    patience_s: float


BUSY = "the machine is too busy to say"
LATE_MS = 15.0  # who asks is so late on a machine that has no time
_CORES = os.cpu_count() or 1
LONG, SHORT = Form(20.0, 5.0, 20.0, 60.0), Form(1.5, 0.5, 30.0, 0.0)


@dataclass(frozen=True, slots=True)
class Measured:
    """
    One row, and words that explain it.

    Args:
        is_busy: whether the machine had no time for anybody, and it was not the daemon that took it: times say nothing then.
    """

    name: str
    figures: Mapping[str, float]
    note: str
    is_busy: bool

    def judge(self, own: Mapping[str, float], form: Form) -> dict[str, Verdict]:
        """Say what each figure comes to; *own* is what the machine itself costs."""
        verdicts = {
            figure: goal.judge(max(0.0, self.figures[figure] - own.get(figure, 0.0)), is_short=form is SHORT)
            for figure, goal in goals(self.name).items()
        }
        if self.is_busy:
            verdicts |= {figure: Verdict.ABSENT for figure in TIMES if verdicts[figure] is Verdict.BROKEN}
        return verdicts

    def better_of(self, other: Measured) -> Measured:
        """Return the row with the better of two times each; all else is the worse of the two."""
        figures = {
            figure: (min if figure in TIMES else max)(value, other.figures[figure]) for figure, value in self.figures.items()
        }
        return Measured(self.name, figures, f"{self.note}; and again: {other.note}", self.is_busy and other.is_busy)

    def line(self, own: Mapping[str, float], form: Form) -> str:
        """Return its line of the table."""
        verdicts = self.judge(own, form)
        cells = [
            f"{self.figures[figure]:,.0f}" if verdict is Verdict.KEPT else f"**{self.figures[figure]:,.0f}**"
            for figure, verdict in verdicts.items()
        ]
        worst = max(verdicts.values(), key=[Verdict.KEPT, Verdict.ABSENT, Verdict.HELD, Verdict.BROKEN].index)
        return f"| {self.name} | {' | '.join(cells)} | {BUSY if worst is Verdict.ABSENT else worst} |"


async def measure(names: Sequence[str], form: Form) -> bool:
    """Measure some rows and print what comes of them; return whether all that was reached is kept."""
    if this := asyncio.current_task():  # else whoever is told to end leaves daemons behind
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    names = [INNOCENT, *(name for name in ROWS if name in names and name != INNOCENT)]
    columns = [goal.what for goal in goals(INNOCENT).values()]
    print("| attack | " + " | ".join(columns) + " | |\n|" + "---|" * (len(columns) + 2), flush=True)
    verdicts, notes, own = [], [], dict[str, float]()
    for _, together in itertools.groupby(names, key=lambda name: ROWS[name] if form is SHORT else name):
        rows = list(together)
        async with house(ROWS[rows[0]].upstream, **ROWS[rows[0]].settings) as one:
            await _warm_up(one)
            for name in rows:
                await _others(one, 10.0).at_rest()
                row = await _row(one, name, form)
                if name == INNOCENT:
                    own = {figure: value for figure in TIMES if (value := row.figures[figure])}
                elif Verdict.BROKEN in row.judge(own, form).values():
                    # What others do on this machine goes, an attack's harm stays.
                    row = row.better_of(await _row(one, name, form))
                verdicts += row.judge(own, form).values()
                print(row.line(own, form), flush=True)
                notes.append(f"- {name}: {row.note}")
    print("", *notes, sep="\n")
    return Verdict.BROKEN not in verdicts


async def _warm_up(one: House) -> None:
    # A helper process that is there from the first large body on is no harm that an attack does.
    await _others(one, 10.0).ask(1.0)
    async with aiohttp.ClientSession() as session:
        headers = {"x-api-key": one.ours, "content-type": "application/json"}
        async with session.post(f"{one.daemon.http}/v1/messages", data=body("large " * 50_000), headers=headers) as response:
            await response.read()


def _others(one: House, rate: float) -> Others:
    return Others(one.daemon.http, one.daemon.grpc, one.socket, one.ours, rate=rate)


async def _row(one: House, name: str, form: Form) -> Measured:
    memory, lines, used_s = Memory(one), one.log_lines(), one.used_s()
    await asyncio.to_thread(one.daemon.longest)
    looking = asyncio.create_task(memory.look())
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(_others(one, form.rate).ask(form.attack_s + form.after_s))
        async with one.attacked(name, form.attack_s) as attack:
            await asyncio.sleep(form.attack_s)
    report = asking.result()
    used = (one.used_s() - used_s) / (form.attack_s + form.after_s)
    stall_s, where = await asyncio.to_thread(one.daemon.longest)
    lines = one.log_lines() - lines
    left_mb = await memory.back(BACK_MB, form.patience_s)
    looking.cancel()
    figures = {
        **{door: 1000 * quantile(report.hits[door], 0.99) for door in HITS},
        "failed": float(len(report.failures)),
        "rise": memory.most_rise_mb,
        "left": left_mb,
        "lines": lines * 60 / form.attack_s if form is LONG else lines,
        "stall": 1000 * stall_s,
    }
    late_ms, misses_ms = 1000 * quantile(report.late_s, 0.99), 1000 * quantile(report.misses, 0.99)
    note = (
        f"{attack.said or '-'}; others' misses {misses_ms:.0f} ms at p99, their own loop {late_ms:.0f} ms late; "
        f"the daemon used {used:.2f} of a core; memory: {memory.said}"
    )
    said = [note, *(f"  - {failure}" for failure in sorted(set(report.failures))[:4])]
    if figures["stall"] > goals(name)["stall"].wanted:
        said.append(where)
    is_busy = late_ms > LATE_MS and used < _CORES / 2
    return Measured(name, figures, "\n".join(said), is_busy)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--short", action="store_true", help="a minute and a half in all: for CI")
    arguments.add_argument("row", nargs="*", choices=[*ROWS, []], metavar="ROW", default=[])
    options = arguments.parse_args()
    began = time.monotonic()
    try:
        names = options.row or (SHORT_ROWS if options.short else tuple(ROWS))
        is_kept = asyncio.run(measure(names, SHORT if options.short else LONG))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print(f"\n{time.monotonic() - began:.0f} s", "" if is_kept else "; a goal that was reached is missed", sep="")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
