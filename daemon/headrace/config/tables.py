"""
The keys of the configuration and their defaults.

Each struct is a TOML table, each attribute a key of the same name. Durations are seconds and sizes bytes from here on;
`redacted` writes them as people do.
"""

from __future__ import annotations

import hashlib
from keyword import iskeyword
from typing import Annotated, Any, Literal, cast, get_args, get_type_hints

import msgspec

from headrace.budget.limit import Estimates
from headrace.budget.limits import Limit, Match
from headrace.classes import ModelClasses
from headrace.config.kinds import (
    Amount,
    Backoff,
    BaseUrl,
    CacheWish,
    CertificateName,
    DimensionName,
    Duration,
    EndpointGlob,
    Folder,
    Glob,
    GrpcAddress,
    HiddenText,
    HostName,
    HttpAddress,
    Mode,
    Name,
    OptionalAmount,
    OptionalDuration,
    OptionalFile,
    OptionalHttpAddress,
    OptionalName,
    OptionalUsd,
    Origin,
    Proxy,
    RedisUrl,
    Secret,
    SecretFile,
    Share,
    Size,
    Spelling,
    Url,
    Version,
    Wish,
)
from headrace.model import Caller, Lane, Role
from headrace.prices import Price, Prices
from headrace.rank import FULL_SHARE, LANES

DEFAULT_KEY_FILE = "/etc/headrace/api_key"
DEFAULT_PEPPER_FILE = "/etc/headrace/key_pepper"

Count = Annotated[int, msgspec.Meta(ge=1)]
Least = Annotated[int, msgspec.Meta(ge=0)]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML table."""


class Upstream(Table, frozen=True):
    base_url: BaseUrl = Url("https://api.anthropic.com")
    api_key: HiddenText = Secret("")
    api_key_file: SecretFile = DEFAULT_KEY_FILE
    admin_api_key: HiddenText = Secret("")
    admin_api_key_file: OptionalFile = ""
    credentials: Literal["own", "caller"] = "own"
    version: Version = "2023-06-01"
    max_in_flight: Count = 512
    carried_share: Share = 0.5
    carried_pace: Size = 10_000
    carried_patience: Duration = 30.0
    attempt_timeout: Duration = 600.0
    silence_timeout: Duration = 90.0
    overload_gate: Literal["on", "off"] = "on"
    proxy: Proxy = Url("")  # `load` fills it in where the environment names one for `base_url`


class Listen(Table, frozen=True):
    grpc: tuple[GrpcAddress, ...] = ("unix:headrace.sock", "127.0.0.1:7400")
    http: HttpAddress = "127.0.0.1:7480"
    admin: tuple[GrpcAddress, ...] = ("unix:admin.sock", "127.0.0.1:7481")
    stream_opens: Duration = 10.0
    hosts: tuple[HostName, ...] = ()
    origins: tuple[Origin, ...] = ()
    max_connections: Count = 10_000
    max_connections_per_peer: Count = 5_000
    max_streams: Count = 1024
    max_coming_bytes: Size = 32_000_000
    max_held_bytes: Size = 256_000_000
    head_timeout: Duration = 10.0
    body_timeout: Duration = 30.0
    write_timeout: Duration = 60.0
    idle_timeout: Duration = 3600.0
    socket_mode: Mode = "0660"
    socket_group: str = ""
    tls_certificate: OptionalFile = ""
    tls_key: OptionalFile = ""
    tls_client_ca: OptionalFile = ""
    tls_clients: dict[CertificateName, Name] = {}
    insecure: bool = False


class State(Table, frozen=True):
    dir: Folder = ""  # `load` always fills it in: the default depends on the environment
    mac_key_file: OptionalFile = ""
    encryption_key_file: OptionalFile = ""


class Redis(Table, frozen=True):
    url: RedisUrl = Url("")  # `load` puts the password in, where it is in a file of its own
    password_file: OptionalFile = ""
    tls_ca: OptionalFile = ""
    tls_certificate: OptionalFile = ""
    tls_key: OptionalFile = ""
    wait_replicas: Least = 0


class Auth(Table, frozen=True):
    required: bool = False
    default_role: Role = Role.CALLER
    shared_resources: bool = False
    unknown_resources: Literal["own", "shared"] = "own"
    pepper_file: SecretFile = DEFAULT_PEPPER_FILE

    @property
    def keeps_apart(self) -> bool:
        """Whether what callers have at upstream is each one's own. Where no key is asked for, a name tells nobody apart."""
        return self.required and not self.shared_resources

    @property
    def shares_unknown(self) -> bool:
        """Whether what lives in collections that are not known is everybody's all the same."""
        return self.unknown_resources == "shared"


class Cache(Table, frozen=True):
    enabled: bool = True
    ttl: Duration = 3600.0
    scope: Literal["caller", "shared"] = "caller"
    stale: Duration = 86_400.0
    memory: Size = 64_000_000
    disk: Size = 1_000_000_000
    redis: Size = 256_000_000
    max_entry: Size = 4_000_000


class Retry(Table, frozen=True):
    max_attempts: Count = 8
    backoff: Backoff = (0.5, 30.0)
    max_age: Duration = 570.0
    budget: Share = 1.0
    max_running: Count = 1000
    max_tickets: Count = 10_000
    max_ticket_bytes: Size = 1_000_000_000
    max_all_ticket_bytes: Size = 4_000_000_000
    keep_results: Duration = 86_400.0
    keep_letters: Duration = 604_800.0
    max_letters: Count = 10_000


class Schedule(Table, frozen=True):
    max_waiting: Count = 10_000
    max_waiting_bytes: Size = 512_000_000
    borrow: Literal["auto", "off"] = "auto"
    borrow_at_most: Share = 0.1


class Log(Table, frozen=True):
    calls: Literal["off", "slow", "errors", "all"] = "slow"
    slow: Duration = 30.0
    explain: Count = 20_000


class Metrics(Table, frozen=True):
    max_callers: Count = 200


class Drain(Table, frozen=True):
    delay: Duration = 0.0
    time: Duration = 30.0


class Worker(Table, frozen=True):
    listen: OptionalHttpAddress = ""


class UsageTable(Table, frozen=True):
    traffic: Literal["off", "on"] = "off"


class CallerSettings(Table, frozen=True):
    lane: str = ""  # standard, and no ceiling
    weight: Count = 1
    role: Role = Role.CALLER
    timeout: OptionalDuration = None
    cache: Wish = CacheWish()
    team: OptionalName = ""
    workspace: OptionalName = ""
    labels: tuple[Name, ...] = ()


class LaneTable(Table, frozen=True):
    share: Share = 0.05


class ClassTable(Table, frozen=True):
    models: tuple[Glob, ...] = ()


class PriceTable(Table, frozen=True):
    """A `[price.NAME]` as it is written; `price` is what the rest of the program knows."""

    models: tuple[Glob, ...] = ()
    input: Amount = 0.0
    output: Amount = 0.0
    cache_read: OptionalAmount = None
    cache_write_5m: OptionalAmount = None
    cache_write_1h: OptionalAmount = None
    batch: Amount = 0.5
    tiers: dict[str, Amount] = {}
    long_prompt: Least = 0
    long_factor: Amount = 1.0

    @property
    def price(self) -> Price:
        return Price(**msgspec.structs.asdict(self))


class MatchTable(Table, frozen=True):
    model: Glob = "*"
    caller: Glob = "*"
    lane: Glob = "*"
    endpoint: EndpointGlob = ""
    class_: Glob = "*"
    team: Glob = "*"
    workspace: Glob = "*"
    label: dict[str, Glob] = {}

    @property
    def match(self) -> Match:
        fields = msgspec.structs.asdict(self)
        labels = tuple(sorted(fields.pop("label").items()))
        return Match(model_class=fields.pop("class_"), labels=labels, **fields)

    @classmethod
    def of(cls, match: Match) -> MatchTable:
        same = {name: getattr(match, name) for name in cls.__struct_fields__ if name not in ("class_", "label")}
        return cls(class_=match.model_class, label=dict(match.labels), **same)


class LimitTable(Table, frozen=True):
    """A `[[limit]]` as it is written; `limit` is what the rest of the program knows."""

    name: str = ""
    match: MatchTable = MatchTable()
    per: tuple[DimensionName, ...] = ()
    requests_per_minute: int | None = None
    input_tokens_per_minute: int | None = None
    output_tokens_per_minute: int | None = None
    total_tokens_per_minute: int | None = None
    concurrency: int | None = None
    spend_per_day: OptionalUsd = None
    spend_per_month: OptionalUsd = None
    zone: str = "UTC"
    burst: Duration = 60.0
    cache_read_weight: Share = 0.0
    estimate: Estimates = "learned"
    shadow: bool = False
    on_redis_loss: Literal["closed", "open", "share"] = "closed"

    @property
    def limit(self) -> Limit:
        fields = msgspec.structs.asdict(self)
        return Limit(match=fields.pop("match").match, burst_s=fields.pop("burst"), **fields)

    @classmethod
    def of(cls, limit: Limit) -> LimitTable:
        same = {name: getattr(limit, name) for name in cls.__struct_fields__ if name not in ("match", "burst")}
        return cls(match=MatchTable.of(limit.match), burst=limit.burst_s, **same)


class Settings(Table, frozen=True):
    """The whole configuration."""

    upstream: Upstream = Upstream()
    listen: Listen = Listen()
    state: State = State()
    redis: Redis = Redis()
    auth: Auth = Auth()
    cache: Cache = Cache()
    retry: Retry = Retry()
    schedule: Schedule = Schedule()
    drain: Drain = Drain()
    worker: Worker = Worker()
    log: Log = Log()
    metrics: Metrics = Metrics()
    usage: UsageTable = UsageTable()
    limit: tuple[Limit, ...] = ()
    caller: dict[str, CallerSettings] = {}
    class_: dict[str, ClassTable] = {}
    price: dict[str, PriceTable] = {}
    lane: dict[str, LaneTable] = {}

    def redacted(self) -> dict[str, Any]:
        """Return everything as TOML would have it, secrets hidden."""
        return cast(dict[str, Any], _as_written(type(self), self))


def fields_of(table: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the keys of a table with the kinds of their values."""
    return {name.removesuffix("_"): kind for name, kind in get_type_hints(table, include_extras=True).items()}


def attribute(key: str) -> str:
    """Return the attribute that holds a key's value: it has an underscore more where Python uses the word itself."""
    return f"{key}_" if iskeyword(key) else key


def spelling_of(kind: Any) -> Spelling | None:
    """Return how a value of this kind is written, if not as itself."""
    return next((extra for extra in getattr(kind, "__metadata__", ()) if isinstance(extra, Spelling)), None)


def callers(settings: Settings) -> dict[str, Caller]:
    """Return the configured callers by name."""
    return {name: _caller(name, caller) for name, caller in settings.caller.items()}


def prices(settings: Settings) -> Prices:
    """Return the table of prices: the configuration's rows before the default ones."""
    return Prices({name: row.price for name, row in settings.price.items()})


def _caller(name: str, said: CallerSettings) -> Caller:
    return Caller(
        name, said.lane or Lane.STANDARD, said.weight, said.role, ceiling=said.lane, timeout_s=said.timeout,
        cache_ttl_s=said.cache.ttl_s, team=said.team, workspace=said.workspace, labels=said.labels,
    )  # fmt: skip


def lanes(settings: Settings) -> dict[str, int]:
    """Return the shares of the lanes, in millionths: those that there always are, and those that are configured."""
    return LANES | {name: round(table.share * FULL_SHARE) for name, table in settings.lane.items()}


def settings_hash(settings: Settings) -> str:
    """Return a hash of what has to be the same on all hosts: limits, callers, lanes, classes and prices. No secret is in it."""
    shared = {name: settings.redacted()[name] for name in ("limit", "caller", "lane", "class", "price")}
    return hashlib.sha256(msgspec.json.encode(shared, order="sorted")).hexdigest()[:12]


def classes(settings: Settings) -> ModelClasses:
    """Return the classes of models."""
    return ModelClasses({name: table.models for name, table in settings.class_.items()})


def _as_written(kind: Any, value: Any) -> Any:
    if spelling := spelling_of(kind):
        return spelling.write(value)
    if isinstance(value, Limit):
        value = LimitTable.of(value)
    if isinstance(value, msgspec.Struct):
        pairs = ((name, _as_written(inner, getattr(value, attribute(name)))) for name, inner in fields_of(type(value)).items())
        return {name: written for name, written in pairs if written is not None}
    if isinstance(value, tuple):
        return [_as_written(get_args(kind)[0], item) for item in value]
    if isinstance(value, dict):
        return {name: _as_written(get_args(kind)[1], item) for name, item in value.items()}
    return str(value) if isinstance(value, str) else value
