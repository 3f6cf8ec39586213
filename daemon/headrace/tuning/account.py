"""
Upstream's own list of the organisation's limits (`GET /v1/organizations/rate_limits`), read at the start and every hour.

It is there only for an admin key. Where no limit is configured, what it says of the limits of model groups is learnt as if an
answer had said it, less what an answer has said already; where limits are, it bounds them (organisation.py). Where it cannot be
read nothing is lost but time: the first answer says as much.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import structlog

from headrace import forms, observe
from headrace.budget.organisation import Own
from headrace.budget.want import Kind
from headrace.clock import Clock
from headrace.errors import HeadraceError
from headrace.model import Caller, Errand, Lane
from headrace.upstream.carrying import Body
from headrace.upstream.client import Upstream

log = structlog.get_logger()

PATH = "/v1/organizations/rate_limits"
_EVERY_S = 3600.0
_PATIENCE_S = 30.0
_MOST_PAGES = 20
# As upstream names its limiters. Ours do not count cache reads, so where there is a limit that does not either, it is that one.
_KINDS: tuple[tuple[str, Kind], ...] = (
    ("requests_per_minute", "requests"),
    ("input_tokens_per_minute", "input_tokens"),
    ("input_tokens_per_minute_cache_aware", "input_tokens"),
    ("output_tokens_per_minute", "output_tokens"),
)


class Account:
    """
    Reads the list. Run `keep` as a task.

    Args:
        ask: returns what upstream answers to a GET of this path.
        tell: is told the limits, by model class.
    """

    def __init__(
        self,
        clock: Clock,
        ask: Callable[[str], Awaitable[bytes]],
        class_of: Callable[[str], str],
        tell: Callable[[Mapping[str, Own]], None],
    ) -> None:
        self._clock = clock
        self._ask = ask
        self._class_of = class_of
        self._tell = tell
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<Account [{self._trouble or 'readable'}]>"

    async def keep(self) -> None:
        """Read it again and again, until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(_EVERY_S)

    async def look(self) -> None:
        """Read it once."""
        try:
            own = own_of([item async for item in self._items()], self._class_of)
        except (HeadraceError, ValueError) as error:
            self._note(error.reason if isinstance(error, HeadraceError) else "UNREADABLE")
        else:
            self._note("")
            self._tell(own)

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning(observe.ACCOUNT_UNREADABLE, reason=trouble)
        self._trouble = trouble

    async def _items(self) -> Any:
        path = PATH
        for _ in range(_MOST_PAGES):
            page = forms.parse(await self._ask(path))
            if not isinstance(page, dict) or not isinstance(page.get("data"), list):
                raise ValueError("no list")
            for item in page["data"]:
                yield item
            cursor = page.get("next_page")
            if not isinstance(cursor, str) or not cursor.isascii():
                return
            path = f"{PATH}?page={cursor}"


def asked_by(upstream: Upstream, clock: Clock) -> Callable[[str], Awaitable[bytes]]:
    """Return what asks upstream, by a call that is nobody's and costs nobody's budget."""

    async def ask(path: str) -> bytes:
        now = clock.now()
        errand = Errand(
            caller=Caller("headrace"), lane=Lane.STANDARD, method="GET", path=path, endpoint="organization",
            arrival=now, deadline=now + _PATIENCE_S,
        )  # fmt: skip
        async with upstream.carry(errand, (), Body(b"")) as carried:
            return await carried.read()

    return ask


def own_of(items: Sequence[Any], class_of: Callable[[str], str]) -> dict[str, Own]:
    """Return the limits of all model classes that the list names, a minute; what cannot be read says nothing."""
    found: dict[str, Own] = {}
    for item in items:
        if not isinstance(item, dict) or _group(item) != "model_group" or not isinstance(item.get("models"), list):
            continue
        if rates := dict(_rates(item)):
            for model in item["models"]:
                if isinstance(model, str):
                    earlier = found.get(name := class_of(model), Own({})).models
                    found[name] = Own(rates, (*earlier, model))
    return found


def _group(item: Mapping[str, Any]) -> Any:
    # The older API version has it flat.
    group = item.get("group")
    return group.get("type") if isinstance(group, dict) else item.get("group_type")


def _rates(item: Mapping[str, Any]) -> Iterator[tuple[Kind, int]]:
    limits = item.get("limits")
    listed = limits if isinstance(limits, list) else []
    named = {each.get("type"): each.get("value") for each in listed if isinstance(each, dict)}
    for name, kind in _KINDS:
        value = named.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53 // 60_000_000:
            yield kind, value
