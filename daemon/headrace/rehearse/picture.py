"""
What came of a rehearsal, as a PNG: how much of each limit is used, who waits, and how long, over one axis of time.

matplotlib draws it. It is an extra (`headrace[plot]`), since it is larger than the whole daemon, and only who plots needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.errors import StartupError
from headrace.rehearse.findings import Findings, Use
from headrace.rehearse.report import bound

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LIMITS = 8
_MOST_FLOWS = 12


def check() -> None:
    """Raise `StartupError` if nothing is here that draws."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise StartupError("--plot needs matplotlib, which is not installed: pip install 'headrace[plot]'") from error


def draw(findings: Findings, path: Path) -> None:
    """Write the picture. Raises `StartupError`."""
    check()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 10), layout="constrained")
    use, waiting, waits = figure.subplots(3, 1)
    _draw_use(use, findings)
    _draw_waiting(waiting, findings)
    waiting.sharex(use)
    _draw_waits(waits, findings)
    try:
        figure.savefig(path, format="png", dpi=110)
    except OSError as error:
        raise StartupError(f"{path}: cannot be written: {error.strerror}") from error


def _draw_use(axes: Axes, findings: Findings) -> None:
    axes.set_title(f"share of each limit that is used by {findings.calls:,} calls (daemons: {findings.daemons:,})")
    shown: Sequence[Use] = sorted(findings.limits, key=lambda use: -use.used)[:_MOST_LIMITS]
    for use in shown:
        times = [index * findings.slice_s for index in range(len(use.over_time))]
        axes.step(times, use.over_time, where="post", label=f"{use.bucket}, {bound(use)}: {use.used:.1%}")
    axes.axhline(1.0, color="grey", linewidth=0.8, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    if shown:
        axes.legend(fontsize="small", loc="lower right")


def _draw_waiting(axes: Axes, findings: Findings) -> None:
    axes.set_title("calls that wait, by lane")
    for lane, most in findings.waiting.items():
        axes.step([index * findings.slice_s for index in range(len(most))], most, where="post", label=lane)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    if findings.waiting:
        axes.legend(fontsize="small")


def _draw_waits(axes: Axes, findings: Findings) -> None:
    axes.set_title("wait of those that were granted, seconds; and how many were refused")
    shown = sorted(findings.waits, key=lambda flow: (-flow.wait_p99_s, -flow.calls))[:_MOST_FLOWS][::-1]
    rows = range(len(shown))
    axes.set_xlim(0, 1.25 * max([flow.wait_p99_s for flow in shown], default=0.0) or 1.0)
    axes.barh(rows, [flow.wait_p99_s for flow in shown], color="tab:blue", alpha=0.4, label="p99")
    axes.barh(rows, [flow.wait_p50_s for flow in shown], color="tab:blue", height=0.4, label="p50")
    axes.set_yticks(rows, [f"{flow.caller}, {flow.lane}" for flow in shown])
    for row, flow in zip(rows, shown, strict=True):
        refused = sum(flow.refused.values())
        axes.annotate(f" {refused:,} of {flow.calls:,} refused" if refused else "", (flow.wait_p99_s, row), va="center")
    axes.legend(fontsize="small", loc="lower right")
