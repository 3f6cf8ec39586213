"""Printing for people: tables, on a terminal as wide as it is, in a pipe without anything cut off."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Return what prints to standard output. Whoever reads a pipe can wait for the end of the line."""
    return Console(width=None if sys.stdout.isatty() else 240)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under the names of their columns."""
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    console().print(table)
