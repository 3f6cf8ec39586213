"""The program: a table that is asked for anew every second, and keys for the views. It reads only."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import msgspec
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Static

from headrace.admin.rows import Shown
from headrace.errors import HeadraceError, StartupError
from headrace.top import order, text
from headrace.top.client import Client

_EVERY_S = 1.0


class Details(ModalScreen[None]):
    """All that is known of one row."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q", "dismiss", "Back")]
    CSS = "Details { align: center middle; } VerticalScroll { width: 90%; height: 80%; border: solid; padding: 0 1; }"

    def __init__(self, row: Any) -> None:
        super().__init__()
        self._row = row

    def compose(self) -> ComposeResult:
        """Make it."""
        said = msgspec.json.format(msgspec.json.encode(self._row), indent=2).decode()
        with VerticalScroll():
            yield Static(Text(said))


class Top(App[None]):
    """
    Shows views.

    Args:
        client: whom to ask, one question at a time, in a thread.
        view: which to begin with.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("b", "show('budgets')", "Budgets"),
        Binding("c", "show('callers')", "Callers"),
        Binding("w", "show('line')", "Waiting"),
        Binding("t", "show('tickets')", "Tickets"),
        Binding("h", "show('hosts')", "Hosts"),
        Binding("a", "show('calls')", "Calls"),
        Binding("u", "show('usage')", "Usage"),
        Binding("s", "sort", "Sort"),
        Binding("q", "quit", "Quit"),
    ]
    CSS = "#head { height: auto; } #trouble { height: auto; text-style: bold; } DataTable { height: 1fr; }"
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, client: Client, view: str = "budgets") -> None:
        super().__init__()
        self._client = client
        self._view = view
        self._shown: Shown | None = None
        self._by: dict[str, str] = {}  # the column that a view is sorted by
        self._rows: list[Any] = []
        self._columns = ""
        # One thread, so one question at a time: the client has one connection, and two that open it at once lose one.
        self._asking = ThreadPoolExecutor(1)

    def compose(self) -> ComposeResult:
        """Make the screen."""
        yield Static(id="head")
        yield Static(id="trouble")
        yield DataTable(cursor_type="row", cell_padding=0)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin."""
        self.run_worker(self._keep(), exclusive=True)

    def on_unmount(self) -> None:
        """End, when the question in the air is answered."""
        self._asking.shutdown(cancel_futures=True)

    def action_show(self, view: str) -> None:
        """Show another view, as soon as the question in the air is answered."""
        self._view = view
        self.run_worker(self._keep(), exclusive=True)

    def action_sort(self) -> None:
        """Sort the view that is shown by its next column; after the last, as its rows come."""
        if self._shown is not None:
            view = self._shown.view
            self._by[view] = order.after(view, self._by.get(view, ""))
            self._fill(self._shown)

    async def _keep(self) -> None:
        while True:
            await self._look(self._view)
            await asyncio.sleep(_EVERY_S)

    async def _look(self, view: str) -> None:
        try:
            shown = await asyncio.get_running_loop().run_in_executor(self._asking, self._client.view, view)
        except (StartupError, HeadraceError, msgspec.MsgspecError) as error:
            self.query_one("#trouble", Static).update(Text(str(error)))
            return
        if view == self._view:
            self._fill(shown)

    def _fill(self, shown: Shown) -> None:
        self._shown, by = shown, self._by.get(shown.view, "")
        self._rows = order.ordered(shown.view, by, shown.rows)
        shown = msgspec.structs.replace(shown, rows=self._rows)
        title = text.TITLES[shown.view] + (f" by {by}" if by else "")
        self.query_one("#head", Static).update(Text(f"headrace  {title}  {text.head(shown.summary)}"))
        self.query_one("#trouble", Static).update(Text("\n".join(shown.summary.troubles)))
        table = self.query_one(DataTable)
        at = table.cursor_row
        columns = text.COLUMNS[shown.view]
        is_other = self._columns != shown.view
        table.clear(columns=is_other)
        if is_other:
            self._columns = shown.view
            for place, (name, width) in enumerate(columns, 1):
                table.add_column(Text(name), width=width + (place < len(columns)))  # a blank between two
        for row in text.rows(shown):
            table.add_row(*(Text(text.cut(cell, width)) for cell, (_, width) in zip(row, columns, strict=True)))
        if not is_other and table.row_count:
            table.move_cursor(row=min(at, table.row_count - 1), animate=False)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show all of a row."""
        if event.cursor_row < len(self._rows):
            self.push_screen(Details(self._rows[event.cursor_row]))
