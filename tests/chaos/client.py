"""Our own client in Python as a caller: it leaves repeats to whoever uses it, and says by its errors which are worth one."""

from __future__ import annotations

from typing import Any

from headrace_client.aio import AsyncHeadrace
from headrace_client.errors import DeadlineExceededError, HeadraceError, RateLimitError, UnavailableError
from tests.chaos.books import Call
from tests.chaos.house import Host
from tests.chaos.ways import Again, No, asked_body, hear_events

_WORTH_IT = (DeadlineExceededError, RateLimitError, UnavailableError)


class Client:
    """Whole answers, or (*streams*) one by events."""

    def __init__(self, *, streams: bool) -> None:
        self._streams = streams
        self._clients: dict[str, AsyncHeadrace] = {}  # a daemon that was started anew has another address

    async def ask(self, call: Call, host: Host, prompt: str, timeout_s: float) -> None:
        messages = self._client(host.grpc).messages
        asked: dict[str, Any] = {**asked_body(prompt), "idempotency_key": call.key, "timeout": timeout_s}
        try:
            if self._streams:
                async with messages.stream(**asked) as stream:
                    await hear_events(call, aiter(stream))
            else:
                said = await messages.create(**asked)
                call.hear(said.message.id, said.text, is_whole=True)
        except _WORTH_IT as error:
            raise Again(f"client: {_why(error)}", error.retry_after or 0.0) from None
        except HeadraceError as error:
            raise No(f"client: {_why(error)}") from None

    def _client(self, address: str) -> AsyncHeadrace:
        if address not in self._clients:
            self._clients[address] = AsyncHeadrace(address, anthropic_version="2023-06-01")
        return self._clients[address]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()


def _why(error: HeadraceError) -> str:
    return f"{error.code.name} {error.reason} {error.message[:50]}"
