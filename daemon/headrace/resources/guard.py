"""
What a call may name of what lives at upstream, and what it has made there.

A call that is carried is a `Visit` to a place: what its path and its body name must be its caller's own; what it makes is its
caller's from then on; a list shows nothing else. Message calls name things in their bodies (`refers`), and their answers tell
of things (`note`): containers, and files that were written in them. By "thing" its id is meant.

Another's thing is answered as one that is not there, and so is one whose maker nobody knows: nothing tells them apart.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from headrace import codec, roles
from headrace.errors import InvalidCall, NotAllowed, ResourceNotFound
from headrace.model import Answer, Errand, Event, Headers, Role
from headrace.owner import Owner
from headrace.resources import ids
from headrace.resources.listing import Listing
from headrace.resources.owners import Owners
from headrace.resources.places import KINDS, Place, kind_of_id, place_of
from headrace.resources.scan import Scan, Told, scan_of

_PLAIN = ("", "identity")
_BEGINS = b"message_start"
_PROFILE = "anthropic-user-profile-id"
# Headers that go upstream and name nothing there; what stands in others may name a thing, by whatever name of the header.
_NAMES_NOTHING = re.compile(
    r"accept.*|anthropic-(version|beta)|cache-control|content-.*|date|idempotency-key|priority|request-id|user-agent"
    r"|x-(app|request-id|stainless-.*)"
)
_PIECE = 1 << 16  # of a body, that is looked through at once


class _Source(msgspec.Struct):
    type: str = ""


class _Item(msgspec.Struct):
    source: _Source | str | None = None


class _Made(msgspec.Struct):
    id: str


@dataclass(frozen=True, slots=True)
class GuardStats:
    """Whether callers have each their own; how many visits there were, and how many calls named what was not theirs."""

    is_on: bool
    visits: int
    refused: int


class Guard:
    """
    Keeps what callers have at upstream apart.

    Args:
        is_on: False: everybody has everything, as upstream sees it.
        shares_unknown: collections that are not known (`places.KINDS`) are everybody's.
    """

    def __init__(self, owners: Owners, *, is_on: bool, shares_unknown: bool = False) -> None:
        self.owners = owners
        self.reload(is_on=is_on, shares_unknown=shares_unknown)
        self._visits = self._refused = 0

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Guard [{'on' if stats.is_on else 'off'}, {stats.visits} visits, {stats.refused} refused] {self.owners!r}>"

    def stats(self) -> GuardStats:
        """Return its state now."""
        return GuardStats(self.is_on, self._visits, self._refused)

    def reload(self, *, is_on: bool, shares_unknown: bool) -> None:
        """Go by another configuration from now on."""
        self.is_on, self._shares_unknown = is_on, shares_unknown

    # Message calls.

    async def refers(self, owner: Owner, role: Role, named: Sequence[str], headers: Headers) -> None:
        """Raise `ResourceNotFound` if a message call names things that are not its caller's own."""
        if self.is_on and role is not Role.ADMIN:
            if named:  # hardly any call does
                await self.check(owner.text, named)
            if headers:
                await self.check_headers(owner.text, headers)

    def may_tell(self, answer: Answer, *, has_thread: bool) -> bool:
        """Whether an answer may tell of something that was made for it; *has_thread*: upstream may hold its conversation."""
        return self.is_on and (has_thread or ids.tells(answer.payload))

    async def note(self, owner: Owner, made: Sequence[str]) -> None:
        """Record what an answer tells to have been made for it (`ids.made_by`)."""
        await self.owners.record(made, owner.text)

    async def noted(self, owner: Owner, events: AsyncIterator[Event], *, has_thread: bool) -> AsyncIterator[Event]:
        """Yield the events, each once what it tells of is recorded: whoever has it may ask for that."""
        async for event in events:
            if made := ids.made_in(event.data, has_thread=has_thread and event.name == _BEGINS.decode()):
                await self.owners.record(made, owner.text)
            yield event

    # Carried calls.

    def visit(self, errand: Errand) -> Visit | None:
        """Return a call's visit to upstream's things; None if it may have them all."""
        path = errand.path.partition("?")[0]
        if not self.is_on or not roles.of_path(errand.method, path).is_limited(errand.caller.role, told_apart=True):
            return None
        place = place_of(path)
        self._visits += 1
        is_shared = self._shares_unknown and place.collection not in KINDS
        return Visit(self, errand.owner, errand.method, place, errand.path.partition("?")[2], is_shared=is_shared)

    async def check(self, owner: str, named: Iterable[str], *, are_ids: bool = True) -> None:
        """
        Raise `ResourceNotFound` for the first that is not this owner's; what tells no kind may be nobody's.

        Args:
            are_ids: False: they only look like ids; those that are as long as upstream makes them are.
        """
        asked = list(named)
        found = await self.check_known(owner, asked)
        for thing in asked:
            is_some_ones = are_ids or (ids.is_full(thing) and not ids.is_of_thread(thing))
            if thing not in found and is_some_ones and kind_of_id(thing) is not None:
                raise self.missing(Place("", thing))

    async def check_known(self, owner: str, asked: Sequence[str]) -> dict[str, str]:
        """Return whose these things are, as far as that is known; `ResourceNotFound` for the first that is another's."""
        if len(asked) > ids.MOST:
            raise InvalidCall(f"the call names more than {ids.MOST:,} things")
        found = await self.owners.of(asked)
        for thing in asked:
            if found.get(thing, owner) != owner:
                raise self.missing(Place("", thing))
        return found

    async def names_others(self, owner: str, things: Sequence[str]) -> bool:
        """Whether any of these things is known to be another's."""
        return any(each != owner for each in (await self.owners.of(things)).values())

    async def check_headers(self, owner: str, headers: Headers) -> None:
        """Raise `ResourceNotFound` if a call is to be billed to somebody by another's profile of them."""
        for profile in [value.strip() for name, value in headers if name == _PROFILE]:
            if (await self.owners.of([profile])).get(profile) != owner:
                raise self.missing(Place("user_profiles", profile))
        named = ids.asked_by(*(value for name, value in headers if ids.may_name(name) and not _NAMES_NOTHING.fullmatch(name)))
        await self.check_known(owner, named)

    def missing(self, place: Place) -> ResourceNotFound:
        """Return what upstream says of a thing that is not there."""
        self._refused += 1
        kind = kind_of_id(place.id) or place.kind
        named = ids.said_of(place.id)[:100]
        return ResourceNotFound(f"{kind.title} not found: {named}", metadata={"resource": named})


class Visit:
    """
    One carried call of a caller that has only its own.

    Args:
        query: of its path.
        is_shared: what is in this collection is everybody's; what the call names beside that must still be its caller's.
    """

    def __init__(
        self, guard: Guard, owner: Owner, method: str, place: Place, query: str = "", *, is_shared: bool = False
    ) -> None:
        self._guard = guard
        self._owner = owner.text
        self._method = method
        self._place = place
        self._query = query
        self._is_shared = is_shared

    def __repr__(self) -> str:
        return f"<Visit {self._method} {self._place}>"

    @property
    def is_list(self) -> bool:
        """Whether it asks for a list."""
        return self._method == "GET" and not self._place.id and not self._is_shared

    @property
    def is_of_all(self) -> bool:
        """Whether it asks for all that there is, of which it may have its own."""
        return self._method in ("GET", "HEAD") and not self._place.id and not self._is_shared

    @property
    def is_making(self) -> bool:
        """Whether its answer may tell of something that was made."""
        return self._method == "POST" and not self._is_shared

    @property
    def may_tell(self) -> bool:
        """Whether its answer may tell of what is others': nobody knows what it asks for."""
        return self.is_making and self._place.collection not in KINDS and not self._place.id

    async def enter(self, headers: Headers, onward: Headers) -> None:
        """
        Raise what speaks against the call, its body apart: `ResourceNotFound`, `NotAllowed`, `RedisAway`.

        Args:
            onward: those of its headers that go upstream; the others name nothing there, and are not asked about.
        """
        if self._place.id and not self._is_shared:
            await self._check_path()
        elif self._method not in ("GET", "HEAD", "POST") and not self._is_shared:
            raise NotAllowed(f"{self._method} of all that there is: callers have their own only")
        if not self.is_list:  # which shows nothing of others', whatever it is asked for
            # In what is everybody's the id, too: another spelling of a collection of ours is none that we know.
            said = (self._place.id if self._is_shared else "", self._place.below, self._query)
            await self._guard.check_known(self._owner, ids.asked_by(*said))
        await self._guard.check_headers(self._owner, onward)
        if self._method == "POST":
            if self.is_making:
                await self._guard.owners.ready()
            encodings = [value.strip().lower() for name, value in headers if name == "content-encoding"]
            if any(encoding not in _PLAIN for encoding in encodings):
                raise InvalidCall("content-encoding: the body must be sent as it is, so that what it names can be read")

    async def _check_path(self) -> None:
        if self._place.kind.is_public(self._place.id) and self._method in ("GET", "HEAD"):
            return
        if (await self._guard.owners.of([self._place.id])).get(self._place.id) != self._owner:
            raise self._guard.missing(self._place)

    async def body(self, content: bytes, headers: Headers) -> None:
        """Raise `ResourceNotFound` if a body names what is not the caller's own."""
        async for _ in self.passing(_once(content), headers):
            pass

    async def passing(self, chunks: AsyncIterator[bytes], headers: Headers) -> AsyncIterator[bytes]:
        """Yield a body's pieces, each once what it names is known to be the caller's own; raises as `body` does."""
        said = [value for name, value in headers if name == "content-type"]
        if len(said) > 1:
            raise InvalidCall("content-type: a body has one")
        scan, held = scan_of("".join(said), is_of_calls=self._place.collection == "messages/batches"), b""
        async for chunk in chunks:
            await self._look(scan, chunk)
            if held:
                yield held
            held = chunk  # the last one waits for what the end tells
        await self._check(scan.end())
        if held:
            yield held

    async def _look(self, scan: Scan, chunk: bytes) -> None:
        for start in range(0, len(chunk), _PIECE):
            await self._check(scan.feed(chunk[start : start + _PIECE]))
            if start:
                await asyncio.sleep(0)  # others have their turn

    async def _check(self, found: list[str]) -> None:
        if found:
            await self._guard.check(self._owner, found, are_ids=False)

    async def hear(self, answer: bytes) -> None:
        """Raise `NotAllowed` if an answer tells of what is another's, where nobody knows what was asked for."""
        async for _ in self._hearing(_once(answer)):
            pass

    def hearing(self, chunks: AsyncIterator[bytes], headers: Headers) -> AsyncIterator[bytes]:
        """
        Return the pieces of such an answer, each once it is known to tell of nothing of others'; they raise as `hear` does.

        Raises `NotAllowed` for an answer that is packed, though nobody asked for that.
        """
        if any(name == "content-encoding" and value.strip().lower() not in _PLAIN for name, value in headers):
            raise NotAllowed("what the answer tells of cannot be read; it is for callers with the role admin")
        return self._hearing(chunks)

    async def _hearing(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        scan, held = Told(), b""
        async for chunk in chunks:
            for start in range(0, len(chunk), _PIECE):
                await self._hear(scan.feed(chunk[start : start + _PIECE]))
                await asyncio.sleep(0)
            held += chunk
            if ready := len(held) - scan.begun_bytes:  # an id that has begun may end in the next one
                yield held[:ready]
                held = held[ready:]
        await self._hear(scan.end())
        if held:
            yield held

    async def _hear(self, found: list[str]) -> None:
        if found and await self._guard.names_others(self._owner, found):
            raise NotAllowed("the answer tells of what is others'; it is for callers with the role admin")

    async def told(self, things: list[str]) -> None:
        """Record what the results of a batch tell to have been made."""
        await self._guard.owners.record(things, self._owner)

    async def done(self, answer: bytes | None) -> None:
        """Take in that the call went well: what its answer tells to have been made has an owner, what was deleted has none."""
        if self.is_making and answer is not None:
            if thing := _id_of(answer):
                await self._guard.owners.record([thing], self._owner, self._place.kind)
        elif self._method == "DELETE" and not self._place.below:
            await self._guard.owners.forget(self._place.id)

    def listing(self, target: str) -> Listing:
        """Return the list that is asked for, to be walked."""
        return Listing(target, self._place.kind.page)

    async def keep(self, listing: Listing, page: bytes) -> None:
        """Keep of a page of upstream's list what is the caller's own; `NotAllowed` if nobody can tell whose what is."""
        try:
            items = listing.take(page)
        except ValueError:
            raise NotAllowed("whose this is cannot be told; it is for callers with the role admin") from None
        owners = await self._guard.owners.of([thing for thing, _ in items])
        for name, said in listing.beside():
            if await self._guard.names_others(self._owner, Scan().feed(said)):
                listing.leave_out(name)
        kind = self._place.kind
        listing.keep(items, lambda thing, item: owners.get(thing) == self._owner or (kind.has_public and _is_public(item)))


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _id_of(answer: bytes) -> str:
    try:
        return codec.decode(answer, _Made).id
    except ValueError:
        return ""


def _is_public(item: msgspec.Raw) -> bool:
    try:
        source = codec.decode(bytes(item), _Item).source
    except ValueError:
        return False
    return (source.type if isinstance(source, _Source) else source) in ("anthropic", "anthropic_example")
