"""
The least that our stack can cost: servers that do nothing but answer.

    python -m tests.bench.floor grpc | http | grpc-proxy | http-proxy  HOST:PORT  [UPSTREAM_URL]

Raw bytes in, stored bytes out; the proxies make one upstream call a call, by the same client library as the daemon. The daemon
is measured beside these in one run and quoted as a ratio, since machines differ and drift.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import uvloop

ANSWER = (
    b'{"id":"msg_floor","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[{"type":"text","text":"'
    + b"x" * 800
    + b'"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":200,"output_tokens":200}}'
)
HEADERS = {"content-type": "application/json", "x-api-key": "k", "anthropic-version": "2023-06-01"}

Send = Callable[[bytes], Awaitable[bytes]]


def proxy(url: str) -> Send:
    import httpx_aiohttp

    client = httpx_aiohttp.HttpxAiohttpClient(timeout=30)

    async def send(body: bytes) -> bytes:
        return (await client.post(url, content=body, headers=HEADERS)).content

    return send


async def stored(body: bytes) -> bytes:
    return ANSWER


async def serve_grpc(address: str, send: Send) -> None:
    import grpc

    async def answer(body: bytes, context: object) -> bytes:
        return await send(body)

    class Anything(grpc.GenericRpcHandler):
        handler = grpc.unary_unary_rpc_method_handler(answer)

        def service(self, details: object) -> object:
            return self.handler

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Anything(),))
    server.add_insecure_port(address)
    await server.start()
    print("listening", flush=True)
    await server.wait_for_termination()


async def serve_http(address: str, send: Send) -> None:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=await send(await request.read()), content_type="application/json")

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, _, port = address.rpartition(":")
    await web.TCPSite(runner, host, int(port)).start()
    print("listening", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    kind, address, *rest = sys.argv[1:]
    serve = serve_grpc if kind.startswith("grpc") else serve_http
    uvloop.run(serve(address, proxy(rest[0]) if kind.endswith("proxy") else stored))


if __name__ == "__main__":
    main()
