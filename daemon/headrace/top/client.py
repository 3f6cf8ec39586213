"""Asks the running daemon for views: over its admin socket if it is there, else at its loopback address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import msgspec

from headrace.admin.rows import (
    BudgetRow,
    CallerRow,
    CallRow,
    HostRow,
    Shown,
    TicketRow,
    UsageRow,
    WaitingRow,
)
from headrace.errors import StartupError

_ROWS: dict[str, type[msgspec.Struct]] = {
    "budgets": BudgetRow,
    "line": WaitingRow,
    "tickets": TicketRow,
    "callers": CallerRow,
    "hosts": HostRow,
    "calls": CallRow,
    "usage": UsageRow,
}
_TIMEOUT_S = 5.0
_UNIX = "unix:"


class Client:
    """
    Asks one daemon.

    Args:
        addresses: of `listen.admin`, sockets with their whole path; the first that answers is asked.
        key: a key of ours; "" for none.
        local: headers that say who asks, for sockets alone.
        is_tls: whether TCP addresses speak TLS.
    """

    def __init__(
        self, addresses: tuple[str, ...], key: str = "", *, local: Mapping[str, str] | None = None, is_tls: bool = False
    ) -> None:
        self._addresses = addresses
        self._headers = {"x-api-key": key} if key else {}
        self._local = {**self._headers, **(local or {})}
        self._is_tls = is_tls
        self._client: httpx.Client | None = None
        self.where = ""

    def __repr__(self) -> str:
        return f"<Client {self.where or 'not connected'}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()

    def view(self, name: str) -> Shown:
        """Return a view as it is now; raises `StartupError` with why there is none."""
        try:
            shown = msgspec.convert(self.said(name), Shown)
            shown.rows = [msgspec.convert(row, _ROWS[name]) for row in shown.rows]
        except msgspec.ValidationError as error:
            raise StartupError(f"the daemon at {self.where} says what this version does not understand: {error}") from error
        return shown

    def said(self, name: str) -> Any:
        """Return the same as plain JSON."""
        reply = self._ask(f"/admin/api/{name}")
        said = _object(reply)
        if reply.status_code not in (200, 503) or "view" not in said:
            error = said.get("error")
            why = error.get("message") if isinstance(error, dict) else reply.reason_phrase
            raise StartupError(f"the daemon at {self.where} says {reply.status_code}: {why}")
        return said

    def _ask(self, path: str) -> httpx.Response:
        if self._client is not None:
            try:
                return self._client.get(path)
            except httpx.TransportError:
                self._leave()
        failures = []
        for where, client in self._clients():
            try:
                reply = client.get(path)
            except httpx.TransportError as error:
                client.close()
                failures.append(f"{where}: {error}")
                continue
            self._client, self.where = client, where
            return reply
        raise StartupError(f"no daemon answers (listen.admin): {'; '.join(failures) or 'it is empty'}; is it running?")

    def _clients(self) -> Iterator[tuple[str, httpx.Client]]:
        for address in self._addresses:
            if address.startswith(_UNIX):
                transport = httpx.HTTPTransport(uds=str(Path(address.removeprefix(_UNIX))))
                yield (
                    address,
                    httpx.Client(transport=transport, base_url="http://localhost", headers=self._local, timeout=_TIMEOUT_S),
                )
            else:
                url = f"http{'s' if self._is_tls else ''}://{address}"
                yield url, httpx.Client(base_url=url, headers=self._headers, timeout=_TIMEOUT_S, trust_env=False)

    def _leave(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None


def _object(reply: httpx.Response) -> dict[str, Any]:
    # {} of what is none: whoever listens there may be anybody.
    try:
        said = reply.json()
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
