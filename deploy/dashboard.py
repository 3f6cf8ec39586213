"""
The dashboard for Grafana, as a table of panels: a title, a unit, and what is asked of Prometheus, by legend.

    python -m deploy.dashboard     prints deploy/grafana/headrace.json (`make dashboard`)

Panels go by the variables `job` and `instance`. A test asks each query of a real Prometheus that scrapes a real daemon.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

WIDE, HIGH = 8, 7  # three panels to a row of Grafana's 24 columns
ALL = 'headrace_redis_up{job=~"$job"}'  # every daemon has it
OURS = '{job=~"$job", instance=~"$instance"%s}'


class Panel(NamedTuple):
    """
    One graph.

    Args:
        unit: as Grafana calls it: "reqps", "s", "percentunit", ...
        queries: PromQL by legend; @ stands for the labels that choose job and instance, @(...) for those and some more.
    """

    title: str
    unit: str
    queries: dict[str, str]
    says: str = ""


def rate(name: str, by: str, more: str = "") -> str:
    """Return a counter's rate, added up by a label."""
    return f"sum by ({by}) (rate({name}@({more})[$__rate_interval]))"


def quantile(share: str, name: str, by: str = "") -> str:
    """Return a histogram's quantile over all hosts."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({name}_bucket@[$__rate_interval])))"


CALLS, SPARED = "headrace_calls_total", 'source!="upstream"'
ROWS: dict[str, list[Panel]] = {
    "Calls": [
        Panel("Answers by where they came from", "reqps", {"{{source}}": rate("headrace_calls_total", "source")}),
        Panel(
            "Errors by reason",
            "reqps",
            {"{{reason}}": rate("headrace_errors_total", "reason")},
            "docs/errors.md explains them.",
        ),
        Panel(
            "Share that upstream was not asked for",
            "percentunit",
            {
                "kept or shared": rate("headrace_calls_total", "job", 'source!="upstream"')
                + " / "
                + rate("headrace_calls_total", "job")
            },
        ),
    ],
    "Callers": [
        Panel("Calls by caller", "reqps", {"{{caller}}": rate("headrace_caller_calls_total", "caller")}),
        Panel("Refused by caller", "reqps", {"{{caller}}": rate("headrace_caller_calls_total", "caller", 'result="refused"')}),
        Panel(
            "Held up by", "short", {"{{caller}}, {{held_by}}": rate("headrace_caller_wait_seconds_total", "caller, held_by")}
        ),
        Panel("Tokens by caller", "short", {"{{caller}}": rate("headrace_caller_tokens_total", "caller")}, "A second."),
        Panel(
            "Spent a day by caller",
            "currencyUSD",
            {"{{caller}}": "sum by (caller) (increase(headrace_caller_cost_usd_total@[1d]))"},
        ),
        Panel(
            "How long calls take (p95)",
            "s",
            {"{{lane}}": quantile("0.95", "headrace_call_seconds", "lane")},
            "But kept answers.",
        ),
    ],
    "Limits and waiting": [
        Panel(
            "Share of limits that is used",
            "percentunit",
            {"{{limit}}, {{kind}}, {{model_class}}": "max by (limit, kind, model_class) (headrace_limit_used_ratio@)"},
            "Of each limit's fullest bucket; over 100 % is debt.",
        ),
        Panel(
            "Oldest wait for a limit",
            "s",
            {"{{limit}}, {{kind}}": "max by (limit, kind) (headrace_limit_oldest_wait_seconds@)"},
        ),
        Panel("Refused by limit", "reqps", {"{{limit}}, {{reason}}": rate("headrace_limit_refusals_total", "limit, reason")}),
        Panel(
            "Wait for a turn",
            "s",
            {f"p{share[2:]}": quantile(share, "headrace_turn_wait_seconds") for share in ("0.50", "0.95", "0.99")},
        ),
        Panel("Asks for budget by outcome", "reqps", {"{{outcome}}": rate("headrace_reservations_total", "outcome")}),
        Panel(
            "Waiting now",
            "short",
            {
                "{{instance}}": "headrace_waiting_calls@",
                "for a slot, {{instance}}": "headrace_upstream_slots_waiting@",
            },
        ),
    ],
    "Upstream": [
        Panel("Attempts by outcome", "reqps", {"{{outcome}}": rate("headrace_attempts_total", "outcome")}),
        Panel(
            "Time at upstream",
            "s",
            {f"p{share[2:]}": quantile(share, "headrace_upstream_seconds") for share in ("0.50", "0.95", "0.99")},
        ),
        Panel(
            "Slots in use",
            "percentunit",
            {"{{instance}}": "headrace_upstream_slots_in_use@ / headrace_upstream_slots@"},
            "Of upstream.max_in_flight.",
        ),
    ],
    "Queue": [
        Panel("Moves of tickets by state", "reqps", {"{{state}}": rate("headrace_tickets_total", "state")}),
        Panel("Attempts that run", "short", {"{{instance}}": "headrace_attempts_running@"}, "retry.max_running bounds them."),
        Panel("Oldest that is parked", "s", {"": "max(headrace_oldest_parked_seconds@)"}),
        Panel("Tickets that have not ended", "short", {"{{state}}": "max by (state) (headrace_tickets_live@)"}),
        Panel("Gates of overloaded models", "short", {"{{change}}": rate("headrace_gate_changes_total", "change")}),
    ],
    "Tokens and cost": [
        Panel("Tokens used", "short", {"{{class}}": rate("headrace_used_tokens_total", "class")}, "A second."),
        Panel(
            "Spent a day",
            "currencyUSD",
            {"{{price}}": "sum by (price) (increase(headrace_cost_usd_total@[1d]))"},
            "Over the day before each moment, by row of the table of prices.",
        ),
        Panel("Saved a day", "currencyUSD", {"{{how}}": "sum by (how) (increase(headrace_saved_usd_total@[1d]))"}),
    ],
    "Hosts": [
        Panel(
            "Redis, worker",
            "bool_on_off",
            {"Redis, {{instance}}": "headrace_redis_up@", "worker, {{instance}}": "headrace_worker_up@"},
        ),
        Panel("Upstream's troubles", "bool_on_off", {"{{trouble}}": "max by (trouble) (headrace_upstream_trouble@)"}),
        Panel(
            "Versions and configurations",
            "short",
            {
                "versions": "count(count by (version) (headrace_build_info@))",
                "configurations": "count(count by (hash) (headrace_config_info@))",
            },
            "More than one of either: hosts do not go by the same.",
        ),
        Panel("CPU", "percentunit", {"{{instance}}": "rate(process_cpu_seconds_total@[$__rate_interval])"}, "Of one core."),
        Panel("Memory", "bytes", {"{{instance}}": "process_resident_memory_bytes@"}),
    ],
}


def filled(query: str) -> str:
    """Return a query with the labels that choose job and instance."""
    head, *tails = query.split("@")
    for tail in tails:
        more, tail = tail[1:].split(")", 1) if tail.startswith("(") else ("", tail)
        head += OURS % (f", {more}" if more else "") + tail
    return head


def panels() -> Iterator[dict[str, Any]]:
    """Yield what Grafana calls panels: a row's title, then its graphs."""
    number = y = 0
    for title, graphs in ROWS.items():
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _at(0, y, 24, 1)}
        for place, graph in enumerate(graphs):
            number += 1
            down, across = divmod(place, 24 // WIDE)
            yield drawn(graph) | {"id": number, "gridPos": _at(across * WIDE, y + 1 + down * HIGH, WIDE, HIGH)}
        y += 1 + HIGH * -(-len(graphs) * WIDE // 24)


def drawn(graph: Panel) -> dict[str, Any]:
    """Return one graph as Grafana has it."""
    return {
        "type": "timeseries",
        "title": graph.title,
        "description": graph.says,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": graph.unit, "min": 0, "custom": {"fillOpacity": 10}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + number), "expr": filled(query), "legendFormat": legend}
            for number, (legend, query) in enumerate(graph.queries.items())
        ],
    }


def dashboard() -> dict[str, Any]:
    """Return all of it."""
    return {
        "title": "Headrace",
        "uid": "headrace",
        "tags": ["headrace"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "graphTooltip": 1,
        "templating": {"list": [_source(), _choice("job", "headrace_redis_up"), _choice("instance", ALL)]},
        "panels": list(panels()),
    }


def _at(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _choice(name: str, series: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": f"label_values({series}, {name})", "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=1) + "\n")
