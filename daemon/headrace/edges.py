"""The doors of a daemon, joined to its parts: opened when those live, drained before they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from prometheus_client import REGISTRY, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from headrace.admin.acts import Acts
from headrace.admin.door import Door, forms
from headrace.admin.feed import Feed
from headrace.admin.looks import Looks
from headrace.admin.tickets import TicketRows
from headrace.admin.views import Views
from headrace.background import Background
from headrace.certificates import Certificates
from headrace.clock import Clock
from headrace.config.tables import Listen
from headrace.edge.grpc_server import GrpcServer
from headrace.edge.grpc_watch import Bounds
from headrace.edge.http_pages import PagesServer, pages
from headrace.edge.http_server import HttpServer
from headrace.edge.http_times import Times
from headrace.room import connections_of
from headrace.wiring import Parts

_WORD_S = 1.0  # what it takes to tell thousands that there is no more time


class Edges:
    """The doors of a daemon: gRPC and HTTP. `StartupError` where the certificates are no good."""

    def __init__(self, parts: Parts, runtime_dir: Path) -> None:
        self._background = Background("edges", parts.clock)
        self._last_word = parts.exchange.last_word
        settings = parts.settings
        certificates = self.certificates = _certificates(settings.listen, parts.clock)
        passes_credentials = settings.upstream.credentials == "caller"
        self._grpc = GrpcServer(
            parts.exchange,
            parts.hits,
            parts.admission,
            parts.callers,
            parts.tickets,
            parts.letters,
            parts.cache,
            parts.usage,
            parts.board,
            parts.operated,
            clock=parts.clock,
            addresses=settings.listen.grpc,
            budget_headers=parts.schedule.budget_headers,
            runtime_dir=runtime_dir,
            socket_mode=settings.listen.socket_mode,
            socket_group=settings.listen.socket_group,
            passes_credentials=passes_credentials,
            bounds=_bounds(settings.listen),
            certificates=certificates,
            passkey=parts.passkey,
        )
        self._http = HttpServer(
            parts.exchange,
            parts.hits,
            parts.callers,
            address=settings.listen.http,
            passes_credentials=passes_credentials,
            budget_headers=parts.schedule.budget_headers,
            readiness=parts.wrong,
            details=parts.details,
            metrics=generate_latest,
            openmetrics=_openmetrics,
            grace_s=settings.drain.time,
            crowd=parts.crowd,
            origins=settings.listen.origins,
            hosts=settings.listen.hosts,
            times=_times(settings.listen),
            max_connections=settings.listen.max_connections,
            max_connections_per_peer=settings.listen.max_connections_per_peer,
            clock=parts.clock,
            certificates=certificates,
        )

        self._admin = _admin_door(parts, runtime_dir, certificates)

    @property
    def admin(self) -> list[str]:
        """Where the live page is."""
        return self._admin.addresses

    @property
    def addresses(self) -> list[str]:
        """Where calls are taken."""
        return [*self._grpc.addresses, f"http{'s' if self.certificates else ''}://{self._http.address}"]

    def reload(self) -> None:
        """Show the certificates as they are now."""
        if self.certificates is not None:
            self.certificates.renew()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listen; raises `StartupError` when an address is occupied."""
        await self._http.start()
        try:
            await self._grpc.start()
            await self._admin.start()
            if self.certificates is not None:
                self._background.lasting(self.certificates.keep, "certificates")
            try:
                yield
            finally:
                await self._grpc.stop()
        finally:
            await self._admin.stop()
            await self._background.close()
            await self._http.stop()

    async def set_serving(self, is_serving: bool) -> None:
        """Tell gRPC's health; HTTP's asks by itself."""
        await self._grpc.set_serving(is_serving)

    async def drain(self, grace_s: float) -> None:
        """Give the calls that run *grace_s* seconds to end; those that will not have are told so, and all is over by then."""
        word_s = max(_WORD_S, grace_s / 10) if grace_s > 2 * _WORD_S else grace_s / 2
        loop = asyncio.get_running_loop()  # by its clock: sockets wait
        # Twice: who has heard it and still listens to what its caller sends, and who came late.
        telling = [loop.call_later(grace_s - left_s, self._last_word.say) for left_s in (word_s, word_s / 2)]
        try:
            await asyncio.gather(self._grpc.drain(grace_s), self._http.stop())
        finally:
            for each in telling:
                each.cancel()


def _openmetrics() -> bytes:
    said: bytes = openmetrics.generate_latest(REGISTRY)  # type: ignore[no-untyped-call]  # it says nothing of its types
    return said


def _admin_door(parts: Parts, runtime_dir: Path, certificates: Certificates | None) -> Door:
    listen = parts.settings.listen

    def class_of(model: str) -> str:
        return parts.tuner.classes.of(model)

    operated = parts.operated
    looks = Looks(parts.clock, parts.board, parts.reporter)
    rows = TicketRows(parts.link, parts.tickets.listing, operated.reasons)
    views = Views(parts.clock, looks, parts.reporter, rows, parts.usage, operated.register, operated.book, class_of)
    return Door(
        views,
        Feed(views, parts.clock, forms()),
        Acts(parts.tickets, parts.letters, parts.overrides, operated.audit),
        parts.callers,
        clock=parts.clock,
        addresses=listen.admin,
        runtime_dir=runtime_dir,
        public=pages(parts.wrong, parts.details, generate_latest, _openmetrics),
        hosts=listen.hosts,
        times=_times(listen),
        certificates=certificates,
        passkey=parts.passkey,
    )


def pages_of(parts: Parts) -> PagesServer:
    """Return the door of a worker: health, readiness and metrics at `worker.listen`, and nothing else."""
    return PagesServer(parts.settings.worker.listen, pages(parts.wrong, parts.details, generate_latest, _openmetrics))


def _certificates(listen: Listen, clock: Clock) -> Certificates | None:
    if not listen.tls_certificate:
        return None
    return Certificates(listen.tls_certificate, listen.tls_key, listen.tls_client_ca, clock)


def _bounds(listen: Listen) -> Bounds:
    most = connections_of(listen.max_connections)
    return Bounds(
        most, listen.max_connections_per_peer, listen.max_streams, body_s=listen.body_timeout, write_s=listen.write_timeout
    )


def _times(listen: Listen) -> Times:
    return Times(
        head_s=listen.head_timeout, body_s=listen.body_timeout, write_s=listen.write_timeout, idle_s=listen.idle_timeout
    )
