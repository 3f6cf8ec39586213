"""What was seen over time, whether it rises, and the plot of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.house import Host, descriptors, memory_mb
from tests.soak.crowd import Left
from tests.truth.counting import quantile

PLOT = Path(__file__).parents[2] / "docs" / "soak.png"

# What a line through the second half may rise, over all of the run: memory comes in arenas, and descriptors by connections.
_RISE_MB = 12.0
_RISE_FDS = 12.0
_SLOWER = 2.0


@dataclass(slots=True)
class Series:
    """One process: what it held in memory (MB) and how many descriptors it had, sample by sample."""

    name: str
    memory_mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


class Samples:
    """All processes, and the 99th percentile of how long answers took, moment by moment."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts
        self._began = time.monotonic()
        self.at_s: list[float] = []
        self.p99_s: list[float] = []
        self.series = [Series(host.name) for host in hosts]

    def take(self, took_s: Iterable[float]) -> None:
        """Note how things are, and how long the answers since the last time took."""
        self.at_s.append(time.monotonic() - self._began)
        self.p99_s.append(quantile(took_s, 0.99))
        for host, series in zip(self._hosts, self.series, strict=True):
            series.memory_mb.append(memory_mb(host.pid))
            series.descriptors.append(descriptors(host.pid))

    def rise(self, values: Sequence[float]) -> float:
        """Return by how much values rise over the second half of the run, along the line through it."""
        half = len(values) // 2
        at, late = self.at_s[half:], values[half:]
        if len(late) < 3:
            return 0.0
        return statistics.linear_regression(at, late).slope * (at[-1] - at[0])

    def lines(self) -> list[str]:
        """Return a line about each process, and one about answers."""
        first, last = self._p99()
        said = [f"{self.at_s[-1] / 60:.1f} minutes; answers took {first:.2f} s at p99 at first and {last:.2f} s at last"]
        for series in self.series:
            memory, fds = series.memory_mb, series.descriptors
            said.append(
                f"{series.name}: {memory[0]:.0f} to {memory[-1]:.0f} MB, {self.rise(memory):+.1f} MB in the second half; "
                f"{fds[0]} to {fds[-1]} descriptors, {self.rise(fds):+.1f}"
            )
        return said

    def wrong(self) -> list[str]:
        """Return what grows."""
        found = [f"{one.name}: memory rises" for one in self.series if self.rise(one.memory_mb) > _RISE_MB]
        found += [f"{one.name}: descriptors rise" for one in self.series if self.rise(one.descriptors) > _RISE_FDS]
        first, last = self._p99()
        return [*found, *(["answers get slower"] if last > _SLOWER * first + 0.5 else [])]

    def _p99(self) -> tuple[float, float]:
        third = max(1, len(self.p99_s) // 3)
        return statistics.median(self.p99_s[:third]), statistics.median(self.p99_s[-third:])


def draw(samples: Samples, crowds: list[Left], plot: Path) -> None:
    """Write the plot: memory, descriptors and p99 over time; and memory while ten thousand wait, and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    memory, fds, p99, crowd = figure.subplots(4, 1)
    minutes = [at_s / 60 for at_s in samples.at_s]
    for series in samples.series:
        memory.plot(minutes, series.memory_mb, label=series.name)
        fds.plot(minutes, series.descriptors, label=series.name)
    p99.plot(minutes, samples.p99_s, color="black")
    for left in crowds:
        crowd.plot(left.at_s, left.memory_mb, color="black")
        crowd.axvline(
            left.left_s, color="grey", linestyle="--", linewidth=0.8, label="all have left" if left is crowds[0] else ""
        )
    titles = (
        "memory, MB",
        "descriptors",
        "99 % of answers took so many seconds at most",
        f"memory while {crowds[0].waiting:,} wait, MB",
    )
    for axes, title in zip((memory, fds, p99, crowd), titles, strict=True):
        axes.set_title(title, fontsize="medium")
        axes.set_ylim(bottom=0)
    for axes in (memory, fds, crowd):
        axes.legend(fontsize="small")
    p99.set_xlabel("minutes")
    crowd.set_xlabel("seconds")
    figure.savefig(plot, dpi=90)
