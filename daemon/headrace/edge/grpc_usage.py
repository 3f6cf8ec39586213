"""UsageService: what was used, and what it cost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from headrace.clock import Clock
from headrace.edge.grpc_calls import Handler, Who, guarded, parse
from headrace.errors import InvalidCall, NotAllowed
from headrace.owner import Owner
from headrace.usage import Granularity, Question, Row, Store
from headrace.usage.tally import FIELDS
from headrace.v1 import usage_service_pb2 as pb

_GRANULARITIES = {
    pb.USAGE_GRANULARITY_UNSPECIFIED: Granularity.WHOLE,
    pb.USAGE_GRANULARITY_MINUTE: Granularity.MINUTE,
    pb.USAGE_GRANULARITY_DAY: Granularity.DAY,
    pb.USAGE_GRANULARITY_MONTH: Granularity.MONTH,
}
_ROWS_AT_ONCE = 200  # that are made before the loop may go on with something else


class UsageServicer:
    """One short method per RPC."""

    def __init__(self, store: Store, clock: Clock, who: Who) -> None:
        self._store = store
        self._clock = clock
        self._who = who

    def __repr__(self) -> str:
        return f"<UsageServicer {self._store!r}>"

    @property
    def unary(self) -> dict[str, Handler]:
        """The methods that answer once."""
        return {"GetUsage": self.usage}

    @guarded
    async def usage(self, raw: bytes, context: Any) -> bytes:
        """Return the usage of all daemons, as far as whoever asks may see it."""
        asker = self._who.ask(context, "UsageService.GetUsage")
        request = parse(pb.GetUsageRequest, raw)
        own = f"#{asker.owner.credential}" if asker.is_limited and asker.owner.credential else ""
        if asker.is_limited:
            request.caller = _own(asker.owner, request.caller)
        rows, since, until = await self._store.ask(_question(request, self._clock.now()))
        reply = pb.GetUsageResponse(since_time=_stamp(since), until_time=_stamp(until))
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            reply.rows.extend(_row(row, own) for row in rows[first : first + _ROWS_AT_ONCE])
            await self._clock.sleep(0)
        return reply.SerializeToString()


def _own(owner: Owner, asked: str) -> str:
    """Return the glob of what is the owner's own; under one key of its own all names are, whichever are asked for."""
    if owner.credential:
        return f"{asked or '*'}#{owner.credential}"
    if asked not in ("", owner.name):
        raise NotAllowed("Callers see their own usage only; the role observer sees all of it.")
    return owner.name


def _question(request: pb.GetUsageRequest, now_s: float) -> Question:
    now = datetime.fromtimestamp(now_s, UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if request.granularity not in _GRANULARITIES:
        raise InvalidCall("granularity: is none that there is", metadata={"field": "granularity"})
    return Question(
        since=_moment(request.since_time, "since_time") if request.HasField("since_time") else today,
        until=_moment(request.until_time, "until_time") if request.HasField("until_time") else now,
        caller=request.caller or "*",
        team=request.team or "*",
        model=request.model or "*",
        lane=request.lane or "*",
        label=request.labels or "*",
        group_by=tuple(request.group_by),
        granularity=_GRANULARITIES[request.granularity],
    )


def _moment(stamp: Timestamp, field: str) -> datetime:
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidCall(f"{field}: is no moment", metadata={"field": field}) from None


def _row(row: Row, own: str) -> pb.UsageRow:
    said = dict(zip(FIELDS, row.figures, strict=True))
    return pb.UsageRow(
        begin_time=_stamp(row.begins),
        group=[text.removesuffix(own) for text in row.group],
        calls=pb.UsageCalls(**_of(said, "calls_")),
        tokens=pb.UsageTokens(**{name: said[name] for name in pb.UsageTokens.DESCRIPTOR.fields_by_name}),
        cost_nano_usd=said["cost"],
        unpriced_tokens=said["unpriced"],
        saved_by_cache=_saved(said, "kept"),
        saved_by_sharing=_saved(said, "shared"),
        attempts=pb.UsageAttempts(total=said["attempts"], failed=said["attempts_failed"], untold=said["attempts_untold"]),
        waited_ms=said["waited_ms"],
        took_ms=said["took_ms"],
    )


def _saved(said: dict[str, int], how: str) -> pb.UsageSaved:
    return pb.UsageSaved(
        input_tokens=said[f"{how}_input"], output_tokens=said[f"{how}_output"], cost_nano_usd=said[f"{how}_cost"]
    )


def _of(said: dict[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): figure for name, figure in said.items() if name.startswith(prefix)}


def _stamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
