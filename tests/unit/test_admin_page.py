"""The live page as HTML: every view shows what is there, and whatever a caller calls itself stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from headrace import observe
from headrace.admin import page, tables
from headrace.admin.html import Markup, join, tag
from headrace.admin.rows import Shown
from headrace.admin.views import VIEWS, Asked
from headrace.instruments import Histogram, Instrument
from page_rows import EVIL, SUMMARY, shown


class Tags(HTMLParser):
    """Takes HTML apart as a browser does, and looks that what is open is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("view", [*VIEWS, "call"])
def test_escaped(view):
    """A caller may call itself whatever it likes: it is shown, as text, and nothing of it is a tag or an attribute."""
    said = page.whole(shown(view, EVIL), Asked(view), by=EVIL, may_act=True)
    tags = Tags(said)
    assert "<script>alert(1)</script>" in tags.text
    assert [attributes.get("src") for tag, attributes in tags.tags if tag == "script"] == ["/admin/page.js"]
    assert not [tag for tag, _ in tags.tags if tag in ("img", "iframe", "object", "style", "base")]
    names = {name for _, attributes in tags.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name == "style"]  # the policy would stop them, too


@pytest.mark.parametrize("view", [*VIEWS, "call"])
def test_nothing_from_elsewhere(view):
    """No address of a page is elsewhere."""
    for _, attributes in Tags(page.whole(shown(view), Asked(view), by="ops", may_act=True)).tags:
        for name in ("src", "href", "action", "data-source"):
            assert re.match(r"/admin/|#view\Z", attributes.get(name) or "/admin/"), attributes


@pytest.mark.parametrize("view", [*VIEWS, "call"])
def test_nothing_there(view):
    """A view without a row says so."""
    empty = Shown(view=view, summary=SUMMARY, rows=[])
    assert Tags(page.body(empty, may_act=True)).text


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ("budgets", ["reports", "90 %", "6 of 60", "requests of 60/min", "2, the first for 14 s", "18 s", "shadow", "learnt"]),
        ("line", ["reports", "3.0 s", "5.0 s", "1 min", "20,000 calls"]),
        ("tickets", ["QUEUED", "4.0 s", "10 min", "dead letter", "requeue", "drop", "cancel"]),
        ("callers", ["reports", "120k", "12 %", "14 s", "$0.0200", "on hold", "release"]),
        ("hosts", ["reports", "0.4 ms", "4 of 512", "different configurations"]),
        ("calls", ["40 s", "31 s"]),
        ("call", ["reports", "31 s", "529"]),
        ("usage", ["$1.20", "$0.3000", "2027-01", "1 without a price"]),
    ],
)
def test_shows(view, words):
    """Each view shows what its rows have."""
    said = Tags(page.body(shown(view), may_act=True)).text
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize("view", ["tickets", "callers"])
def test_who_may_not_act(view):
    """Who may only look is shown nothing to act with."""
    assert "data-act" in tables.VIEWS[view](shown(view), True)
    assert "data-act" not in tables.VIEWS[view](shown(view), False)


def test_tags():
    """Text is escaped where it becomes part of a tag, markup is not escaped twice, and attributes are what they say."""
    inner = tag("b", "1 < 2 & 3")
    assert tag("p", inner, " > ", None, class_="a b", data_x='"', hidden=True, id=None, title=False) == (
        '<p class="a b" data-x="&quot;" hidden><b>1 &lt; 2 &amp; 3</b> &gt; </p>'
    )
    assert isinstance(join(inner, "<"), Markup)
    assert tag("i", "a\x00b\u202ec\ud800") == "<i>a\ufffdb\ufffdc\ufffd</i>"


def test_figures_behind():
    """The queries that a view names for Prometheus are of metrics, and labels, that there are."""
    made = {
        each.name: {*each.labels, "le"} if isinstance(each, Histogram) else set(getattr(each, "labels", ()))
        for each in vars(observe).values()
        if isinstance(each, Instrument)
    }
    for query in (query for queries in page.BEHIND.values() for query in queries):
        [name] = re.findall(r"headrace_\w+", query)
        by = re.findall(r"by \(([^)]*)\)", query)
        assert set(re.split(r", ?", by[0]) if by else ()) <= made[name.removesuffix("_bucket")], query
