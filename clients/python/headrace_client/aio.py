"""
The client for asyncio: `AsyncHeadrace`, the same as `Headrace` with `await`.

A cancelled task cancels its RPC, wherever it waits. The channel is opened by the first call, on the loop that runs then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from headrace_client import _raw
from headrace_client._aio_wire import AsyncWire, parts
from headrace_client._channel import Credentials, LoopChannel
from headrace_client._requests import UNSET, Call, Defaults, Labels, Timeout, get_usage, list_tickets, purge_cache, read_call
from headrace_client.answers import Answer, Teller, Ticket
from headrace_client.v1 import (
    cache_service_pb2,
    cache_service_pb2_grpc,
    events_pb2,
    messages_service_pb2_grpc,
    options_pb2,
    tickets_service_pb2,
    tickets_service_pb2_grpc,
    usage_service_pb2,
    usage_service_pb2_grpc,
)


class AsyncHeadrace:
    """
    A client of one daemon.

    Args:
        address: `unix:PATH` or `HOST:PORT`.
        caller: names the service that asks, where the daemon asks for no keys.
        api_key: the key, where it does (or the caller's own for upstream).
        lane: "interactive", "standard", "batch" or one of the daemon's own; "" for the caller's own.
        labels: go with every call, and a call's own beside them.
        timeout: seconds that an RPC may take, a stream as a whole included; None for as long as the daemon takes.
        anthropic_version, betas: go upstream with every call.
        credentials: for a daemon that speaks TLS, made by `grpc.ssl_channel_credentials`, with a client certificate if it asks
            for one; None for a unix socket, or loopback in the clear.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:7400",
        *,
        caller: str = "",
        api_key: str = "",
        lane: str = "",
        timeout: float | None = 600.0,
        anthropic_version: str = "",
        betas: Sequence[str] = (),
        labels: Labels | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        defaults = Defaults(caller, api_key, lane, timeout, anthropic_version, tuple(betas), labels or {})
        self._connect(LoopChannel(address, credentials), defaults)

    def _connect(self, channel: LoopChannel, defaults: Defaults) -> None:
        self._wire = wire = AsyncWire(channel, defaults)
        self.messages = AsyncMessages(wire)
        self.tickets = AsyncTickets(wire)
        self.models = AsyncModels(wire)
        self.batches = AsyncBatches(wire)
        self.cache = AsyncCache(wire)
        self.usage = AsyncUsage(wire)

    def with_options(self, **changes: Any) -> AsyncHeadrace:
        """Return a client that differs in what is named (caller, lane, ...), on the same channel: closing one closes both."""
        other = AsyncHeadrace.__new__(AsyncHeadrace)
        if "timeout" in changes:
            changes["timeout_s"] = changes.pop("timeout")
        other._connect(self._wire.channel, dataclasses.replace(self._wire.defaults, **changes))
        return other

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        query: Mapping[str, Any] | None = None,
        lane: str = "",
        labels: Labels | None = None,
        timeout: Timeout = UNSET,
    ) -> Any:
        """Return the JSON that any endpoint answers, those that this package does not know included."""
        return await self._wire.own(lane, labels).json(method, path, json, query or {}, timeout)

    async def close(self) -> None:
        """Close the channel; what still runs on it is cancelled."""
        await self._wire.channel.close()

    async def __aenter__(self) -> AsyncHeadrace:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class AsyncMessages:
    """
    Calls to the Messages API. Keywords are those of the API, as with the official SDK, and ours:

    - cache_control: a str is for our cache, in HTTP's terms ("no-store", "max-age=600"); a mapping for upstream's.
    - lane, labels, idempotency_key, timeout; betas, anthropic_version, anthropic_headers.
    """

    def __init__(self, wire: AsyncWire) -> None:
        self._wire = wire

    @property
    def _stub(self) -> Any:
        return self._wire.stub(messages_service_pb2_grpc.MessagesServiceStub)

    async def create(
        self,
        *,
        model: str,
        max_tokens: int,
        messages: Sequence[Mapping[str, Any]],
        timeout: Timeout = UNSET,
        **more: Any,
    ) -> Answer:
        """Return one answer whole; raises `HeadraceError`."""
        call = self._read(model, max_tokens, messages, more)
        response = await self._wire.ask(self._stub.CreateMessage, call.create, timeout)
        return Answer(response.message, response.origin)

    def stream(
        self,
        *,
        model: str,
        max_tokens: int,
        messages: Sequence[Mapping[str, Any]],
        timeout: Timeout = UNSET,
        **more: Any,
    ) -> AsyncMessageStream:
        """Return one answer as its events come: a context manager, which ends the call when it is left."""
        call = self._read(model, max_tokens, messages, more)
        return AsyncMessageStream(lambda: self._wire.listen(self._stub.StreamMessage, call.stream, timeout))

    async def submit(
        self,
        *,
        model: str,
        max_tokens: int,
        messages: Sequence[Mapping[str, Any]],
        answer_timeout: float | None = None,
        timeout: Timeout = UNSET,
        **more: Any,
    ) -> Ticket:
        """Hand in a call that may take *answer_timeout* seconds (up to a day), and return its ticket at once."""
        request = self._read(model, max_tokens, messages, more).submit(answer_timeout)
        return Ticket((await self._wire.ask(self._stub.SubmitMessage, request, timeout)).ticket)

    async def count_tokens(
        self,
        *,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        lane: str = "",
        labels: Labels | None = None,
        timeout: Timeout = UNSET,
        **more: Any,
    ) -> int:
        """Return how many input tokens a call would have."""
        body = {"model": model, "messages": messages, **more}
        said = await self._wire.own(lane, labels).json("POST", "/v1/messages/count_tokens", body, {}, timeout)
        return int(said["input_tokens"])

    def _read(self, model: str, max_tokens: int, messages: Any, more: Mapping[str, Any]) -> Call:
        return read_call(self._wire.defaults, {"model": model, "max_tokens": max_tokens, "messages": messages, **more})


class AsyncMessageStream:
    """
    An answer that is being said.

    Iterate over it for its events, or over `text_stream`; `get_final_message` waits for the rest.
    """

    def __init__(self, begin: Callable[[], Any]) -> None:
        self._begin = begin
        self._call: Any = None
        self._teller = Teller()
        self.origin = options_pb2.Origin()

    async def __aenter__(self) -> AsyncMessageStream:
        self._call = self._begin()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the call, if it has not ended."""
        if self._call is not None:
            self._call.cancel()

    async def __aiter__(self) -> AsyncIterator[events_pb2.StreamEvent]:
        if self._call is None:
            raise RuntimeError("a stream begins when it is entered: async with client.messages.stream(...) as stream")
        async for response in parts(self._call):
            if response.HasField("origin"):
                self.origin = response.origin
            self._teller.add(response.event)
            yield response.event

    @property
    def text_stream(self) -> AsyncIterator[str]:
        """The pieces of its text as they come."""
        return (text async for event in self if (text := event.content_block_delta.delta.text_delta.text))

    async def get_final_message(self) -> Answer:
        """Wait for the rest, and return the whole."""
        async for _ in self:
            pass
        return Answer(self._teller.message(), self.origin)

    async def get_final_text(self) -> str:
        """Wait for the rest, and return its text."""
        return (await self.get_final_message()).text


class AsyncTickets:
    """Calls that were handed in."""

    def __init__(self, wire: AsyncWire) -> None:
        self._wire = wire

    @property
    def _stub(self) -> Any:
        return self._wire.stub(tickets_service_pb2_grpc.TicketsServiceStub)

    async def get(self, id: str, *, timeout: Timeout = UNSET) -> Ticket:
        """Return a ticket as it is now."""
        request = tickets_service_pb2.GetTicketRequest(id=id, options=self._wire.defaults.who)
        return Ticket((await self._wire.ask(self._stub.GetTicket, request, timeout)).ticket)

    async def wait(self, id: str, *, timeout: Timeout = UNSET) -> Ticket:
        """Wait until a ticket ends, and return it. `DeadlineExceededError` ends only the waiting: wait again."""
        request = tickets_service_pb2.WaitTicketRequest(id=id, options=self._wire.defaults.who)
        return Ticket((await self._wire.ask(self._stub.WaitTicket, request, timeout)).ticket)

    async def cancel(self, id: str, *, timeout: Timeout = UNSET) -> Ticket:
        """Cancel a ticket, and return it; one that has ended stays as it is."""
        request = tickets_service_pb2.CancelTicketRequest(id=id, options=self._wire.defaults.who)
        return Ticket((await self._wire.ask(self._stub.CancelTicket, request, timeout)).ticket)

    async def list(self, *, state: str = "", timeout: Timeout = UNSET) -> AsyncIterator[Ticket]:
        """Yield all tickets, newest first and without their answers; only those in *state* ("queued", ...) if it is given."""
        token = ""
        while True:
            page = await self._wire.ask(self._stub.ListTickets, list_tickets(self._wire.defaults, state, token), timeout)
            for record in page.tickets:
                yield Ticket(record)
            if not (token := page.next_page_token):
                return


class AsyncModels:
    """The models that upstream has; values are the API's JSON."""

    def __init__(self, wire: AsyncWire) -> None:
        self._wire = wire

    def list(self, *, timeout: Timeout = UNSET) -> AsyncIterator[dict[str, Any]]:
        """Yield all models."""
        return self._wire.pages("/v1/models", timeout)

    async def get(self, model: str, *, timeout: Timeout = UNSET) -> dict[str, Any]:
        """Return one model."""
        said: dict[str, Any] = await self._wire.json("GET", f"/v1/models/{model}", None, {}, timeout)
        return said


class AsyncBatches:
    """Upstream's own message batches; values are the API's JSON."""

    def __init__(self, wire: AsyncWire) -> None:
        self._wire = wire

    async def create(self, *, requests: Sequence[Mapping[str, Any]], timeout: Timeout = UNSET) -> dict[str, Any]:
        """Hand a batch in; each request has a `custom_id` and `params`."""
        return await self._one("POST", "", {"requests": requests}, timeout)

    async def get(self, id: str, *, timeout: Timeout = UNSET) -> dict[str, Any]:
        """Return a batch as it is now."""
        return await self._one("GET", f"/{id}", None, timeout)

    def list(self, *, timeout: Timeout = UNSET) -> AsyncIterator[dict[str, Any]]:
        """Yield all batches, newest first."""
        return self._wire.pages(_BATCHES, timeout)

    async def cancel(self, id: str, *, timeout: Timeout = UNSET) -> dict[str, Any]:
        """Cancel a batch, and return it; what it has done so far is kept."""
        return await self._one("POST", f"/{id}/cancel", None, timeout)

    async def delete(self, id: str, *, timeout: Timeout = UNSET) -> dict[str, Any]:
        """Delete a batch that has ended."""
        return await self._one("DELETE", f"/{id}", None, timeout)

    async def results(self, id: str, *, timeout: Timeout = UNSET) -> AsyncIterator[dict[str, Any]]:
        """Yield the results of a batch that has ended, as they come."""
        rest = b""
        async for chunk in self._wire.raw("GET", f"{_BATCHES}/{id}/results", None, {}, timeout):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in filter(None, lines):
                yield _raw.value(line)
        if rest:
            yield _raw.value(rest)

    async def _one(self, method: str, path: str, body: Any, timeout: Timeout) -> dict[str, Any]:
        said: dict[str, Any] = await self._wire.json(method, _BATCHES + path, body, {}, timeout)
        return said


_BATCHES = "/v1/messages/batches"


class AsyncCache:
    """The daemon's cache."""

    def __init__(self, wire: AsyncWire) -> None:
        self._wire = wire

    @property
    def _stub(self) -> Any:
        return self._wire.stub(cache_service_pb2_grpc.CacheServiceStub)

    async def purge(
        self,
        *,
        key: str = "",
        caller: str | None = None,
        model: str = "",
        all: bool = False,
        timeout: Timeout = UNSET,
    ) -> int:
        """Remove the answers that one of these names, on every host; return how many went, as far as the daemon's host sees."""
        request = purge_cache(key, caller, model, all)
        return int((await self._wire.ask(self._stub.PurgeCache, request, timeout)).purged_entry_count)

    async def stats(self, *, timeout: Timeout = UNSET) -> list[cache_service_pb2.CacheTierStats]:
        """Return what each tier holds and did."""
        return list((await self._wire.ask(self._stub.GetCacheStats, cache_service_pb2.GetCacheStatsRequest(), timeout)).tiers)


class AsyncUsage:
    """What was used, at what cost, and what was saved."""

    def __init__(self, wire: AsyncWire) -> None:
        self._wire = wire

    @property
    def _stub(self) -> Any:
        return self._wire.stub(usage_service_pb2_grpc.UsageServiceStub)

    async def get(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        by: Sequence[str] = (),
        per: str = "",
        timeout: Timeout = UNSET,
        **only: str,
    ) -> usage_service_pb2.GetUsageResponse:
        """
        Return the usage of a span, today's (UTC) unless it is named, added up in rows.

        Args:
            by: what is added up by: "caller", "team", "model", "lane", "labels" or "label.NAME".
            per: "minute", "day" or "month"; "" for the whole span in one.
            only: patterns for caller, team, model, lane and labels.
        """
        response: usage_service_pb2.GetUsageResponse = await self._wire.ask(
            self._stub.GetUsage, get_usage(since, until, by, per, only), timeout
        )
        return response
