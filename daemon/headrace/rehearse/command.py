"""`headrace rehearse`: what a configuration would do to some traffic, told before it is in force."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from headrace import config, terminal
from headrace.budget.costs import Costs
from headrace.budget.limits import Limits
from headrace.budget.quanta import Terms
from headrace.config import Settings
from headrace.rehearse import picture, report, traffic
from headrace.rehearse.findings import Findings, findings
from headrace.rehearse.plan import Plan
from headrace.rehearse.world import World


class Borrow(StrEnum):
    """Whether daemons borrow."""

    ON = "on"
    OFF = "off"


def rehearse(
    file: Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration to rehearse.")],
    calls: Annotated[Path, typer.Option("--traffic", help="The calls: JSON lines or CSV, as docs/rehearse.md says.")],
    daemons: Annotated[int, typer.Option(min=1, max=100_000, help="How many daemons share the limits.")] = 1,
    borrow: Annotated[Borrow, typer.Option(help="Whether daemons hold some of the budgets in advance.")] = Borrow.OFF,
    as_json: Annotated[bool, typer.Option("--json", help="Every figure, as JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw it into this PNG, too; needs headrace[plot].")] = None,
    seed: Annotated[int, typer.Option(help="Of all chance: the same one, the same figures.")] = 0,
) -> None:
    """Say who would wait and how long, who would be refused, and how much of each limit would be used; see docs/rehearse.md."""
    settings = config.load(file, os.environ)
    if plot is not None:
        picture.check()
    plan = plan_of(settings, daemons=daemons, terms=Terms() if borrow is Borrow.ON else None, seed=seed)
    found = run(plan, traffic.read(calls, plan.lanes, seed))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        report.show(found, terminal.console())
    if plot is not None:
        picture.draw(found, plot)
        typer.echo(f"drawn into {plot}", err=True)


def plan_of(settings: Settings, *, daemons: int = 1, terms: Terms | None = None, seed: int = 0) -> Plan:
    """Return what is to be rehearsed of a configuration."""
    costs = Costs(config.prices(settings).cost)
    return Plan(
        Limits(settings.limit, classes=config.classes(settings), costs=costs),
        costs,
        config.callers(settings),
        config.lanes(settings),
        daemons,
        settings.upstream.max_in_flight,
        settings.schedule.max_waiting,
        settings.schedule.max_waiting_bytes,
        terms,
        seed,
    )


def run(plan: Plan, calls: traffic.Traffic) -> Findings:
    """Rehearse, with a bar of progress where somebody looks."""
    with _progress(len(calls)) as tell, _no_collector():
        world = World(plan, calls, tell=tell)
        tally = world.run()
    borrowers = [daemon.borrower for daemon in world.daemons if daemon.borrower is not None]
    return findings(
        plan, calls, tally, borrowed=sum(one.grants for one in borrowers), exchanges=sum(one.exchanges for one in borrowers)
    )


@contextmanager
def _no_collector() -> Iterator[None]:
    # A rehearsal leaves no circles behind; looking for some takes a tenth of its time.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _progress(calls: int) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("rehearsing", total=calls)
        yield lambda come: progress.update(task, completed=come)
