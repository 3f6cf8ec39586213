"""The frame of the live page: what stands over and under every view. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from headrace.admin import tables
from headrace.admin.html import Markup, join, tag
from headrace.admin.rows import Shown, Summary
from headrace.admin.views import CALL, Asked
from headrace.admin.words import count, moment, span

NAMES: Mapping[str, str] = {
    "budgets": "Budgets",
    "line": "Line",
    "tickets": "Tickets",
    "callers": "Callers",
    "hosts": "Hosts",
    "calls": "Calls",
    "usage": "Usage",
}
KEYS: Mapping[str, str] = {
    "b": "budgets",
    "w": "line",
    "t": "tickets",
    "c": "callers",
    "h": "hosts",
    "a": "calls",
    "u": "usage",
}

BEHIND: Mapping[str, tuple[str, ...]] = {
    "budgets": (
        "headrace_limit_used_ratio",
        "sum by (limit, reason) (rate(headrace_limit_refusals_total[5m]))",
        "sum by (outcome) (rate(headrace_attempts_total[5m]))",
    ),
    "line": ("headrace_limit_waiting_calls", "headrace_limit_oldest_wait_seconds", "headrace_waiting_calls"),
    "tickets": ("headrace_tickets_live", "headrace_dead_letters", "headrace_oldest_parked_seconds"),
    "callers": (
        "sum by (caller) (rate(headrace_caller_calls_total[5m]))",
        "sum by (caller) (rate(headrace_caller_tokens_total[5m]))",
        "histogram_quantile(0.95, sum by (le, held_by) (rate(headrace_wait_seconds_bucket[5m])))",
    ),
    "hosts": ("headrace_build_info", "headrace_config_info", "headrace_redis_round_trip_seconds", "headrace_worker_up"),
    "calls": ("histogram_quantile(0.95, sum by (le, lane) (rate(headrace_call_seconds_bucket[5m])))",),
    "usage": (
        "sum by (price) (increase(headrace_cost_usd_total[30d]))",
        "sum by (how) (increase(headrace_saved_usd_total[30d]))",
    ),
}


def whole(shown: Shown, asked: Asked, *, by: str, may_act: bool) -> str:
    """Return a page."""
    name = NAMES.get(asked.view, "A call")
    source = "/admin/events?" + urlencode({"view": asked.view, **asked.said})
    said = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"{name} · Headrace"),
            tag("link", rel="icon", href="/admin/icon.svg", type="image/svg+xml"),
            tag("link", rel="stylesheet", href="/admin/page.css"),
            tag("script", src="/admin/page.js", defer=True),
        ),
        tag(
            "body",
            tag("a", "To the view", href="#view", class_="skip"),
            tag("header", tag("a", "Headrace", href="/admin/budgets", class_="brand"), _nav(asked.view)),
            tag("main", body(shown, may_act=may_act), id="view", tabindex=-1, data_source=source),
            tag("footer", _behind(asked.view), tag("p", _who(by, may_act), " Keys: ", _keys())),
            tag("p", id="said", role="status", aria_live="polite"),
            _dialog(),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{said}"


def body(shown: Shown, *, may_act: bool) -> Markup:
    """Return what changes: the line over the view, and the view."""
    name = NAMES.get(shown.view, "A call")
    return join(tag("h1", name), _summary(shown.summary), _trouble(shown), tables.VIEWS[shown.view](shown, may_act))


def _nav(view: str) -> Markup:
    current = "calls" if view == CALL else view
    keys = {name: key for key, name in KEYS.items()}
    links = (
        tag(
            "a",
            words,
            href=f"/admin/{name}",
            aria_current="page" if name == current else None,
            data_hotkey=keys[name],
            title=f"key {keys[name]}",
        )
        for name, words in NAMES.items()
    )
    return tag("nav", *links, aria_label="Views")


def _summary(summary: Summary) -> Markup:
    silent = f" of {summary.hosts}" if summary.heard < summary.hosts else ""
    due = f", next in {span(summary.next_due - summary.at)}" if summary.next_due is not None else ""
    facts = (
        ("hosts", f"{summary.heard}{silent}"),
        ("Redis", f"{summary.redis_ms:.1f} ms" if summary.redis_ms is not None else "away"),
        ("in the air", count(summary.flights)),
        ("waiting", count(summary.waiting)),
        ("parked", f"{count(summary.parked)}{due}"),
        ("dead letters", count(summary.letters)),
    )
    at = tag("time", moment(summary.at), " UTC", class_="at")
    return tag("div", *(tag("span", f"{name} ", tag("b", value)) for name, value in facts), at, class_="summary")


def _trouble(shown: Shown) -> Markup | None:
    troubles = shown.summary.troubles
    return tag("ul", *(tag("li", each) for each in troubles), class_="troubles") if troubles else None


def _behind(view: str) -> Markup:
    queries = BEHIND.get(view, ())
    return tag("details", tag("summary", "In Prometheus"), *(tag("p", tag("code", query)) for query in queries))


def _who(by: str, may_act: bool) -> str:
    return f"You are {by}, and may {'act' if may_act else 'look'}."


def _keys() -> Markup:
    said = [*KEYS.items(), ("j", "down"), ("k", "up"), ("enter", "open"), ("/", "filter")]
    return join(*(join(tag("kbd", key), f" {name} ") for key, name in said))


def _dialog() -> Markup:
    return tag(
        "dialog",
        tag(
            "form",
            tag("h2", id="what"),
            tag("label", "Why ", tag("input", name="reason", maxlength=200, autocomplete="off")),
            tag(
                "label",
                "For ",
                tag(
                    "select",
                    *(
                        tag("option", words, value=value)
                        for words, value in (
                            ("until it is released", ""),
                            ("15 minutes", "900"),
                            ("1 hour", "3600"),
                            ("1 day", "86400"),
                        )
                    ),
                    name="for_s",
                ),
                class_="hold",
            ),
            tag(
                "label",
                tag("input", type="checkbox", name="refuse"),
                " Refuse its calls, instead of letting them wait",
                class_="hold",
            ),
            tag(
                "p",
                tag("button", "Do it", value="do"),
                " ",
                tag("button", "Leave it", value="", formnovalidate=True, type="button", id="leave"),
                class_="acts",
            ),
            method="dialog",
        ),
        aria_labelledby="what",
    )
