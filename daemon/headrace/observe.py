"""
The names of every metric and log event on one page.

What counts and shows them is in instruments.py. Labels are few and bounded (never a prompt, a key, a caller's free text or a
model that a caller made up).
"""

from __future__ import annotations

from prometheus_client import REGISTRY

from headrace import errors
from headrace.instruments import BUCKETS, Collector, Counter, Gauge, Gauges, Histogram, Instrument

_LONG = (30.0, 60.0, 120.0, 300.0, 600.0)
_LONGER = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, *_LONG)


def _reasons() -> tuple[str, ...]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HeadraceError)]
    return tuple(sorted({kind.reason for kind in kinds} - {errors.AttemptFailed.reason}))


REASONS = _reasons()
_EDGES = ("http", "grpc", "queue")
_STATES = ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED", "EXPIRED")
_ENDS = ("answered", "rate_limited", "overloaded", "broken", "unreadable", "final", "abandoned")
_HTTP_REFUSALS = (
    "bad_chunk", "bad_header", "bad_message", "bad_request_line", "body_stalled", "connections", "head_late", "http2",
    "no_host", "padded", "tls", "too_long", "too_many_headers", "unread",
)  # fmt: skip
_GRPC_REFUSALS = ("connections", "flood", "not_taken", "unread", "vain_calls")
_COUNTS = (
    "counted", "asked", "away", "broken", "busy", "final", "held", "overloaded", "rate_limited", "resting", "slow", "unfit",
    "unreadable",
)  # fmt: skip
_RECORDS = (
    "key", "key use", "key count", "override", "purge", "ticket", "flight", "learned limit", "organisation's limits", "batch",
    "bucket", "count", "usage", "cache entry", "trail", "host", "drain", "told call", "act",
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
REFUSED = Counter("headrace_refused_total", "What was refused before it was a call, by door and reason.", "door", "reason")
REFUSED.start(("http",), _HTTP_REFUSALS)
REFUSED.start(("grpc",), _GRPC_REFUSALS)
REFUSED.start(("any",), ("unread",))
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
    "headrace_input_counts_total", "Calls whose input upstream was to count, by what came of it.", "outcome", known=(_COUNTS,)
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
HELD_BYTES = Gauge(
    "headrace_held_bytes", "Bytes of large bodies that calls hold, from when it is known what they ask to their end."
)
COMING_BYTES = Gauge("headrace_coming_bytes", "Bytes of bodies that come in, or of which nobody knows yet what they ask.")
SLOTS = Gauge("headrace_upstream_slots", "Requests that may be in flight at upstream at once.")
SLOTS_IN_USE = Gauge("headrace_upstream_slots_in_use", "Requests in flight at upstream.")
SLOTS_CARRIED = Gauge("headrace_upstream_slots_carried", "Of the requests in flight at upstream, those that are only carried.")
SLOTS_WAITING = Gauge("headrace_upstream_slots_waiting", "Calls that have their budget and wait for a slot.")
IN_FLIGHT = Gauge("headrace_flights_in_the_air", "Flights in the air in this process.")
REDIS_UP = Gauge("headrace_redis_up", "1 while Redis answers and does what it is asked.")
REDIS_ROUND_TRIP = Gauge("headrace_redis_round_trip_seconds", "How long Redis took to answer last.")
REDIS_LISTENING = Gauge("headrace_redis_listening", "1 while nudges from other processes arrive.")
RETRIES_WAITING = Gauge("headrace_retries_waiting", "Retries that wait for the retry budget.")
ATTEMPTS_RUNNING = Gauge("headrace_attempts_running", "Attempts of tickets that are made here, or wait for their turn.")
WORKER_UP = Gauge("headrace_worker_up", "1 while the retry worker takes jobs.")

TURN_WAIT = Histogram("headrace_turn_wait_seconds", "How long calls waited for their turn.", buckets=BUCKETS + _LONG)
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
    "headrace_wait_seconds", "How long what held calls for how long.", "held_by", "lane", buckets=BUCKETS + _LONG
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
GEN_AI_CHUNK = Histogram(
    "gen_ai_client_operation_time_per_output_chunk_seconds", "How long streams took from one event to the next.", *_GEN_AI,
    buckets=_GEN_AI_TIMES,
)  # fmt: skip
GEN_AI_PER_TOKEN = Histogram(
    "gen_ai_server_time_per_output_token_seconds", "How long upstream took for a token, once a stream had begun.", *_GEN_AI,
    buckets=(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
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
DEAD_LETTERS = Gauge("headrace_dead_letters", "Dead letters on all hosts.")
OLDEST_PARKED = Gauge("headrace_oldest_parked_seconds", "How long ago the eldest of those that are queued was made.")
CACHE_ENTRIES = Gauges("headrace_cache_entries", "Answers that a tier of the cache holds.", "tier")
CACHE_BYTES = Gauges("headrace_cache_bytes", "Their bytes.", "tier")
CACHE_BOUND = Gauges("headrace_cache_bound_bytes", "How many it may have at most.", "tier")
BUILD_INFO = Gauges("headrace_build_info", "1, with what this process is.", "version", "python")
CONFIG_INFO = Gauges("headrace_config_info", "1, with the hash of the limits, callers and lanes that hold here.", "hash")
CONFIG_OK = Gauge("headrace_config_last_reload_successful", "1 unless the last reload was refused.")
CONFIG_AT = Gauge("headrace_config_last_reload_success_timestamp_seconds", "When the configuration was read last.")
UPSTREAM_STATE = Gauges("headrace_upstream_trouble", "1 while upstream is in this trouble.", "trouble")
UPSTREAM_SINCE = Gauges("headrace_upstream_trouble_since_timestamp_seconds", "Since when it is.", "trouble")

# Whatever has a name above is shown: a list of them would be one name short some day, and nobody would see it.
REGISTRY.register(Collector([each for each in list(globals().values()) if isinstance(each, Instrument)]))

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
