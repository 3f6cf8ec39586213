"""
The names of every metric and log event on one page, and how logs are set up.

Counters are plain integers in a dict, read by the scrape: the hit path pays one dict update and takes no lock. Labels are
few and bounded (never a prompt, a key, a caller's free text or a model that a caller made up).
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import msgspec
import structlog
from prometheus_client import REGISTRY, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from headrace.errors import HeadraceError

_WORDS = re.compile(r"[A-Za-z0-9 ,.:;%/_-]{0,200}")
_MOST_CAUSES = 8

class Counter:
    """Counts by label values, in the order in which the labels were named."""

    def __init__(self, name: str, help: str, *labels: str) -> None:
        self.name, self.help, self.labels = name, help, labels
        self._counts: dict[tuple[str, ...], int] = {}

    def __repr__(self) -> str:
        return f"<Counter {self.name} {self._counts}>"

    def inc(self, *values: str, by: int = 1) -> None:
        self._counts[values] = self._counts.get(values, 0) + by

    def value(self, *values: str) -> int:
        return self._counts.get(values, 0)

    def collect(self) -> Metric:
        family = CounterMetricFamily(self.name.removesuffix("_total"), self.help, labels=self.labels)
        for values, count in list(self._counts.items()):
            family.add_metric(values, count)
        return family


class Gauge:
    """A figure that is read when somebody looks: set `read` to a function, or use `set`."""

    def __init__(self, name: str, help: str) -> None:
        self.name, self.help = name, help
        self.read: Callable[[], float] = lambda: 0.0

    def set(self, value: float) -> None:
        self.read = lambda: value

    def collect(self) -> Metric:
        return GaugeMetricFamily(self.name, self.help, value=self.read())


CALLS = Counter("headrace_calls_total", "Calls answered, by edge and by where the answer came from.", "edge", "source")
ERRORS = Counter("headrace_errors_total", "Calls that ended in an error, by edge and reason.", "edge", "reason")
CACHE_EVENTS = Counter("headrace_cache_events_total", "What the cache tiers did.", "tier", "event")
FLIGHTS = Counter("headrace_flights_total", "Flights by this process's part in them.", "part")
ATTEMPTS = Counter("headrace_attempts_total", "Upstream attempts by outcome.", "outcome")
UPSTREAM_TOKENS = Counter("headrace_upstream_tokens_total", "Tokens that upstream counted.", "kind")
RESERVATIONS = Counter("headrace_reservations_total", "Budget reservations by outcome.", "outcome")
TICKETS = Counter("headrace_tickets_total", "Ticket changes by the new state.", "state")
REDIS_LOSS = Counter("headrace_redis_loss_total", "Decisions made without Redis, by the policy that made them.", "policy")
RELAYED = Counter("headrace_relayed_events_total", "Events of live streams handed to followers on other hosts.")

WAITING = Gauge("headrace_waiting_calls", "Calls waiting for their turn.")
WAITING_BYTES = Gauge("headrace_waiting_bytes", "Bytes of the bodies of those calls.")
IN_FLIGHT = Gauge("headrace_flights_in_the_air", "Flights in the air in this process.")
REDIS_UP = Gauge("headrace_redis_up", "1 while Redis answers.")
WORKER_UP = Gauge("headrace_worker_up", "1 while the retry worker takes jobs.")

TURN_WAIT = Histogram("headrace_turn_wait_seconds", "How long calls waited for their turn.")
UPSTREAM_TIME = Histogram(
    "headrace_upstream_seconds",
    "How long upstream took, by form.",
    ["form"],
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600),
)

_ALL = (
    CALLS, ERRORS, CACHE_EVENTS, FLIGHTS, ATTEMPTS, UPSTREAM_TOKENS, RESERVATIONS, TICKETS, REDIS_LOSS, RELAYED,
    WAITING, WAITING_BYTES, IN_FLIGHT, REDIS_UP, WORKER_UP,
)  # fmt: skip


class _Collector:
    def collect(self) -> Iterator[Metric]:
        for metric in _ALL:
            yield metric.collect()


REGISTRY.register(_Collector())

# Log events: noun.past_participle. Fields are ids, counts and times; never a prompt, an answer or a key.
DAEMON_STARTED = "daemon.started"
DAEMON_DRAINING = "daemon.draining"
DAEMON_STOPPED = "daemon.stopped"
CONFIG_DOUBTFUL = "config.doubtful"
CONFIG_RELOADED = "config.reloaded"
CONFIG_REJECTED = "config.rejected"
REDIS_LOST = "redis.lost"
VALKEY_STARTED = "valkey.started"
VALKEY_ADOPTED = "valkey.adopted"
VALKEY_DIED = "valkey.died"
STATE_SHOWN = "state.shown"
HEALTH_CHANGED = "health.changed"
FLIGHT_CRASHED = "flight.crashed"
PART_CRASHED = "part.crashed"
CALL_PARKED = "call.parked"
CALL_FAILED = "call.failed"
REQUEST_REFUSED = "request.refused"
TICKET_ENDED = "ticket.ended"
TICKET_RESCUED = "ticket.rescued"
TICKET_DELAYED = "ticket.delayed"
TICKET_LOST = "ticket.lost"
ALARM_FAILED = "alarm.failed"
TIER_FAILED = "cache.tier_failed"
CACHE_PURGED = "cache.purged"
WORKER_STARTED = "worker.started"
WORKER_STOPPED = "worker.stopped"
WORKER_CRASHED = "worker.crashed"
LIBRARY_SAID = "library.said"


def _to_json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def set_up_logs(*, console: bool | None = None, level: int = logging.INFO) -> None:
    """
    Log to stderr: JSON lines, or colours on a terminal. Libraries' own loggers join in, warnings and up only.

    No error's text is logged, ours or a library's: it may quote a prompt, an answer or a key. Its kind and its place are.
    """
    if console is None:
        console = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(serializer=_to_json)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_texts,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)


def _without_texts(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else sys.exc_info()[1] if given is True else given and given[1]
    if error is not None:
        event["exception"] = trace(error)
        if isinstance(error, HeadraceError):
            event["reason"] = error.reason
    return event


def trace(error: BaseException) -> str:
    """Return where an error came from and of which kinds it and its causes are, the first cause first; never their texts."""
    said = []
    at: BaseException | None = error
    while at is not None and len(said) < _MOST_CAUSES:
        number = f" [errno {at.errno}]" if isinstance(at, OSError) and at.errno is not None else ""
        inner = f" of {', '.join(type(one).__name__ for one in at.exceptions)}" if isinstance(at, BaseExceptionGroup) else ""
        said.append("".join(traceback.format_tb(at.__traceback__)) + type(at).__qualname__ + number + inner)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return "\nled to\n".join(reversed(said))


class _Libraries(logging.Handler):
    """What libraries log by the standard library, as events of ours: the words of their source, not what they put into them."""

    def emit(self, record: logging.LogRecord) -> None:
        # asyncio puts values into the text itself, always in brackets or quotes of some kind, or on lines of their own.
        words = _WORDS.match(str(record.msg))
        error = record.exc_info[1] if record.exc_info else None
        said = {"library": record.name, "text": words[0].strip() if words else ""}
        structlog.get_logger().log(record.levelno, LIBRARY_SAID, **said, exc_info=error)
