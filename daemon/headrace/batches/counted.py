"""
Whose batch it is, and that what it used is counted once.

Who makes a batch is remembered in Redis for as long as its results can be fetched, and what it used counts for them; of a batch
that was not made through us, it counts for whoever fetches its results first. It counts once those have been read to their
end: then a mark is set, and whichever process has set it counts, so that results that are fetched again, or by two at a time,
count once. Figures are in usage from then on, and what they cost in every window of spend that a call of that caller and model
would draw from; nothing was reserved for it, so it may leave debt.

A process that dies between the mark and its next post of usage loses what it was about to count, as it does of all usage.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec
import structlog
from msgspec.structs import replace

from headrace import codec, keys, observe, records
from headrace.background import Background
from headrace.batches.results import Results
from headrace.clock import Clock
from headrace.errors import RedisAway, RedisRefused
from headrace.link import Link
from headrace.model import UNTOLD, Caller, Errand, Labels
from headrace.outcome import Spent, labels_text
from headrace.prices import Prices
from headrace.unpacking import Unpacker, name_of, unpacker
from headrace.usage.tally import Tally

log = structlog.get_logger()

_KEPT_S = 31 * 86_400  # results can be fetched for 29 days after the batch was made
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}\Z")
_MOST_PENDING = 1000  # while Redis is away
_AGAIN_S = 1.0
_CLOSE_WITHIN_S = 2.0

Charge = Callable[[Errand, int], None]
Note = Callable[[list[str]], Awaitable[None]]


class _Made(msgspec.Struct):
    id: str


class _Maker(msgspec.Struct):
    """Who made a batch, as Redis keeps it."""

    caller: str
    team: str
    workspace: str
    lane: str
    labels: Labels
    owner: str = ""  # as `Owner.text` has it; records of before have none

    def laid_over(self, errand: Errand) -> Errand:
        """Return the errand of who fetches, as though the maker did."""
        caller = Caller(self.caller, team=self.team, workspace=self.workspace)
        return dataclasses.replace(errand, caller=caller, lane=self.lane, labels=self.labels)


@dataclass(frozen=True, slots=True)
class BatchesStats:
    """How many batches this process has counted, and how many of which the results were read wait for Redis to be."""

    counted: int
    pending: int


class Batches:
    """
    Counts what batches used.

    Args:
        charge: is told whose money was spent, and how much, in nano-USD.
    """

    def __init__(self, link: Link, clock: Clock, tally: Tally, charge: Charge) -> None:
        self._link = link
        self._clock = clock
        self._tally = tally
        self._charge = charge
        self._background = Background("batches", clock)
        self._counting: set[asyncio.Task[None]] = set()
        self._counted = 0

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Batches [{stats.counted} counted, {stats.pending} pending]>"

    def stats(self) -> BatchesStats:
        """Return its state now."""
        return BatchesStats(self._counted, len(self._counting))

    async def close(self) -> None:
        """Count what is left, if Redis is there."""
        if self._counting:
            await asyncio.wait(self._counting, timeout=_CLOSE_WITHIN_S)  # by the loop: the clock may stand still
        await self._background.close()

    def made(self, errand: Errand, answer: bytes) -> None:
        """Remember who made the batch that upstream answers with. If Redis is away nobody does, and who fetches pays."""
        try:
            batch_id = codec.decode(answer, _Made).id
        except ValueError:
            return
        if _ID.match(batch_id):
            caller = errand.caller
            maker = _Maker(caller.name, caller.team, caller.workspace, errand.lane, errand.labels, errand.owner.text)
            self._link.do("SET", keys.batch(batch_id), msgspec.json.encode(maker), "EX", _KEPT_S)

    async def passing(
        self, errand: Errand, headers: Mapping[str, str], chunks: AsyncIterator[bytes], note: Note | None = None
    ) -> AsyncIterator[bytes]:
        """
        Yield the chunks of a batch's results, and count what they say once all have come; *headers* are the answer's.

        Each is read before it goes on, and the last counts before it does: whoever has it may leave.

        Args:
            note: is told of things at upstream that the batch has made, before who fetches is.
        """
        results, came = _Reading(self._tally.prices, headers.get("content-encoding", "")), 0
        async for chunk in chunks:
            came += len(chunk)
            await results.feed(chunk)
            if note is not None and (things := results.things()):
                await note(things)
            if headers.get("content-length") == str(came):
                self._end(errand, results)
            yield chunk
        self._end(errand, results)

    def _end(self, errand: Errand, results: _Reading) -> None:
        batch_id = errand.path.partition("?")[0].rstrip("/").split("/")[-2]
        used = results.end()
        if used is None or not _ID.match(batch_id):
            return
        if len(self._counting) >= _MOST_PENDING:
            observe.BATCHES.inc("lost")
            log.warning(observe.BATCH_LOST, batch=batch_id)
            return
        task = self._background.start(self._count(batch_id, errand, used), "count")
        self._counting.add(task)
        task.add_done_callback(self._counting.discard)

    async def _count(self, batch_id: str, errand: Errand, used: Results) -> None:
        token = os.urandom(8).hex().encode()
        while True:
            try:
                # A repeat of ours, whose reply was lost with a connection, finds our own mark.
                mark = await self._link.do("SET", keys.batch_counted(batch_id), token, "NX", "GET", "EX", _KEPT_S)
                maker = await self._link.do("GET", keys.batch(batch_id))
            except RedisRefused:  # waiting mends nothing
                observe.BATCHES.inc("lost")
                return
            except RedisAway:
                await self._clock.sleep(_AGAIN_S)
            else:
                break
        if mark not in (None, token):
            observe.BATCHES.inc("again")
            return
        self._counted += 1
        observe.BATCHES.inc("counted")
        made = _maker(maker)
        whose = (made.owner or made.caller) if made else errand.owner.text
        self._put(made.laid_over(errand) if made else errand, whose, used)

    def _put(self, errand: Errand, owner: str, used: Results) -> None:
        now, untold = self._clock.now(), used.stats().untold
        whose = Spent(owner, errand.lane, "", at=now, team=errand.caller.team, labels=labels_text(errand.labels))
        for each in used.sums():
            spent = replace(whose, model=each.model, usage=each.usage, requests=each.requests, is_whole=True)
            self._tally.spend(spent)
            cost = self._tally.prices.cost(each.model, each.usage, requests=each.requests)
            if cost:
                self._charge(dataclasses.replace(errand, model=each.model), cost)
        if untold:
            self._tally.spend(replace(whose, usage=UNTOLD, requests=untold, is_untold=True))


class _Reading:
    """The reading of one batch's results; once something is not as it should be it only passes."""

    def __init__(self, prices: Prices, encoding: str) -> None:
        self._results: Results | None = Results(lambda model: price.long_prompt if (price := prices.of(model)) else 0)
        self._unpacker: Unpacker | None = None
        if (name := name_of(encoding)) == "gzip":
            self._unpacker = unpacker(name)
        elif name not in ("", "identity"):  # was not asked for
            self._give_up()

    async def feed(self, chunk: bytes) -> None:
        """Read a chunk; others have their turn between its pieces."""
        if self._results is None:
            return
        try:
            for number, piece in enumerate(self._unpacker.pieces(chunk) if self._unpacker else (chunk,)):
                if number:
                    await asyncio.sleep(0)
                self._results.feed(piece)
        except ValueError:
            self._give_up()

    def things(self) -> list[str]:
        """Return what was told to have been made since the last time."""
        return self._results.things() if self._results is not None else []

    def _give_up(self) -> None:
        self._results = None
        observe.BATCHES.inc("unreadable")

    def end(self) -> Results | None:
        """Return what was used, once; None if nobody knows."""
        results, self._results = self._results, None
        if results is not None:
            results.end()
        return results


def _maker(said: bytes | None) -> _Maker | None:
    try:
        return codec.decode(said, _Maker) if said else None
    except ValueError:
        records.unreadable("batch", said or b"")
        return None
