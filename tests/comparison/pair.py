"""
Two simulators alike, one asked directly and one through an installed daemon; and what of their answers must be equal.

Everything must, but for what no two runs of an API have in common: ids, times, and the address that was asked. These are put
into a common form here, in which an id that is lost or swapped on the way is seen, and so is an address that leads elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from fleet import daemon
from headrace.simulator import Options, Simulator, start

KEY, ADMIN_KEY = "sk-ant-api03-comparison", "sk-ant-admin01-comparison"

_CONTROL = httpx.Client(trust_env=False, verify=False)  # one for all: to make one takes longer than a call

_ID = re.compile(r"(?<![a-z])[a-z]+_01[0-9a-f]{8}\d{14}|\bpage_[\w-]{20,}")
_HINT = re.compile(r"(?<=sk-ant-sim03-\.\.\.)\d{4}|(?<=sk-ant-sim03-<apikey \d>)\d{4}")  # the last digits of an id
_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")
_UNIX = re.compile(r'(?<="created": )\d{10}\b')
_BOUNDARY = re.compile(r"(?<=boundary=)[\w-]{20,}")
_SHOWN = 100_000
_RUN_S = 40 * 86_400  # a time this near is one of this run's; others are data

# What belongs to one connection or to the daemon itself; and the organization, which is the daemon's, and is not kept with an
# answer that others may get.
_NOT_COMPARED = {
    "connection", "content-length", "date", "keep-alive", "server", "transfer-encoding", "via",
    "age", "cache-control", "cache-status", "x-headrace-attempts", "x-headrace-source", "x-headrace-ticket",
    "x-headrace-request-id", "server-timing",
    "anthropic-organization-id",
}  # fmt: skip
_BUDGET = (
    "anthropic-ratelimit-"  # the daemon's word of the caller's own budget; it reads the organization's limits from upstream
)
# The same of requests. Headers by which the SDK tells of itself (x-stainless-*) are not sent on where calls are shared.
_NOT_SENT_ON = {
    "accept-encoding", "connection", "content-length", "host", "transfer-encoding", "via", "x-api-key", "authorization",
    "accept-language", "sec-fetch-mode",
    "x-headrace-caller", "x-headrace-timeout-ms", "cache-control", "user-agent", "accept", "expect",
}  # fmt: skip


Compare = Callable[..., list[dict[str, Any]]]  # conftest.py has it


@dataclass(frozen=True)
class Side:
    """One way to ask: *url* is the address that is asked, *upstream* the simulator's."""

    name: str
    url: str
    upstream: str
    grpc: str = ""

    def order(self, what: str, value: Any = None) -> None:
        """Tell the simulator: "faults", "answers", "reset"."""
        _CONTROL.post(f"{self.upstream}/_simulator/{what}", json=value).raise_for_status()

    def journal(self) -> list[dict[str, Any]]:
        """Return the calls that reached the simulator since the last reset, in order."""
        return _CONTROL.get(f"{self.upstream}/_simulator/journal").raise_for_status().json()["visits"]

    def itself(self) -> Side:
        """Return the way that leads to this side's simulator directly."""
        return Side(self.name, self.upstream, self.upstream)

    def normal(self, value: Any) -> Any:
        """Return *value*, which JSON can hold, in the form in which two runs can be compared."""
        return json.loads(_common(json.dumps(value, sort_keys=True).replace(self.url, "http://asked")))


@dataclass(frozen=True)
class Pair:
    """Both ways."""

    direct: Side
    through: Side

    def __iter__(self) -> Iterator[Side]:
        return iter((self.direct, self.through))

    def order(self, what: str, value: Any = None) -> None:
        """Tell both simulators."""
        for side in self:
            side.order(what, value)


@contextlib.contextmanager
def pair(**settings: str) -> Iterator[Pair]:
    """Run both; *settings* are the daemon's."""
    settings = {
        "UPSTREAM__ADMIN_API_KEY": ADMIN_KEY,
        "UPSTREAM__OVERLOAD_GATE": "off",
        "AUTH__DEFAULT_ROLE": "admin",
    } | settings
    with _simulators(2) as (one, other), daemon(other.url, **settings) as running:
        yield Pair(Side("direct", one.url, one.url), Side("through", running.http, other.url, running.grpc))


@contextlib.contextmanager
def _simulators(count: int) -> Iterator[list[Simulator]]:
    """Run simulators in a thread of their own: the SDK that asks them blocks."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(20)

    running = [run(start(Options.instant())) for _ in range(count)]
    try:
        yield running
    finally:
        for simulator in running:
            run(simulator.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def told(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an answer that must be equal."""
    return {
        name.lower(): value
        for name, value in headers.items()
        if name.lower() not in _NOT_COMPARED and not name.lower().startswith(_BUDGET)
    }


def reached(visit: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a call must be equal once it has reached the simulator."""
    sent = {name.lower(): value for name, value in visit["headers"].items() if not _is_ours(name.lower())}
    return {name: visit[name] for name in ("method", "target", "status", "body_bytes")} | {"headers": sent}


def _is_ours(name: str) -> bool:
    return name in _NOT_SENT_ON or name.startswith("x-stainless-")


def body(raw: bytes) -> Any:
    """Return a body as JSON can hold it: what it says in JSON, else its text, else its hash, as of all that is large."""
    if len(raw) <= _SHOWN:
        with contextlib.suppress(ValueError):  # which a UnicodeDecodeError is, too
            return json.loads(raw)
        with contextlib.suppress(ValueError):
            return raw.decode()
    return {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


def _common(text: str) -> str:
    names: dict[str, str] = {}

    def name(found: re.Match[str]) -> str:
        # By their first appearance: the same id has the same name wherever it stands.
        return names.setdefault(found[0], f"<{found[0].partition('_')[0]} {len(names)}>")

    text = _BOUNDARY.sub("<any>", _HINT.sub("<hint>", _ID.sub(name, text)))
    text = _TIME.sub(lambda found: _near(datetime.fromisoformat(found[0]), found[0]), text)
    return _UNIX.sub(lambda found: json.dumps(_near(datetime.fromtimestamp(int(found[0]), UTC), found[0])), text)


def _near(moment: datetime, said: str) -> str:
    from_now_s = (moment - datetime.now(UTC)).total_seconds()
    return f"<now + {round(from_now_s / 600) / 6:.1f} h>" if abs(from_now_s) < _RUN_S else said


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Return where two values differ, and how: a line for each place."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = sorted(one.keys() | other.keys())
        return [line for name in names for line in differences(one.get(name, "-"), other.get(name, "-"), f"{where}.{name}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [line for n, pair in enumerate(zip(one, other, strict=True)) for line in differences(*pair, f"{where}[{n}]")]
    return [] if one == other and type(one) is type(other) else [f"{where}: {one!r} and {other!r}"]
