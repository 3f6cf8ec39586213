"""
The names of every metric and log event on one page.

Counters are plain integers in a dict, read by the scrape: the hit path pays one look-up and takes no lock, and who counts at
each call keeps its cell. Labels are few and bounded (never a prompt, a key, a caller's free text or a model that a caller made
up).
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from headrace import errors
from headrace.trace import Trace

# As Prometheus' own client has them.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_LONG = (30.0, 60.0, 120.0, 300.0, 600.0)
_LONGER = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, *_LONG)


_Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class Cell:
    """One count of a counter."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __repr__(self) -> str:
        return str(self.count)


class Counter:
    """
    Counts by label values, in the order in which the labels were named; shown as so many *per* one of the unit.

    *known* are values label by label, as `start` takes them.
    """

    def __init__(self, name: str, help: str, *labels: str, per: int = 1, known: Sequence[Iterable[str]] = ()) -> None:
        self.name, self.help, self.labels, self._per = name, help, labels, per
        self._counts: defaultdict[tuple[str, ...], Cell] = defaultdict(Cell)
        if not labels or known:
            self.start(*known)

    def __repr__(self) -> str:
        return f"<Counter {self.name} {self._counts}>"

    def inc(self, *values: str, by: int = 1) -> None:
        self._counts[values].count += by

    def start(self, *known: Iterable[str]) -> None:
        """Begin at 0, for all that may come of these values: an alert on the first time needs to have seen none."""
        for values in itertools.product(*known):
            self._counts[values]

    def at(self, *values: str) -> Cell:
        """Return the count of these values, for who adds to it again and again."""
        return self._counts[values]

    def value(self, *values: str) -> int:
        return self._counts[values].count if values in self._counts else 0

    def collect(self) -> Metric:
        family = CounterMetricFamily(self.name.removesuffix("_total"), self.help, labels=self.labels)
        for values, cell in list(self._counts.items()):
            family.add_metric(values, cell.count if self._per == 1 else cell.count / self._per)
        return family


class Histogram:
    """
    Counts sizes by buckets, for each value of its labels; as cheap as a counter.

    Of each bucket it remembers the last one that is in a recorded trace, as its exemplar: from a graph to a trace.
    """

    def __init__(
        self, name: str, help: str, *labels: str, buckets: tuple[float, ...] = _BUCKETS, known: Sequence[Iterable[str]] = ()
    ) -> None:
        self.name, self.help, self.labels, self.buckets = name, help, labels, buckets
        self._seen: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0] * (len(self.buckets) + 1))
        self._sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self._exemplars: dict[tuple[tuple[str, ...], int], Exemplar] = {}
        self._known = known
        self._start()

    def _start(self) -> None:
        if not self.labels or self._known:
            for values in itertools.product(*self._known):
                self._seen[values]

    def reach(self, size: float) -> None:
        """Have buckets up to this size, at least: each twice as large as the one before; before anything is seen."""
        if self.buckets[-1] >= size:
            return
        while self.buckets[-1] < size:
            self.buckets += (self.buckets[-1] * 2,)
        self._seen.clear()
        self._start()

    def __repr__(self) -> str:
        return f"<Histogram {self.name} {dict(self._sums)}>"

    def observe(self, size: float, *values: str, trace: Trace | None = None) -> None:
        at = bisect.bisect_left(self.buckets, size)
        self._seen[values][at] += 1
        self._sums[values] += size
        if trace is not None and trace.is_sampled:
            labels = {"trace_id": trace.trace_id, "span_id": trace.span_id}
            self._exemplars[values, at] = Exemplar(labels, size, time.time())

    def collect(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        bounds = [*map(floatToGoString, self.buckets), "+Inf"]
        for values, seen in list(self._seen.items()):
            rows = enumerate(zip(bounds, itertools.accumulate(seen), strict=True))
            family.add_metric(values, [self._shown(values, at, *row) for at, row in rows], self._sums[values])
        return family

    def _shown(self, values: tuple[str, ...], at: int, bound: str, count: int) -> _Bucket:
        exemplar = self._exemplars.get((values, at))
        return (bound, count) if exemplar is None else (bound, count, exemplar)


class Gauge:
    """A figure that is read when somebody looks: set `read` to a function, or use `set`."""

    def __init__(self, name: str, help: str) -> None:
        self.name, self.help = name, help
        self.read: Callable[[], float] = lambda: 0.0

    def __repr__(self) -> str:
        return f"<Gauge {self.name}>"

    def set(self, value: float) -> None:
        self.read = lambda: value

    def collect(self) -> Metric:
        return GaugeMetricFamily(self.name, self.help, value=self.read())


class Gauges:
    """The same by label values: set `read` to a function that returns them all, and those that are not there are not shown."""

    def __init__(self, name: str, help: str, *labels: str) -> None:
        self.name, self.help, self.labels = name, help, labels
        self.read: Callable[[], Mapping[tuple[str, ...], float]] = dict

    def __repr__(self) -> str:
        return f"<Gauges {self.name}>"

    def set(self, values: Mapping[tuple[str, ...], float]) -> None:
        self.read = lambda: values

    def collect(self) -> Metric:
        family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for values, figure in self.read().items():
            family.add_metric(values, figure)
        return family


def _reasons() -> tuple[str, ...]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HeadraceError)]
    return tuple(sorted({kind.reason for kind in kinds} - {errors.AttemptFailed.reason}))


REASONS = _reasons()
_EDGES, _DOORS = ("http", "grpc", "queue"), ("http", "grpc")
_STATES = ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED", "EXPIRED")
_ENDS = ("answered", "rate_limited", "overloaded", "broken", "unreadable", "final", "abandoned")
_RECORDS = (
    "key", "override", "purge", "ticket", "flight", "learned limit", "organisation's limits", "batch", "bucket", "count",
    "usage", "cache entry", "trail", "host", "drain", "told call", "act",
)  # fmt: skip

CALLS = Counter(
    "headrace_calls_total",
    "Calls answered, by edge and by where the answer came from.",
    "edge",
    "source",
    known=(_EDGES, ("upstream", "shared", "cache", "stale")),
)
ERRORS = Counter(
    "headrace_errors_total", "Calls that ended in an error, by edge and reason.", "edge", "reason", known=(_EDGES, REASONS)
)
REFUSED = Counter(
    "headrace_refused_total",
    "What was refused before it was a call, by door and reason.",
    "door",
    "reason",
    known=(("http", "grpc"), ("connections",)),
)
CACHE_EVENTS = Counter(
    "headrace_cache_events_total",
    "What the cache tiers did.",
    "tier",
    "event",
    known=(("memory", "disk", "redis"), ("hit", "miss", "store", "drop", "error")),
)
FLIGHTS = Counter(
    "headrace_flights_total", "Flights by this process's part in them.", "part", known=(("led", "joined", "followed"),)
)
ATTEMPTS = Counter("headrace_attempts_total", "Upstream attempts by outcome.", "outcome", known=(_ENDS,))
UPSTREAM_TOKENS = Counter(
    "headrace_upstream_tokens_total", "Tokens that upstream counted.", "kind", known=(("input", "output"),)
)
USED_TOKENS = Counter("headrace_used_tokens_total", "Tokens used at upstream, by row of prices and class.", "price", "class")
COST = Counter("headrace_cost_usd_total", "What they cost, by row of prices.", "price", per=1_000_000_000)
SAVED_TOKENS = Counter(
    "headrace_saved_tokens_total", "Tokens of answers that were kept, or shared.", "how", known=(("kept", "shared"),)
)
SAVED_COST = Counter(
    "headrace_saved_usd_total",
    "What it would have cost to ask for them again.",
    "how",
    per=1_000_000_000,
    known=(("kept", "shared"),),
)
RESERVATIONS = Counter(
    "headrace_reservations_total",
    "Budget reservations by outcome.",
    "outcome",
    known=(("granted", "waited", "refused", "cancelled"),),
)
TICKETS = Counter("headrace_tickets_total", "Ticket changes by the new state.", "state", known=(_STATES,))
RETRIES = Counter(
    "headrace_retries_total",
    "Retries by what the retry budget said: granted, refused.",
    "decision",
    known=(("granted", "refused"),),
)
SHADOW = Counter(
    "headrace_shadow_decisions_total", "What limits in the shadow would have decided: granted, held, refused, unknown.",
    "limit", "decision",
)  # fmt: skip
ESTIMATED = Counter(
    "headrace_estimated_total",
    "Tokens (spend: nano-USD) that calls reserved, that were closed since, and by how much those were under or over the truth.",
    "limit", "kind", "part",
)  # fmt: skip
CALLS_UNTOLD = Counter("headrace_calls_untold_total", "Calls that `headrace explain` will not know of: too many in a second.")
LINES_LEFT_OUT = Counter("headrace_call_lines_left_out_total", "Lines of calls that the ration of the log left out.")
COUNTS = Counter(
    "headrace_input_counts_total",
    "Calls whose input upstream was to count, by what came of it.",
    "outcome",
    known=(
        (
            "counted",
            "asked",
            "away",
            "broken",
            "busy",
            "final",
            "held",
            "overloaded",
            "rate_limited",
            "resting",
            "slow",
            "unfit",
            "unreadable",
        ),
    ),
)
REDIS_LOSS = Counter(
    "headrace_redis_loss_total",
    "Decisions made without Redis, by the policy that made them.",
    "policy",
    known=(("closed", "share", "open"),),
)
BAD_RECORDS = Counter(
    "headrace_bad_records_total", "Records in Redis that were skipped as they cannot be read.", "kind", known=(_RECORDS,)
)
BACKGROUND_FAILURES = Counter("headrace_background_failures_total", "Tasks beside the calls that died of a fault.", "part")
BORROWED_GRANTS = Counter("headrace_borrowed_grants_total", "Calls granted from borrowed budget, without asking Redis.")
EXCHANGES = Counter(
    "headrace_borrowed_exchanges_total",
    "Exchanges of borrowed budget with Redis by outcome.",
    "outcome",
    known=(("done", "away", "lost"),),
)
HANDED_OVER = Counter("headrace_handed_over_events_total", "Events of live streams handed over to followers on other hosts.")

WORDS = Counter(
    "headrace_upstream_words_total",
    "What upstream said is left, told to the shared buckets, by kind.",
    "kind",
    known=(("requests", "input_tokens", "output_tokens", "total_tokens"),),
)
GATES = Counter(
    "headrace_gate_changes_total",
    "What became of the gates of overloaded model classes by our attempts.",
    "change",
    known=(("shut", "opened", "spent", "gone", "still_shut", "narrowed"),),
)
BATCHES = Counter(
    "headrace_batches_total",
    "Message batches whose results passed, by what came of counting them.",
    "outcome",
    known=(("counted", "again", "unreadable", "lost"),),
)
LEARNED_CLASSES = Gauge("headrace_learned_classes", "Model classes whose limits were learnt from upstream.")

WAITING = Gauge("headrace_waiting_calls", "Calls that wait: for their turn, a slot, a retry, a flight, the rest of their body.")
BORROWED_BUCKETS = Gauge("headrace_borrowed_buckets", "Buckets of which this process holds borrowed budget.")
COMMANDS_SAVED = Gauge("headrace_borrowed_commands_saved", "Commands that borrowing has spared Redis since the start.")
WAITING_BYTES = Gauge("headrace_waiting_bytes", "Bytes of the bodies of those calls.")
COMING_BYTES = Gauge("headrace_coming_bytes", "Bytes of bodies that come in, or of which nobody knows yet what they ask.")
SLOTS = Gauge("headrace_upstream_slots", "Requests that may be in flight at upstream at once.")
SLOTS_IN_USE = Gauge("headrace_upstream_slots_in_use", "Requests in flight at upstream.")
SLOTS_CARRIED = Gauge("headrace_upstream_slots_carried", "Of the requests in flight at upstream, those that are only carried.")
SLOTS_WAITING = Gauge("headrace_upstream_slots_waiting", "Calls that have their budget and wait for a slot.")
IN_FLIGHT = Gauge("headrace_flights_in_the_air", "Flights in the air in this process.")
REDIS_UP = Gauge("headrace_redis_up", "1 while Redis answers and does what it is asked.")
REDIS_LISTENING = Gauge("headrace_redis_listening", "1 while nudges from other processes arrive.")
RETRIES_WAITING = Gauge("headrace_retries_waiting", "Retries that wait for the retry budget.")
ATTEMPTS_RUNNING = Gauge("headrace_attempts_running", "Attempts of tickets that are made here, or wait for their turn.")
WORKER_UP = Gauge("headrace_worker_up", "1 while the retry worker takes jobs.")

TURN_WAIT = Histogram("headrace_turn_wait_seconds", "How long calls waited for their turn.", buckets=_BUCKETS + _LONG)
UPSTREAM_TIME = Histogram(
    "headrace_upstream_seconds", "How long attempts took at upstream, by form and outcome.", "form", "outcome",
    buckets=_LONGER, known=(("json", "events", "carried"), ("answered",)),
)  # fmt: skip
CALL_TIME = Histogram(
    "headrace_call_seconds", "How long calls took, but for kept answers.", "model_class", "lane", "result", buckets=_LONGER
)
FIRST_TIME = Histogram(
    "headrace_first_content_seconds", "How long it took until calls had something to say.", "model_class", "lane",
    buckets=_LONGER,
)  # fmt: skip
WAIT_TIME = Histogram(
    "headrace_wait_seconds", "How long what held calls for how long.", "held_by", "lane", buckets=_BUCKETS + _LONG
)
# As OpenTelemetry's convention has them, units and buckets included: gen_ai.client.operation.duration and its kin.
_GEN_AI = "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"
_GEN_AI_TIMES = tuple(round(0.01 * 2**power, 2) for power in range(14))
GEN_AI_TIME = Histogram(
    "gen_ai_client_operation_duration_seconds", "How long tries of a model took, at upstream.", *_GEN_AI, "error_type",
    buckets=_GEN_AI_TIMES,
)  # fmt: skip
GEN_AI_FIRST = Histogram(
    "gen_ai_client_operation_time_to_first_chunk_seconds", "How long streams took to begin, at upstream.", *_GEN_AI,
    buckets=_GEN_AI_TIMES,
)  # fmt: skip
GEN_AI_TOKENS = Histogram(
    "gen_ai_client_token_usage", "Tokens that tries used.", *_GEN_AI, "gen_ai_token_type",
    buckets=tuple(float(4**power) for power in range(14)),
)  # fmt: skip
REACHING = TURN_WAIT, UPSTREAM_TIME, CALL_TIME, FIRST_TIME, WAIT_TIME, GEN_AI_TIME
"""Those that have to show the longest call."""

CALLER_CALLS = Counter("headrace_caller_calls_total", "Calls by caller, lane and how they ended.", "caller", "lane", "result")
CALLER_ERRORS = Counter("headrace_caller_errors_total", "Calls that ended in an error, by caller.", "caller", "reason")
CALLER_TOKENS = Counter("headrace_caller_tokens_total", "Tokens used at upstream.", "caller", "model_class", "kind")
CALLER_COST = Counter("headrace_caller_cost_usd_total", "What they cost, by caller.", "caller", per=1_000_000_000)
CALLER_WAITED = Counter(
    "headrace_caller_wait_seconds_total", "How long callers' calls were held, by what.", "caller", "held_by", per=1000
)
LIMIT_REFUSALS = Counter("headrace_limit_refusals_total", "Calls that a limit refused, by reason.", "limit", "reason")
UPSTREAM_ANSWERS = Counter("headrace_upstream_answers_total", "Upstream's answers by status.", "model_class", "status")

LIMIT_CAPACITY = Gauges("headrace_limit_capacity", "What the fullest bucket holds at most.", "limit", "kind", "model_class")
LIMIT_LEVEL = Gauges("headrace_limit_level", "What is left in it.", "limit", "kind", "model_class")
LIMIT_DEBT = Gauges("headrace_limit_debt", "What it lacks to nothing.", "limit", "kind", "model_class")
LIMIT_USED = Gauges("headrace_limit_used_ratio", "The share of it that is used.", "limit", "kind", "model_class")
LIMIT_WAITING = Gauges("headrace_limit_waiting_calls", "Calls that wait here for a limit.", "limit", "kind", "model_class")
LIMIT_OLDEST = Gauges("headrace_limit_oldest_wait_seconds", "How long the eldest has.", "limit", "kind", "model_class")
TICKETS_NOW = Gauges("headrace_tickets_live", "Tickets that have not ended, on all hosts, by state.", "state")
OLDEST_PARKED = Gauge("headrace_oldest_parked_seconds", "How long ago the eldest of those that are queued was made.")
BUILD_INFO = Gauges("headrace_build_info", "1, with what this process is.", "version", "python")
CONFIG_INFO = Gauges("headrace_config_info", "1, with the hash of the limits, callers and lanes that hold here.", "hash")
CONFIG_OK = Gauge("headrace_config_last_reload_successful", "1 unless the last reload was refused.")
CONFIG_AT = Gauge("headrace_config_last_reload_success_timestamp_seconds", "When the configuration was read last.")
UPSTREAM_STATE = Gauges("headrace_upstream_trouble", "1 while upstream is in this trouble.", "trouble")
UPSTREAM_SINCE = Gauges("headrace_upstream_trouble_since_timestamp_seconds", "Since when it is.", "trouble")

_ALL = (
    CALLS, ERRORS, REFUSED, CACHE_EVENTS, FLIGHTS, ATTEMPTS, UPSTREAM_TOKENS, USED_TOKENS, COST, SAVED_TOKENS, SAVED_COST,
    RESERVATIONS, LINES_LEFT_OUT, CALLS_UNTOLD, SHADOW, ESTIMATED, COUNTS, TICKETS, REDIS_LOSS, HANDED_OVER,
    BACKGROUND_FAILURES, BAD_RECORDS, WORDS, GATES,
    LEARNED_CLASSES, WAITING, WAITING_BYTES, COMING_BYTES, SLOTS, SLOTS_IN_USE, SLOTS_WAITING, IN_FLIGHT, REDIS_UP,
    REDIS_LISTENING,
    WORKER_UP, BATCHES, ATTEMPTS_RUNNING, BORROWED_GRANTS, EXCHANGES, BORROWED_BUCKETS, COMMANDS_SAVED, TURN_WAIT,
    UPSTREAM_TIME, CALL_TIME, FIRST_TIME, WAIT_TIME, CALLER_CALLS, CALLER_ERRORS, CALLER_TOKENS, CALLER_COST, CALLER_WAITED,
    LIMIT_REFUSALS, UPSTREAM_ANSWERS, LIMIT_CAPACITY, LIMIT_LEVEL, LIMIT_DEBT, LIMIT_USED, LIMIT_WAITING, LIMIT_OLDEST,
    TICKETS_NOW, OLDEST_PARKED, BUILD_INFO, CONFIG_INFO, CONFIG_OK, CONFIG_AT, UPSTREAM_STATE, UPSTREAM_SINCE,
    RETRIES, RETRIES_WAITING, GEN_AI_TIME, GEN_AI_FIRST, GEN_AI_TOKENS,
)  # fmt: skip


class _Collector:
    def collect(self) -> Iterator[Metric]:
        for metric in _ALL:
            yield metric.collect()


REGISTRY.register(_Collector())

# Log events: noun.past_participle. Fields are ids, counts and times; never a prompt, an answer or a key.
DAEMON_STARTED = "daemon.started"
DAEMON_DRAINING = "daemon.draining"
ACT_DONE = "act.done"
HOST_OUT = "host.out_of_service"
HOST_BACK = "host.back_in_service"
DAEMON_STOPPED = "daemon.stopped"
CERTIFICATE_RENEWED = "certificate.renewed"
CERTIFICATE_REJECTED = "certificate.rejected"
CONFIG_DOUBTFUL = "config.doubtful"
CONFIG_RELOADED = "config.reloaded"
CONFIG_REJECTED = "config.rejected"
CONFIG_WAITS = "config.needs_restart"
LIMIT_SET = "limit.set"
LIMIT_UNSET = "limit.unset"
CALLER_HELD = "caller.held"
CALLER_RELEASED = "caller.released"
OVERRIDES_CHANGED = "overrides.changed"
OVERRIDE_UNFIT = "override.unfit"
OVERRIDE_UNREADABLE = "override.unreadable"
REDIS_LOST = "redis.lost"
REDIS_BACK = "redis.back"
REDIS_REFUSED = "redis.refused"
REDIS_ALLOWED = "redis.allowed"
LISTENER_LOST = "listener.lost"
LISTENER_BACK = "listener.back"
NUDGE_UNREADABLE = "nudge.unreadable"
VALKEY_MENDED = "valkey.mended"
VALKEY_STARTED = "valkey.started"
VALKEY_ADOPTED = "valkey.adopted"
VALKEY_DIED = "valkey.died"
STATE_SHOWN = "state.shown"
MODES_MENDED = "state.modes_mended"
CRASHED = "daemon.crashed"
HEALTH_CHANGED = "health.changed"
FLIGHT_CRASHED = "flight.crashed"
PART_CRASHED = "part.crashed"
CALL_PARKED = "call.parked"
CALL_FAILED = "call.failed"
CALL_ENDED = "call.ended"
REQUEST_REFUSED = "request.refused"
EXCHANGE_LOST = "exchange.lost"
TICKET_ENDED = "ticket.ended"
TICKET_RESCUED = "ticket.rescued"
TICKET_DELAYED = "ticket.delayed"
TICKET_LOST = "ticket.lost"
TICKET_STRAY = "ticket.stray"
ALARM_FAILED = "alarm.failed"
TIER_FAILED = "cache.tier_failed"
PURGE_UNREADABLE = "cache.purge_unreadable"
RECORD_UNREADABLE = "record.unreadable"
RECORD_UNSEALED = "record.unsealed"
KEYS_STALE = "keys.stale"
KEYS_BACK = "keys.back"
KEY_UNREADABLE = "key.unreadable"
KEY_PEPPER_UNKNOWN = "key.pepper_unknown"
REDIS_LOST_DATA = "redis.lost_data"
REDIS_LACKS = "redis.lacks"
CACHE_PURGED = "cache.purged"
HELPER_STARTED = "helper.started"
JOB_FOREIGN = "job.foreign"
WORKER_STARTED = "worker.started"
WORKER_STOPPED = "worker.stopped"
WORKER_CRASHED = "worker.crashed"
LIMIT_LEARNED = "limit.learned"
LIMIT_LOWERED = "limit.lowered"
BATCH_LOST = "batch.lost"
OWNER_LOST = "owner.lost"
ACCOUNT_UNREADABLE = "account.unreadable"
GATE_SHUT = "gate.shut"
GATE_OPENED = "gate.opened"
GATE_SPENT = "gate.spent"
GATE_GONE = "gate.gone"
UPSTREAM_TROUBLED = "upstream.troubled"
UPSTREAM_WELL = "upstream.well"
LIBRARY_SAID = "library.said"
TRACES_ON = "traces.on"
TRACES_OFF = "traces.off"
SPAN_LOST = "span.lost"
