"""The gRPC server: our services as raw-bytes handlers, with health, reflection, limits and drain."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from headrace import roles
from headrace.admission import Admission
from headrace.budgets import Board
from headrace.cache.tiered import Cache
from headrace.callers import Callers
from headrace.certificates import Certificates
from headrace.clock import Clock
from headrace.edge import reflection
from headrace.edge.exchange import Budget, Exchange
from headrace.edge.grpc_addresses import Address
from headrace.edge.grpc_api import ApiServicer
from headrace.edge.grpc_budgets import BudgetsServicer
from headrace.edge.grpc_cache import CacheServicer
from headrace.edge.grpc_calls import Who
from headrace.edge.grpc_kept import KeptRpc
from headrace.edge.grpc_messages import MessagesServicer
from headrace.edge.grpc_routes import FILES
from headrace.edge.grpc_tickets import TicketsServicer
from headrace.edge.grpc_typed import TypedServicer
from headrace.edge.grpc_usage import UsageServicer
from headrace.edge.hits import Hits
from headrace.retry.tickets import Tickets
from headrace.usage import Store
from headrace.v1 import api_service_pb2, budgets_service_pb2, cache_service_pb2, tickets_service_pb2, usage_service_pb2

MAX_MESSAGE_BYTES = 64 * 2**20  # upstream takes bodies of 32 MB

_SERVICES = tuple(
    service.full_name
    for file in (
        tickets_service_pb2,
        cache_service_pb2,
        usage_service_pb2,
        budgets_service_pb2,
        api_service_pb2,
        *FILES,
    )
    for service in file.DESCRIPTOR.services_by_name.values()
)
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class GrpcServer:
    """
    Serves `addresses`, all or none.

    Args:
        budget_headers: `anthropic-ratelimit-*` of a call's caller; no I/O.
        runtime_dir: where relative socket paths lie.
        socket_mode: of unix sockets, as in the configuration: "0660".
        socket_group: who owns them; "" leaves it.
        passes_credentials: callers' own keys go upstream (`upstream.credentials = "caller"`).
        certificates: for TLS at TCP addresses; None for none.
    """

    def __init__(
        self,
        exchange: Exchange,
        hits: Hits,
        admission: Admission,
        callers: Callers,
        tickets: Tickets,
        cache: Cache,
        usage: Store,
        board: Board,
        *,
        clock: Clock,
        addresses: tuple[str, ...],
        budget_headers: Budget,
        runtime_dir: Path,
        socket_mode: str = "0660",
        socket_group: str = "",
        passes_credentials: bool = False,
        certificates: Certificates | None = None,
    ) -> None:
        who = Who(callers, passes_credentials=passes_credentials)
        kept = functools.partial(KeptRpc, exchange, admission, hits, who)
        self._messages = MessagesServicer(exchange.pursuits, admission, who, kept)
        self._tickets = TicketsServicer(tickets, who, exchange.guard)
        self._cache = CacheServicer(cache, admission, who)
        self._usage = UsageServicer(usage, clock, who)
        self._budgets = BudgetsServicer(board, clock, who)
        self._api = ApiServicer(exchange, hits, who, budget_headers)
        self._typed = TypedServicer(exchange, who, kept)
        mode = int(socket_mode, 8)
        self._addresses = [
            Address(text, runtime_dir=runtime_dir, mode=mode, group=socket_group, certificates=certificates)
            for text in addresses
        ]
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    def __repr__(self) -> str:
        state = "serving" if self._server else "stopped"
        return f"<GrpcServer [{state}] {', '.join(self.addresses)}>"

    @property
    def addresses(self) -> list[str]:
        """Where it listens, in full, real ports included."""
        return [address.bound for address in self._addresses]

    @property
    def ports(self) -> list[int]:
        """The ports, in the order of the addresses; 1 for a unix socket."""
        return [address.port for address in self._addresses]

    async def start(self) -> None:
        """Listen; raises `StartupError` when an address is taken. Health says NOT_SERVING until `set_serving`."""
        await self.set_serving(False)
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers(reflection.handlers((*_SERVICES, health.SERVICE_NAME)))
        try:
            for address in self._addresses:
                address.bind(server)
            await server.start()
        except BaseException:
            await server.stop(None)
            self._release()
            raise
        self._server = server

    async def set_serving(self, is_serving: bool) -> None:
        """Say so in health, for every service and overall."""
        word = health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *_SERVICES):
            await self._health.set(service, word)

    async def drain(self, grace_s: float) -> None:
        """Say NOT_SERVING, take no new calls, and give those that run *grace_s* seconds; then end the rest (UNAVAILABLE)."""
        await self.set_serving(False)
        await self._health.enter_graceful_shutdown()
        await self._stop(grace_s)

    async def stop(self) -> None:
        """Stop at once, and let go of the addresses."""
        await self._stop(None)

    async def _stop(self, grace_s: float | None) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace_s)
            self._release()

    def _release(self) -> None:
        for address in self._addresses:
            address.release()

    def _handlers(self) -> _Handlers:
        # No (de)serializers: the handlers take and give bytes.
        own = {
            "MessagesService": _unary(self._messages.unary) | _streaming(self._messages.streaming),
            "TicketsService": _unary(self._tickets.unary),
            "CacheService": _unary(self._cache.unary),
            "UsageService": _unary(self._usage.unary),
            "BudgetsService": _unary(self._budgets.unary),
            "ApiService": {"Call": grpc.stream_stream_rpc_method_handler(self._api.call)},
        }
        methods = {f"/{name}/{method}": run for name in _SERVICES for method, run in self._methods(name, own).items()}
        if nobodys := [path for path in methods if path[1:].replace("/", ".") not in roles.RPCS]:
            raise ValueError(f"no role may ask for {nobodys} (roles.py)")
        return _Handlers(methods)

    def _methods(self, service: str, own: dict[str, dict[str, grpc.RpcMethodHandler]]) -> dict[str, grpc.RpcMethodHandler]:
        typed = _unary(self._typed.unary(service)) | _streaming(self._typed.streaming(service))
        return own.get(service.rpartition(".")[2], {}) | typed


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """All methods in one table: gRPC asks each handler in turn, for every call."""

    def __init__(self, methods: dict[str, grpc.RpcMethodHandler]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a method; None if it is not ours."""
        return self._methods.get(details.method)


def _unary(methods: dict[str, Any]) -> dict[str, grpc.RpcMethodHandler]:
    return {name: grpc.unary_unary_rpc_method_handler(run) for name, run in methods.items()}


def _streaming(methods: dict[str, Any]) -> dict[str, grpc.RpcMethodHandler]:
    return {name: grpc.unary_stream_rpc_method_handler(run) for name, run in methods.items()}
