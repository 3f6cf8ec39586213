"""The simulator as a whole: its life from `start` to `stop`, and its own endpoints beside the API's."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from headrace.errors import StartupError
from headrace.simulator.answers import Answers
from headrace.simulator.api import Api
from headrace.simulator.batches import Batches
from headrace.simulator.control import control
from headrace.simulator.faults import Faults
from headrace.simulator.files import Files
from headrace.simulator.journal import Counts, Journal
from headrace.simulator.limits import Limits
from headrace.simulator.options import Options

DEFAULT_PORT = 7490
_CONTROL_PATH = "/_simulator/"


class Simulator:
    """
    A running stand-in for the API.

    `faults`, `answers`, `limits`, `batches`, `files`, `journal` and `counts` may be looked at and changed at any time, from the
    same event loop.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.url = ""
        self._api = Api(options)
        self._runner: web.ServerRunner | None = None

    def __repr__(self) -> str:
        return f"<Simulator {self.url} {self.counts}>"

    @property
    def faults(self) -> Faults:
        return self._api.faults

    @property
    def answers(self) -> Answers:
        return self._api.answers

    @property
    def batches(self) -> Batches:
        return self._api.batches

    @property
    def files(self) -> Files:
        return self._api.files

    @property
    def encodings(self) -> tuple[str, ...]:
        """The content encodings that callers may have from now on."""
        return self._api.encodings

    @encodings.setter
    def encodings(self, names: tuple[str, ...]) -> None:
        self._api.encodings = names

    @property
    def limits(self) -> Limits:
        return self._api.limits

    @property
    def journal(self) -> Journal:
        return self._api.journal

    @property
    def counts(self) -> Counts:
        return self.journal.counts

    def asked(self, text: str) -> int:
        """Return how many of the calls in the journal begin with a prompt that contains *text*."""
        return sum(text in visit.text for visit in self.journal.visits)

    def reset(self) -> None:
        """Return to the state after the start: nothing counted or made, buckets full, only the options' faults."""
        self._api.reset()

    async def start(self, host: str, port: int) -> None:
        server = web.Server(self._handle, request_factory=self._make_request, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.2)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, backlog=1024).start()
        except OSError as error:
            await self.stop()
            raise StartupError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        bound = self._runner.addresses[0]
        self.url = f"http://{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{bound[1]}"

    async def stop(self) -> None:
        """Close all connections; calls in the air end."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        await self.stop()

    def _make_request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        most = self.options.max_body_bytes
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=most)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith(_CONTROL_PATH):
            return await control(self, request)
        try:
            return await self._api.handle(request)
        except ConnectionResetError:
            return web.Response(status=499)  # to nobody: the caller has left, which is its good right and no trouble of ours


async def start(options: Options | None = None, host: str = "127.0.0.1", port: int = 0) -> Simulator:
    """Start a simulator in this event loop; port 0 picks a free one, see `url`."""
    simulator = Simulator(options or Options())
    await simulator.start(host, port)
    return simulator


def main(options: Options | None = None, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> None:
    """Run a simulator until SIGTERM or SIGINT."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(options, host, port))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # it exists on Linux and macOS only
        return None
    return uvloop.new_event_loop


async def _serve(options: Options | None, host: str, port: int) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):
            loop.add_signal_handler(name, stopping.set)
    async with await start(options, host, port) as simulator:
        print(f"simulator listening on {simulator.url}", flush=True)
        await stopping.wait()
        print(f"simulator stopped after {simulator.counts.total} calls", flush=True)
