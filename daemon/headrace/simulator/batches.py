"""
Message Batches: many messages at once, answered some time later.

A batch takes `batch_s`, and its requests come to their turn evenly over that time: those whose turn had not come when it is
cancelled are `canceled`, and those whose turn does not come before it expires are `expired`. Nothing runs meanwhile: what a
batch is, and what its results are, follows from the time at which one asks. Answers are those of the Messages API to the same
parameters; a request that the Messages API would refuse is `errored`, without failing the batch.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from headrace.simulator import render
from headrace.simulator.call import Call
from headrace.simulator.checks import Ask, check_ask
from headrace.simulator.options import Options
from headrace.simulator.pages import by_id
from headrace.simulator.refusals import Refused, invalid
from headrace.simulator.routes import Route
from headrace.simulator.script import write

_MOST_REQUESTS = 100_000
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_PATH = "/v1/messages/batches"


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request of a batch, and what the checks made of it."""

    custom_id: str
    made: Ask | Refused


@dataclass(slots=True)
class _Batch:
    """
    A batch. Times are in seconds since the epoch.

    Args:
        takes_s: how long all of its requests take.
        address: of the results, without the path.
    """

    id: str
    asked: Sequence[_Asked] = field(repr=False)
    created_at: float
    takes_s: float
    expires_at: float
    address: str
    cancelled_at: float | None = None

    @property
    def ends_at(self) -> float:
        ends = min(self.created_at + self.takes_s, self.expires_at)
        return ends if self.cancelled_at is None else min(ends, self.cancelled_at)

    def is_ended(self, now: float) -> bool:
        return now >= self.ends_at

    @property
    def had_their_turn(self) -> int:
        """Return how many requests will have been processed when it ends."""
        if not self.takes_s:
            return len(self.asked)
        return min(len(self.asked), int(len(self.asked) * (self.ends_at - self.created_at) / self.takes_s))

    def outcome(self, number: int) -> str:
        if number >= self.had_their_turn:
            return "expired" if self.cancelled_at is None else "canceled"
        return "errored" if isinstance(self.asked[number].made, Refused) else "succeeded"

    def counts(self, is_ended: bool) -> dict[str, int]:
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        if not is_ended:
            return counts | {"processing": len(self.asked)}
        for number in range(len(self.asked)):
            counts[self.outcome(number)] += 1
        return counts

    def shown(self, now: float, *, as_running: bool = False) -> dict[str, Any]:
        """Return it as the API shows it; *as_running* as it is before anyone has worked on it."""
        ended = self.is_ended(now) and not as_running
        running = "in_progress" if self.cancelled_at is None else "canceling"
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else running,
            "request_counts": self.counts(ended),
            "created_at": _rfc3339(self.created_at),
            "expires_at": _rfc3339(self.expires_at),
            "ended_at": _rfc3339(self.ends_at) if ended else None,
            "cancel_initiated_at": None if self.cancelled_at is None else _rfc3339(self.cancelled_at),
            "archived_at": None,
            "results_url": f"{self.address}{_PATH}/{self.id}/results" if ended else None,
        }


class Batches:
    """All batches; `takes_s` is how long those made from now on will take, `clock` the time in seconds since the epoch."""

    def __init__(self, options: Options, new_id: Callable[[str], str], clock: Callable[[], float] = time.time) -> None:
        self._options = options
        self._new_id = new_id
        self.clock = clock
        self._batches: dict[str, _Batch] = {}
        self.takes_s = options.batch_s

    def __repr__(self) -> str:
        return f"<Batches [{len(self._batches)}, {self.takes_s} s each]>"

    def reset(self) -> None:
        """Forget all batches."""
        self._batches.clear()
        self.takes_s = self._options.batch_s

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", _PATH, self._create),
            Route("GET", _PATH, self._list),
            Route("GET", _PATH + "/{}", self._get),
            Route("DELETE", _PATH + "/{}", self._delete),
            Route("POST", _PATH + "/{}/cancel", self._cancel),
            Route("GET", _PATH + "/{}/results", self._results),
        )

    async def _create(self, call: Call) -> web.StreamResponse:
        fields = await call.fields(self._options.max_batch_bytes)
        asked = _read(fields, version=call.version, beta=call.is_beta)
        now = self.clock()
        batch = _Batch(
            id=self._new_id("msgbatch"),
            asked=asked,
            created_at=now,
            takes_s=self.takes_s,
            expires_at=now + self._options.batch_expires_s,
            address=self._options.public_url or f"http://{call.request.headers.get('host', '')}",
        )
        self._batches[batch.id] = batch
        return call.say(batch.shown(now, as_running=True))

    async def _list(self, call: Call) -> web.StreamResponse:
        now = self.clock()
        newest_first = [batch.shown(now) for batch in reversed(self._batches.values())]
        return call.say(by_id(newest_first, call.request.query))

    async def _get(self, call: Call) -> web.StreamResponse:
        return call.say(self._find(call).shown(self.clock()))

    async def _delete(self, call: Call) -> web.StreamResponse:
        batch = self._find(call)
        if not batch.is_ended(self.clock()):
            raise invalid(f"Batch {batch.id} cannot be deleted because it is still in progress. Cancel it first.")
        del self._batches[batch.id]
        return call.say({"id": batch.id, "type": "message_batch_deleted"})

    async def _cancel(self, call: Call) -> web.StreamResponse:
        await call.drain()
        batch, now = self._find(call), self.clock()
        if batch.cancelled_at is None:
            if batch.is_ended(now):
                raise invalid(f"Batch {batch.id} cannot be canceled because it has already ended.")
            batch.cancelled_at = now
        return call.say(batch.shown(now, as_running=True))

    async def _results(self, call: Call) -> web.StreamResponse:
        batch = self._find(call)
        if not batch.is_ended(self.clock()):
            raise invalid(f"Batch {batch.id} has no available results: it is still in progress.")
        return await call.stream(self._lines(batch), "application/x-jsonl")

    def _find(self, call: Call) -> _Batch:
        (batch_id,) = call.ids
        if batch := self._batches.get(batch_id):
            return batch
        raise Refused(404, "not_found_error", f"Batch {batch_id[:100]} not found")

    def _lines(self, batch: _Batch) -> Iterator[bytes]:
        for number, asked in enumerate(batch.asked):
            result = self._result(batch, number, asked.made)
            yield msgspec.json.encode({"custom_id": asked.custom_id, "result": result}) + b"\n"

    def _result(self, batch: _Batch, number: int, made: Ask | Refused) -> dict[str, Any]:
        outcome = batch.outcome(number)
        if outcome in ("canceled", "expired"):
            return {"type": outcome}
        # Ids follow from the batch's, so that results read twice are the same.
        tail = f"{batch.id.removeprefix('msgbatch_')}_{number}"
        if isinstance(made, Refused):
            return {"type": outcome, "error": msgspec.Raw(made.body(f"req_{tail}"))}
        script = write(made, self._options.answer_tokens, f"toolu_{tail}")
        return {"type": outcome, "message": msgspec.Raw(render.message(script, made, f"msg_{tail}"))}


def _read(fields: dict[str, Any], *, version: str, beta: bool) -> list[_Asked]:
    requests = fields.get("requests")
    if not isinstance(requests, list):
        raise invalid("requests: Field required" if requests is None else "requests: Input should be a valid list")
    if not 1 <= len(requests) <= _MOST_REQUESTS:
        raise invalid(f"requests: List should have from 1 to {_MOST_REQUESTS} items, not {len(requests)}")
    if extra := fields.keys() - {"requests"}:
        raise invalid(f"{min(extra)[:100]}: Extra inputs are not permitted")
    seen: set[str] = set()
    return [_read_one(f"requests.{number}", one, seen, version, beta) for number, one in enumerate(requests)]


def _read_one(where: str, one: Any, seen: set[str], version: str, beta: bool) -> _Asked:
    custom_id = one.get("custom_id") if isinstance(one, dict) else None
    if not isinstance(custom_id, str) or not _CUSTOM_ID.fullmatch(custom_id):
        raise invalid(f"{where}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
    if custom_id in seen:
        raise invalid(f"{where}.custom_id: `custom_id` values must be unique: {custom_id}")
    seen.add(custom_id)
    if not isinstance(one.get("params"), dict):
        raise invalid(f"{where}.params: Input should be an object")
    return _Asked(custom_id, _check(one["params"], version, beta))


def _check(params: dict[str, Any], version: str, beta: bool) -> Ask | Refused:
    try:
        ask = check_ask(params, version=version, beta=beta)
    except Refused as refused:
        return refused
    return invalid("stream: streaming is not supported in a batch") if ask.stream else ask


def _rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
