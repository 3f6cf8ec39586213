"""What tables of the live page are made of: rows of named cells, chips, states, buttons. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.admin.html import Child, Markup, tag

Cell = tuple[str, Child]


def table(name: str, rows: Iterable[tuple[str, Sequence[Cell]]], nothing: str) -> Markup:
    """Return a table of rows, each with its key and its cells; what there is to say where there are none."""
    rows = list(rows)
    if not rows:
        return tag("p", nothing, class_="nothing")
    head = tag("tr", *(tag("th", label, scope="col") for label, _ in rows[0][1]))
    lines = [tag("tr", *(_cell(*cell) for cell in cells), data_key=key, tabindex=0) for key, cells in rows]
    return tag("table", tag("thead", head), tag("tbody", *lines), class_=name)


def _cell(label: str, child: Child) -> Markup:
    is_figure = isinstance(child, str) and not isinstance(child, Markup) and child[:1] in "0123456789$-"
    return tag("td", child or "", data_label=label, class_="figure" if is_figure else None)


def chip(words: str) -> Markup:
    """Return a word that stands out."""
    return tag("span", words, class_="chip")


def state(words: str) -> Markup:
    """Return a state, in the colour of how good it is."""
    good = {"SUCCEEDED", "serving", "upstream", "cache", "shared", "stale", "200"}
    kind = "good" if words in good else "busy" if words in ("RUNNING", "QUEUED", "draining", "-") else "bad"
    return tag("span", words, class_=f"state {kind}")


def button(act: str, path: str, label: str) -> Markup:
    """Return what asks for an act, at a path; the label says all of it."""
    return tag("button", act, type="button", data_act=act, data_path=path, aria_label=label)


def short_name(daemon: str) -> str:
    """Return a process's name without what tells it from its namesakes."""
    return daemon.rsplit("-", 1)[0]
