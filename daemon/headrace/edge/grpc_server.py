"""The gRPC server: our services as raw-bytes handlers, with health, reflection, limits and drain."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import grpc
import grpc.aio

from headrace import roles
from headrace.admission import Admission
from headrace.background import Background
from headrace.budgets import Board
from headrace.cache.tiered import Cache
from headrace.callers import Callers
from headrace.certificates import Certificates
from headrace.clock import Clock
from headrace.edge import reflection
from headrace.edge.exchange import Budget, Exchange
from headrace.edge.grpc_addresses import Address
from headrace.edge.grpc_api import ApiServicer
from headrace.edge.grpc_booths import COUNT as BOOTHS
from headrace.edge.grpc_budgets import BudgetsServicer
from headrace.edge.grpc_cache import CacheServicer
from headrace.edge.grpc_calls import Who, ending
from headrace.edge.grpc_calm import calm
from headrace.edge.grpc_gate import Gate
from headrace.edge.grpc_health import SERVICE_NAME, Health
from headrace.edge.grpc_kept import KeptRpc
from headrace.edge.grpc_letters import LettersServicer
from headrace.edge.grpc_messages import MessagesServicer
from headrace.edge.grpc_operator import OperatorServicer
from headrace.edge.grpc_options import options
from headrace.edge.grpc_routes import FILES
from headrace.edge.grpc_tickets import TicketsServicer
from headrace.edge.grpc_typed import TypedServicer
from headrace.edge.grpc_usage import UsageServicer
from headrace.edge.grpc_watch import Bounds, Watch
from headrace.edge.hits import Hits
from headrace.operated import Operated
from headrace.retry.letters import Letters
from headrace.retry.tickets import Tickets
from headrace.usage import Store
from headrace.v1 import (
    api_service_pb2,
    budgets_service_pb2,
    cache_service_pb2,
    letters_service_pb2,
    operator_service_pb2,
    tickets_service_pb2,
    usage_service_pb2,
)

_SERVICES = tuple(
    service.full_name
    for file in (
        tickets_service_pb2,
        letters_service_pb2,
        cache_service_pb2,
        usage_service_pb2,
        budgets_service_pb2,
        operator_service_pb2,
        api_service_pb2,
        *FILES,
    )
    for service in file.DESCRIPTOR.services_by_name.values()
)
_CALL = "/headrace.v1.ApiService/Call"


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
        bounds: what connections may do.
        passkey: who presents it may do what an admin may; "" for nobody.
    """

    def __init__(
        self,
        exchange: Exchange,
        hits: Hits,
        admission: Admission,
        callers: Callers,
        tickets: Tickets,
        letters: Letters,
        cache: Cache,
        usage: Store,
        board: Board,
        operated: Operated,
        *,
        clock: Clock,
        addresses: tuple[str, ...],
        budget_headers: Budget,
        runtime_dir: Path,
        socket_mode: str = "0660",
        socket_group: str = "",
        passes_credentials: bool = False,
        certificates: Certificates | None = None,
        bounds: Bounds | None = None,
        passkey: str = "",
    ) -> None:
        self._who = who = Who(callers, passes_credentials=passes_credentials, passkey=passkey)
        kept = functools.partial(KeptRpc, exchange, admission, hits, who)
        self._messages = MessagesServicer(exchange, admission, who, kept)
        self._tickets = TicketsServicer(tickets, who, exchange.guard, exchange.answers)
        self._letters = LettersServicer(letters, who, operated.audit)
        self._cache = CacheServicer(cache, admission, who, operated.audit)
        self._usage = UsageServicer(usage, clock, who)
        self._budgets = BudgetsServicer(board, clock, who, operated.audit)
        self._operator = OperatorServicer(operated, tickets, letters, operated.audit, who)
        self._api = ApiServicer(exchange, hits, who, budget_headers)
        self._typed = TypedServicer(exchange, who, kept)
        mode = int(socket_mode, 8)
        self._addresses = [
            Address(text, runtime_dir=runtime_dir, mode=mode, group=socket_group, certificates=certificates)
            for text in addresses
        ]
        self._health = Health(_SERVICES)
        self._bounds = bounds or Bounds()
        self._watch = Watch(self._bounds, now=time.monotonic)
        self._background = Background("grpc", clock)
        self._servers: list[grpc.aio.Server] = []
        self._taken: Callable[[], int] = int
        self._last_word = exchange.last_word
        self._last_word.also(self._watch.intake.leave)

    def __repr__(self) -> str:
        state = "serving" if self._servers else "stopped"
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
        gate = self._gate()
        self._taken = lambda: gate.taken
        # Sockets have a server of their own: what comes in at the ports, however much, is in nobody's way there.
        has_ports = any(address.path is None for address in self._addresses)
        local = _server(gate, options())
        remote = [_server(gate, options(self._bounds.max_streams, shares_port=True)) for _ in range(has_ports * BOOTHS)]
        try:
            for address in self._addresses:
                address.bind(local, remote)
            for server in (local, *remote):
                await server.start()
        except BaseException:
            for server in (local, *remote):
                await server.stop(None)
            self._release()
            raise
        self._servers = [local, *remote]
        self._background.lasting(lambda: self._watch.keep(self.ports), name="watch")

    async def set_serving(self, is_serving: bool) -> None:
        """Say so in health, for every service and overall."""
        await self._health.set_serving(is_serving)

    async def drain(self, grace_s: float) -> None:
        """Say NOT_SERVING, take no new calls, and give those that run *grace_s* seconds; then end the rest (UNAVAILABLE)."""
        await self._health.leave()
        self._tickets.leave()
        await self._stop(await calm(self._taken, grace_s))

    async def stop(self) -> None:
        """Stop at once, and let go of the addresses."""
        await self._stop(None)

    async def _stop(self, grace_s: float | None) -> None:
        servers, self._servers = self._servers, []
        self._watch.let_go()
        if servers:
            await asyncio.gather(*(server.stop(grace_s) for server in servers))
            await self._background.close()
            self._release()

    def _release(self) -> None:
        for address in self._addresses:
            address.release()

    def _gate(self) -> Gate:
        # No (de)serializers: the handlers take and give bytes.
        intake = self._watch.intake
        once = {
            "TicketsService": self._tickets.unary,
            "LettersService": self._letters.unary,
            "CacheService": self._cache.unary,
            "UsageService": self._usage.unary,
            "BudgetsService": self._budgets.unary,
            "OperatorService": self._operator.unary,
        }
        for unary in once.values():
            unary |= {method: ending(self._last_word, run) for method, run in unary.items()}
        once["MessagesService"] = self._messages.unary
        many = {"MessagesService": self._messages.streaming, "TicketsService": self._tickets.streaming}
        methods: dict[str, grpc.RpcMethodHandler] = {}
        for service in _SERVICES:
            name = service.rpartition(".")[2]
            unary = once.get(name, {}) | self._typed.unary(service)
            streaming = many.get(name, {}) | self._typed.streaming(service)
            methods |= {f"/{service}/{method}": intake.unary(run) for method, run in unary.items()}
            methods |= {f"/{service}/{method}": intake.streaming(run) for method, run in streaming.items()}
        methods[_CALL] = intake.both_ways(self._api.call)
        public = self._health.handlers(intake, self._last_word) | reflection.handlers((*_SERVICES, SERVICE_NAME), intake)
        _check_roles(methods, public)
        return Gate(self._who, methods, public=public, say={_CALL: self._api.refuse}, refused=self._watch.note_vain)


def _check_roles(methods: Iterable[str], public: Iterable[str]) -> None:
    rules = {path: roles.RPCS.get(path[1:].replace("/", ".")) for path in (*methods, *public)}
    if wrong := [path for path in methods if rules[path] in (None, roles.PUBLIC)]:
        raise ValueError(f"no role may ask for {wrong} (roles.py)")
    if wrong := [path for path in public if rules[path] is not roles.PUBLIC]:
        raise ValueError(f"what is answered without a key must be public (roles.py): {wrong}")


def _server(gate: Gate, told: Sequence[tuple[str, int]]) -> grpc.aio.Server:
    server = grpc.aio.server(options=told)
    server.add_generic_rpc_handlers((gate,))
    return server
