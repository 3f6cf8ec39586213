"""
The least that our stack can cost: servers that do nothing but answer.

    python -m tests.bench.floor grpc | http | grpc-proxy | http-proxy  HOST:PORT  [UPSTREAM_URL]

Raw bytes in, stored bytes out; the proxies make one upstream call a call, by the same client library as the daemon. The daemon
is measured beside these in one run and quoted as a ratio, since machines differ and drift.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import uvloop

ANSWER = (
    b'{"id":"msg_floor","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[{"type":"text","text":"'
    + b"x" * 800
    + b'"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":200,"output_tokens":200}}'
)
CHAT = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"claude-sonnet-4-5","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"'
    + b"x" * 800
    + b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":200,"completion_tokens":200,"total_tokens":400}}'
)
STREAMED = 6  # responses of a kept stream; a chat's has as many, to be measured by the same floor
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

    async def stream(body: bytes, context: grpc.aio.ServicerContext) -> None:
        for _ in range(STREAMED):
            await context.write(ANSWER[: len(ANSWER) // STREAMED])

    async def call(parts: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        await anext(parts)
        await context.write(ANSWER[:200])
        await context.write(ANSWER)

    class Anything(grpc.GenericRpcHandler):
        unary = grpc.unary_unary_rpc_method_handler(answer)
        stream_ = grpc.unary_stream_rpc_method_handler(stream)
        call_ = grpc.stream_stream_rpc_method_handler(call)

        def service(self, details: grpc.HandlerCallDetails) -> object:
            name = details.method.rpartition("/")[2]
            return self.call_ if name == "Call" else self.stream_ if name.startswith("Stream") else self.unary

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
