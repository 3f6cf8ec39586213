"""What came of a rehearsal, for a terminal: three tables, with a line of blocks for what goes on over time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table

from headrace.budget.want import NANO_USD, Form
from headrace.rehearse.findings import Findings, Use, Waits

_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60  # of a line of blocks
_MOST_ROWS = 24
_WORDS = {"late": "too late", "never": "too large", "full": "queue full"}


def show(findings: Findings, console: Console) -> None:
    """Print all of it."""
    console.print(Group(*_parts(findings)))


def _parts(findings: Findings) -> list[RenderableType]:
    parts: list[RenderableType] = [_summary(findings), _waits(findings.waits)]
    if findings.limits:
        parts.append(_limits(findings.limits, findings.seconds))
    if findings.waiting:
        parts.append(_waiting(findings))
    for limit, decisions in findings.shadows.items():
        parts.append(f"limit {limit}, in the shadow, would have let {decisions.get('held', 0):,} calls wait or refused them")
    return parts


def _summary(findings: Findings) -> str:
    daemons = f"{findings.daemons:,} daemon{'s' if findings.daemons > 1 else ''}"
    told = f"{findings.calls:,} calls in {span(findings.seconds)} at {daemons}: {findings.refused:,} refused"
    if findings.guessed:
        told += f"; what {findings.guessed:,} of them use was not known, and is drawn from calls like them"
    if findings.borrowed:
        told += f"; {findings.borrowed:,} granted from what was borrowed, in {findings.exchanges:,} exchanges"
    return told


def _waits(waits: Sequence[Waits]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("caller", "lane"):
        table.add_column(name)
    for name in ("calls", "refused", "why", "wait p50", "p99", "longest", "input", "output"):
        table.add_column(name, justify="right")
    shown = sorted(waits, key=lambda flow: (-flow.wait_p99_s, -flow.calls))
    for flow in shown[:_MOST_ROWS]:
        table.add_row(
            flow.caller, flow.lane, f"{flow.calls:,}", f"{sum(flow.refused.values()):,}",
            ", ".join(f"{_WORDS[why]} {count:,}" for why, count in flow.refused.items()), seconds(flow.wait_p50_s),
            seconds(flow.wait_p99_s), seconds(flow.wait_most_s), f"{flow.input_tokens:,}", f"{flow.output_tokens:,}",
        )  # fmt: skip
    _tell_rest(table, len(shown))
    return table


def _limits(limits: Sequence[Use], length_s: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name, justify in (("limit", "left"), ("bound", "right"), ("used", "right"), ("most", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    table.add_column(f"over {span(length_s)}, and until the last has ended; a full block is all that flows in", no_wrap=True)
    shown = sorted(limits, key=lambda use: -use.used)
    for use in shown[:_MOST_ROWS]:
        most = max(use.over_time, default=0.0)
        table.add_row(use.bucket, bound(use), f"{use.used:.1%}", f"{most:.1%}", blocks(use.over_time, 1.0))
    _tell_rest(table, len(shown))
    return table


def _waiting(findings: Findings) -> Table:
    table = Table("lane", "most waiting", "waiting calls over time", box=box.SIMPLE_HEAD)
    highest = max(max(most) for most in findings.waiting.values())
    for lane, most in findings.waiting.items():
        table.add_row(lane, f"{max(most):,}", blocks(most, highest))
    return table


def _tell_rest(table: Table, rows: int) -> None:
    if rows > _MOST_ROWS:
        table.caption = f"and {rows - _MOST_ROWS:,} more; --json has them all"


def bound(use: Use) -> str:
    """Return what a bucket holds its calls to, in words."""
    if use.form is Form.WINDOW:
        return f"${use.capacity / NANO_USD:,.2f}"
    return f"{use.per_minute:,}/min" if use.form is Form.RATE else f"{use.capacity:,} at once"


def blocks(values: Sequence[float], full: float) -> str:
    """Return values as blocks, the highest for *full* and all above it; the mean of some where there are many."""
    count = min(_WIDTH, len(values))
    cuts = [len(values) * index // count for index in range(count + 1)] if count else []
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(cuts)]
    return "".join(_BLOCKS[_height(mean / full)] for mean in means)


def _height(share: float) -> int:
    # What is not nothing is seen, and only what is full is shown so.
    if share <= 0:
        return 0
    return max(1, min(len(_BLOCKS) - 1, int(share * (len(_BLOCKS) - 1) + 0.05)))


def seconds(value: float) -> str:
    """Return a wait in words, short enough for a table."""
    return (
        "-" if not value else f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.2f} s" if value < 100 else f"{value:,.0f} s"
    )


def span(value: float) -> str:
    """Return how long something takes, in words."""
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
