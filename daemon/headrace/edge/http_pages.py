"""
The pages that anybody may ask for: made at most once a second, however often they are asked for.

Nobody needs a key for them, so whatever they cost anybody could let us pay as often as he likes. A daemon has them at its HTTP
port; a worker, which takes no calls, at a port that has nothing else.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from aiohttp import web

from headrace import roles
from headrace.errors import StartupError

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Routes = Mapping[str, Mapping[str, Handler]]  # by path and method

_FRESH_S = 1.0

_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Page:
    """
    One page.

    Args:
        make: returns its status and its bytes.
        kind: its content-type.
        now: the loop's clock.
    """

    def __init__(self, make: Callable[[], tuple[int, bytes]], kind: str, *, now: Callable[[], float]) -> None:
        self._make, self._kind, self._now = make, kind, now
        self._made: tuple[int, bytes] = 0, b""
        self._made_at: float | None = None

    def __repr__(self) -> str:
        return f"<Page {self._kind} [{len(self._made[1])} bytes]>"

    async def show(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return it."""
        now = self._now()
        if self._made_at is None or now - self._made_at >= _FRESH_S:
            self._made, self._made_at = self._make(), now
        status, body = self._made
        return web.Response(status=status, body=body, headers=[("content-type", self._kind)])


class Spellings:
    """
    A page that there is in several spellings: a reader is given the first that it names, and else the last.

    Args:
        pages: by their media types.
    """

    def __init__(self, pages: Sequence[tuple[str, Page]]) -> None:
        self._pages = pages

    def __repr__(self) -> str:
        return f"<Spellings {', '.join(kind for kind, _ in self._pages)}>"

    async def show(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return it."""
        accepted = _accepted(request.headers.get("accept", ""))
        return await next((page for kind, page in self._pages if kind in accepted), self._pages[-1][1]).show(request)


def _accepted(accept: str) -> set[str]:
    """Return the media types that a header names, but for those that it will not have."""
    ranges = [[part.strip().lower() for part in each.split(";")] for each in accept.split(",")]
    return {kind for kind, *parameters in ranges if not any(_is_none(each) for each in parameters)}


def _is_none(parameter: str) -> bool:
    return parameter.replace(" ", "").rstrip("0").rstrip(".") in ("q=", "q=0")


def pages(
    readiness: Callable[[], list[str]],
    details: Callable[[], list[str]],
    metrics: Callable[[], bytes],
    openmetrics: Callable[[], bytes],
) -> Routes:
    """Return all of them by path: whether it is there, whether it is ready and what is amiss, and its metrics."""

    def ready() -> tuple[int, bytes]:
        wrong = readiness()
        return 503 if wrong else 200, "\n".join([*(wrong or ["ready"]), *details(), ""]).encode()

    made: dict[str, Page | Spellings] = {
        "/healthz": Page(lambda: (200, b"ok\n"), "text/plain", now=time.monotonic),
        "/readyz": Page(ready, "text/plain; charset=utf-8", now=time.monotonic),
        "/metrics": Spellings(
            (
                ("application/openmetrics-text", Page(lambda: (200, openmetrics()), _OPENMETRICS, now=time.monotonic)),
                ("text/plain", Page(lambda: (200, metrics()), "text/plain; version=0.0.4; charset=utf-8", now=time.monotonic)),
            )
        ),
    }
    if any(roles.of_path("GET", path) is not roles.PUBLIC for path in made):
        raise ValueError("what is answered without a key must be public (roles.py)")
    return {path: {"GET": page.show, "HEAD": page.show} for path, page in made.items()}


class PagesServer:
    """
    A port for the pages alone.

    Args:
        address: "<host>:<port>".
        routes: the pages.
    """

    def __init__(self, address: str, routes: Routes) -> None:
        self.address = address
        self._routes = routes

    def __repr__(self) -> str:
        return f"<PagesServer {self.address}>"

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listen; raises `StartupError` when the address is occupied."""
        host, _, port = self.address.rpartition(":")
        runner = web.ServerRunner(web.Server(self._serve, access_log=None))
        await runner.setup()
        try:
            await self._listen(web.TCPSite(runner, host.strip("[]"), int(port)))
            self.address = f"{host}:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()

    async def _listen(self, site: web.TCPSite) -> None:
        try:
            await site.start()
        except OSError as error:
            raise StartupError(f"worker.listen: cannot listen on {self.address}: {error.strerror or error}") from error

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        handler = self._routes.get(request.path, {}).get(request.method)
        return await handler(request) if handler else web.Response(status=404, text="/healthz, /readyz, /metrics\n")
