"""
The gate of gRPC: who asks is found out from a call's metadata, and only then is anything of it read.

A stranger's call is refused without a look at its messages: what it sends meanwhile stays with it, but for a window of 64 KB.
gRPC shows a client's certificate to the call itself only; where that may say who asks, the call finds it out before it reads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from headrace import observe
from headrace.edge import status
from headrace.edge.grpc_calls import Who
from headrace.errors import HeadraceError

Say = Callable[[Any, HeadraceError], Awaitable[None]]  # ends a call with an error


class Gate(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types
    """
    All methods in one table: gRPC asks each handler in turn, for every call.

    Args:
        methods: for callers, by path.
        public: for anybody.
        say: how the refusal of a method is told, where that is not a status of gRPC's.
        refused: is told the peer of every call that was refused.
    """

    def __init__(
        self,
        who: Who,
        methods: Mapping[str, grpc.RpcMethodHandler],
        *,
        public: Mapping[str, grpc.RpcMethodHandler],
        say: Mapping[str, Say],
        refused: Callable[[str], Awaitable[None]],
    ) -> None:
        self._who = who
        self._methods = methods
        self._public = public
        self._say = say
        self._refused = refused
        self.taken = 0
        """How many calls have come to the loop."""
        # Made once: where certificates are known is told by each reload.
        self._certified = {path: self._recognizing(path, handler) for path, handler in methods.items()}
        self._unknown = grpc.stream_stream_rpc_method_handler(self._refuse_unknown)

    def __repr__(self) -> str:
        return f"<Gate [{len(self._methods)} methods, {len(self._public)} for anybody]>"

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Return the handler of a call: its method's, or one that refuses it."""
        self.taken += 1
        handler = self._methods.get(details.method)
        if handler is None:
            return self._public.get(details.method, self._unknown)
        if not self._who.asks_for_keys:
            return handler
        try:
            self._who.admit(details.invocation_metadata)
        except HeadraceError as error:
            return self._refusing(self._say.get(details.method, status.conclude), error.with_traceback(None))
        return self._certified[details.method] if self._who.knows_certificates else handler

    def _recognizing(self, path: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        run = handler.stream_stream or handler.stream_unary
        make = grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler

        async def take(parts: Any, context: Any) -> Any:
            try:
                self._who.recognize(context)
            except HeadraceError as error:
                return await self._refuse(self._say.get(path, status.abort), error, context)
            return await run(parts, context)

        return make(take)

    def _refusing(self, say: Say, error: HeadraceError) -> grpc.RpcMethodHandler:
        async def refuse(_: Any, context: Any) -> None:
            await self._refuse(say, error, context)

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _refuse(self, say: Say, error: HeadraceError, context: Any) -> None:
        observe.ERRORS.inc("grpc", error.reason)
        await self._refused(context.peer())
        await say(context, error)

    async def _refuse_unknown(self, _: Any, context: Any) -> None:
        await self._refused(context.peer())
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details("Method not found!")
