"""A caller that leaves at any step, whatever it was about to get: nothing stays taken for it, and nothing of it runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from doors import cancel_at_every_step
from flow_parts import LIMIT, asking, in_turn, overloaded, running, say
from scripted import Line, Talk, hang


def silent_at_first(step: int) -> Talk:
    """Upstream says nothing before the last steps: then nothing comes back by itself, as an answer would bring it back."""
    return hang if step < 200 else say


KINDS: dict[str, tuple[Callable[[int], Talk], dict[str, object]]] = {
    "unary": (lambda _: say, {}),
    "unary, silent": (silent_at_first, {}),
    "stream": (lambda _: say, {"stream": True}),
    "stream, silent": (silent_at_first, {"stream": True}),
    "parked": (lambda _: in_turn(overloaded, say), {}),
    "idempotent": (lambda _: say, {}),
    "idempotent, parked": (lambda _: in_turn(overloaded, say), {}),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelled_at_every_step(valkey_url: str, tmp_path: Path, kind: str, long: bool) -> None:
    """Whenever a caller leaves, everything that was held for it is given back, and no ticket is left without an end."""
    talk, body = KINDS[kind]
    current = [talk(0)]

    async def speak(line: Line) -> None:
        await current[0](line)

    async with running(valkey_url, tmp_path, speak, LIMIT=LIMIT, RETRY__BACKOFF="0.01s..0.02s") as (one, _):

        def begin(step: int) -> asyncio.Task[object]:
            current[0] = talk(step)
            return asking(one, one.call({**body, "n": step}, idempotency_key=f"k{step}" if "idempotent" in kind else ""))

        await cancel_at_every_step(one, valkey_url, begin, every=1 if long else 11)
