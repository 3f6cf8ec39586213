"""What is seen of the demo: a progress display on a terminal, plain lines elsewhere, and a closing table."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from headrace.demo.steps import Outcome, Step

_PLAIN_WIDTH = 140


class Screen:
    """Where the demo is shown."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=_PLAIN_WIDTH)
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Say a line."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, total: int) -> Iterator[Steps]:
        """Show how far the steps are."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as progress:
            yield Steps(progress, progress.add_task("", total=total))

    def close(self, outcomes: Sequence[Outcome]) -> None:
        """Show the closing table."""
        table = Table("", "step", "expected", "seen", box=box.SIMPLE_HEAD, show_lines=True)
        table.add_column("took", justify="right", no_wrap=True)
        for outcome in outcomes:
            step = outcome.step
            table.add_row(_mark(outcome), step.name, step.expected, escape(outcome.seen), f"{outcome.took_s:.1f} s")
        self._console.print(table)
        good = sum(outcome.is_ok for outcome in outcomes)
        took_s = time.monotonic() - self._began
        self.say(f"{good} of {len(outcomes)} as expected, in {took_s:.0f} s; every process has been ended.")


class Steps:
    """How far the steps are."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def begin(self, step: Step) -> None:
        """Show what is being done."""
        self._progress.update(self._task, description=step.name)

    def end(self, outcome: Outcome) -> None:
        """Show how it went."""
        self._progress.console.print(f"{_mark(outcome)} {outcome.step.name}: {escape(outcome.seen)}", soft_wrap=True)
        self._progress.advance(self._task)


def _mark(outcome: Outcome) -> str:
    return "[green]ok[/]" if outcome.is_ok else "[red]no[/]"
