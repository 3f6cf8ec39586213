"""
Processes that take tickets over a wire that loses things, and are stopped and killed between any two commands.

Their tickets, ringers, sweepers and beats are the real ones, and Redis is; only time is turned by hand (turned.py), and what an
attempt comes to is said by whoever plays the world. A process that is stopped neither sends nor hears, and no time passes for
it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from headrace.budget.redis import RedisLedger
from headrace.clock import HandClock
from headrace.errors import QueueFull, RedisAway
from headrace.link import Link
from headrace.model import Call
from headrace.retry.holds import Hold
from headrace.retry.ringer import Ringer
from headrace.retry.sweeper import Sweeper
from headrace.retry.ticket import Claimed
from headrace.retry.tickets import Tickets
from ticket_parts import ANSWER, a_call
from turned import TurnedValkey, turned

BEAT_S = 0.5
_TELL_AGAIN_S = 0.5

Say = Callable[[Link], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Work:
    """An attempt that is being made: of which call, the how manieth, by which hold."""

    call: Call
    number: int
    hold: Hold


class World:
    """What is said at this moment by anybody, and what is still on its way."""

    def __init__(self, valkey: TurnedValkey, now_us: int) -> None:
        self.valkey, self.now_us = valkey, now_us
        self.talks: set[asyncio.Task[Any]] = set()
        self.late: list[Say] = []
        self.accepted: set[str] = set()

    async def quiet(self) -> None:
        """Wait until nobody who is not stopped has anything more to say."""
        for _ in range(8):
            await asyncio.sleep(0)
        while self.talks:
            await asyncio.wait(list(self.talks), return_when=asyncio.FIRST_COMPLETED, timeout=0.05)
            for _ in range(8):
                await asyncio.sleep(0)

    async def arrive(self) -> None:
        """Let all that is late on its way be done, for nobody."""
        late, self.late = self.late, []
        link = Link(self.valkey.url)
        for say in late:
            await say(link)
        await link.aclose()


class Clockwork:
    """An alarm that is always lost."""

    async def schedule(self, ticket_id: str, attempt: int, due: float) -> None:
        pass


class Process:
    """
    A process that takes tickets. *troubles* befall its next commands: "" is none, "unsent", "lost" (the reply), "late".

    After `stop_in` more commands it is stopped, before the last one is sent or after it was done.
    """

    def __init__(self, world: World, number: int) -> None:
        self.world, self.name = world, f"p{number}"
        self.link = Link(world.valkey.url)
        self.link.inbox = f"headrace:inbox:{self.name}"  # the same in each run of an example
        self.clock = HandClock(world.now_us / 1e6)
        self.troubles: deque[str] = deque()
        self.stop_in, self.is_dead, self.missed_s = 0, False, 0.0
        self.is_well = False  # from then on it is not stopped any more
        self.running = asyncio.Event()
        self.running.set()
        self.works: list[Work] = []
        self._raw_run, self._raw_do = self.link.run, self.link.do
        self.link.run = self._run_script  # type: ignore[method-assign]
        self.link.do = self._do  # type: ignore[method-assign]
        self.ringer = Ringer(self.link, self.clock, Clockwork(), self._run, most=20)
        self.tickets = Tickets(self.link, self.clock, self.ringer)
        sweeper = Sweeper(self.link, self.clock, self.tickets, self.ringer)
        self._pulse = RedisLedger(self.link, clock=self.clock)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.lasting = [self.begin(work()) for work in (self.ringer.keep, sweeper.run, self.tickets.keep, self._beat)]
        world.valkey.listen(self.link.inbox)

    def __repr__(self) -> str:
        return f"<{self.name}{'' if self.running.is_set() else ' stopped'}: {len(self.works)} works, {self.tickets!r}>"

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do something beside the rest, until it ends or the process does."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # The wire.

    def _run_script(self, script: Any, names: Any, args: Any) -> asyncio.Future[Any]:
        return self._talk(lambda link: Link.run(link, turned(script), names, args))

    def _do(self, *command: Any) -> asyncio.Future[Any]:
        return self._talk(lambda link: Link.do(link, *command))

    def _talk(self, say: Say) -> asyncio.Future[Any]:
        talk = asyncio.ensure_future(self._said(say))
        self.world.talks.add(talk)
        talk.add_done_callback(lambda done: (self.world.talks.discard(done), done.cancelled() or done.exception()))
        return talk

    async def _said(self, say: Say) -> Any:
        self.stop_in -= 1
        stops_here = self.stop_in == 0
        if stops_here and len(self.troubles) % 2:
            self.stop()
        await self._may_go_on()
        trouble = self.troubles.popleft() if self.troubles else ""
        if trouble in ("unsent", "late"):
            self.world.late += [say] if trouble == "late" else []
            raise RedisAway(trouble)
        reply = await say(self.link)
        if stops_here:
            self.stop()
        await self._may_go_on()
        if trouble == "lost":
            asyncio.get_running_loop().call_soon(self._is_back)
            raise RedisAway(trouble)
        return reply

    def _is_back(self) -> None:
        for callback in self.link._on_return:
            callback()

    async def _may_go_on(self) -> None:
        while not self.running.is_set() or self.is_dead:
            talk = asyncio.current_task()
            assert talk is not None
            self.world.talks.discard(talk)
            await self.running.wait()
            if self.is_dead:
                await asyncio.get_running_loop().create_future()
            self.world.talks.add(talk)

    # What befalls it.

    def stop(self) -> None:
        """Stand still (SIGSTOP)."""
        if not self.is_well:
            self.running.clear()

    async def resume(self) -> None:
        self.running.set()
        missed_s, self.missed_s = self.missed_s, 0.0
        await self.clock.advance(missed_s)

    async def die(self) -> None:
        """Be killed, where it stands."""
        self.is_dead = True
        self.running.clear()
        self.world.valkey.leave(self.link.inbox)
        moves = set(self.tickets._moves._tasks) | set(self.ringer._background._tasks)
        for task in [*self._tasks, *moves]:
            task.cancel()
        await asyncio.gather(*self._tasks, *moves, return_exceptions=True)
        del self.link.run, self.link.do
        await self.link.aclose()

    async def leave(self) -> None:
        """Go in good order (SIGTERM)."""
        await self.ringer.stop()
        with contextlib.suppress(RedisAway):
            await self.tickets.leave()

    async def pass_time(self, seconds: float) -> None:
        if self.running.is_set():
            await self.clock.advance(seconds)
        else:
            self.missed_s += seconds

    def hear(self, message: bytes) -> None:
        topic, _, payload = message.partition(b" ")
        if topic == b"ticket":
            self.tickets._on_ticket(payload)
        elif topic == b"lost":
            self.tickets._held.on_lost(payload)

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(RedisAway):
                await self._pulse.renew({})
            await self.clock.sleep(BEAT_S)

    # What it does.

    async def submit(self) -> None:
        with contextlib.suppress(RedisAway, QueueFull):
            claim = await self.tickets.submit(self._call())
            assert isinstance(claim, Claimed)
            self.world.accepted.add(claim.ticket)

    async def claim(self, key: str) -> None:
        call = self._call(idempotency_key=key)
        with contextlib.suppress(RedisAway, QueueFull):
            claim = await self.tickets.claim(call)
            if isinstance(claim, Claimed):
                self.works.append(Work(replace(call, ticket=claim.ticket), 1, self.tickets.hold(claim.ticket)))

    def _call(self, **changes: Any) -> Call:
        now = self.clock.now()
        return a_call(arrival=now, deadline=now + 3000, **changes)

    async def _run(self, ticket_id: str, attempt: int) -> None:
        ticket = await self.tickets.start(ticket_id, attempt)
        if ticket is not None and ticket.call is not None:
            self.works.append(Work(ticket.call, attempt, self.tickets.hold(ticket_id)))

    async def answer(self, work: Work) -> None:
        await self.tickets.finish(work.call.ticket, by=work.hold, answer=ANSWER, attempts=work.number)

    async def fail(self, work: Work, in_s: float, *, is_made: bool) -> None:
        """Have another attempt made in so many seconds; it may be that this one was not."""
        due = self.clock.now() + in_s
        while True:
            try:
                made = work.number if is_made else work.number - 1
                await self.tickets.park(work.call, attempts=made, broken=0, due=due, by=work.hold)
                return
            except RedisAway:
                await self.clock.sleep(_TELL_AGAIN_S)
