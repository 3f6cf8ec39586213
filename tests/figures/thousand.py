"""
A thousand simulated daemons on one bucket: that its bound holds, how much of it is used, and the plot of both in docs/.

For four seconds they are asked for 80 % of what the bucket gives, then for six for 150 %; each call comes to some daemon by
chance. Once with borrowing and once without.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from tests.windows import Worst, worst_window

from headrace.budget.costs import Costs
from headrace.budget.limits import Limit, Limits
from headrace.budget.quanta import Terms
from headrace.rehearse.lines import Line
from headrace.rehearse.plan import Plan
from headrace.rehearse.traffic import Row, traffic_of
from headrace.rehearse.world import World

PLOT = Path(__file__).parents[2] / "docs" / "thousand.png"
DAEMONS = 1_000
PER_S = 25_000  # what the bucket gives; it holds as much as comes in a second
PHASES = ((4.0, 0.8), (6.0, 1.5))  # seconds, and demand as a share of that
_DEADLINE_S = 2.0
_SLICE_US = 100_000


@dataclass(frozen=True)
class Thousand:
    """What came of it: grants as (moment in us since the first call, tokens), and the fullest of all windows."""

    calls: int
    grants: list[tuple[int, int]]
    worst: Worst
    used: float  # of what flowed in while more was wanted, once what had been saved up was gone
    borrowed: int
    exchanges: int


def calls(seed: int = 1) -> list[Row]:
    """Return the calls: as many in each phase as its demand has, at any moments."""
    chance, begins, rows = random.Random(seed), 0.0, []
    for seconds, demand in PHASES:
        for _ in range(int(seconds * demand * PER_S)):
            at = begins + chance.random() * seconds
            rows.append(Row(at=at, input_tokens=1, output_tokens=1, seconds=0.2, max_tokens=1, deadline_s=_DEADLINE_S))
        begins += seconds
    return rows


def rehearse(rows: list[Row], terms: Terms | None) -> Thousand:
    """Let a thousand daemons serve them."""
    limit = Limit("org", requests_per_minute=60 * PER_S, burst_s=1.0)
    traffic, grants = traffic_of(rows), list[tuple[int, int]]()

    def heed(line: Line, at_us: int, tokens: int) -> None:
        grants.append((at_us, tokens))

    plan = Plan(Limits([limit]), Costs(), daemons=DAEMONS, slots=512, terms=terms)
    world = World(plan, traffic, heed=heed)
    world.run()
    worst = worst_window(grants, rate_per_minute=60 * PER_S, capacity=PER_S)
    borrowers = [daemon.borrower for daemon in world.daemons if daemon.borrower is not None]
    (calm_s, _), (_, demand) = PHASES
    begins = calm_s + 1 / (demand - 1)  # until then the full bucket gives more than flows in
    ends = sum(seconds for seconds, _ in PHASES)
    taken = sum(tokens for at_us, tokens in grants if begins * 1e6 <= at_us < ends * 1e6)
    return Thousand(
        len(rows), grants, worst, taken / ((ends - begins) * PER_S), sum(one.grants for one in borrowers),
        sum(one.exchanges for one in borrowers),
    )  # fmt: skip


def main() -> None:
    """Measure, print, and draw."""
    rows = calls()
    found = {"with borrowing": rehearse(rows, Terms()), "without": rehearse(rows, None)}
    for name, run in found.items():
        print(
            f"{DAEMONS:,} daemons {name}, {run.calls:,} calls: {run.worst.over} windows over the bound, the fullest "
            f"{abs(run.worst.excess_tokens):,.0f} calls under it; {run.used:.2%} used under over-demand; {run.borrowed:,} "
            f"calls granted from what was borrowed, {run.exchanges:,} exchanges",
            flush=True,
        )
    draw(rows, found)


def draw(rows: list[Row], found: dict[str, Thousand]) -> None:
    """Write the plot: what is wanted and granted over time, and the fullest window of each length beside its bound."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    over_time, windows = figure.subplots(2, 1)
    over_time.set_title(f"{DAEMONS:,} daemons on one bucket: calls a second")
    over_time.step(*_rates([(round(row.at * 1e6), 1) for row in rows]), where="post", color="lightgrey", label="asked for")
    windows.set_title("the fullest window of each length, in calls")
    lengths = [0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8]
    windows.plot(lengths, [PER_S * (1 + length) for length in lengths], "k--", label="bound: capacity + rate x length")
    for (name, run), mark in zip(found.items(), "ox", strict=True):
        over_time.step(*_rates(run.grants), where="post", label=f"granted {name}")
        windows.plot(lengths, [fullest(run.grants, length) for length in lengths], mark, label=name)
    over_time.axhline(PER_S, color="black", linestyle="--", linewidth=0.8, label="what flows in")
    for axes in (over_time, windows):
        axes.set_xlabel("seconds")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize="small")
    figure.savefig(PLOT, dpi=90)


def _rates(moves: list[tuple[int, int]]) -> tuple[list[float], list[float]]:
    slices = [0] * (1 + max(at_us for at_us, _ in moves) // _SLICE_US)
    for at_us, tokens in moves:
        slices[at_us // _SLICE_US] += tokens
    scale = 1e6 / _SLICE_US
    return [index / scale for index in range(len(slices))], [tokens * scale for tokens in slices]


def fullest(grants: list[tuple[int, int]], length_s: float) -> int:
    """Return the most that any window of this length has, both ends in it."""
    most = held = first = 0
    for at_us, tokens in grants:
        held += tokens
        while grants[first][0] < at_us - length_s * 1e6:
            held -= grants[first][1]
            first += 1
        most = max(most, held)
    return most
