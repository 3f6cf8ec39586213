"""What is made for who looks is made once, however many look; and who may look, by where it comes from."""

from __future__ import annotations

import asyncio
import base64

import pytest

from headrace import roles
from headrace.admin import asker
from headrace.admin.fresh import Fresh
from headrace.callers import Callers
from headrace.errors import NotAllowed, RedisAway, UnknownCaller
from headrace.model import Role


class Maker:
    """Makes numbers, slowly, by a clock that is turned by hand."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.now, self.made, self.takes_s = 100.0, 0, takes_s
        self.fails = False

    async def make(self, key: str) -> tuple[str, int]:
        await asyncio.sleep(0)
        self.now += self.takes_s
        if self.fails:
            raise RedisAway("away")
        self.made += 1
        return key, self.made


async def test_once():
    """A hundred who ask at once, and those who ask a moment later, are given one and the same."""
    maker = Maker()
    fresh = Fresh(maker.make, 0.25, lambda: maker.now)
    assert set(await asyncio.gather(*(fresh.get("a") for _ in range(100)))) == {("a", 1)}
    maker.now += 0.2
    assert await fresh.get("a") == ("a", 1)
    maker.now += 0.1
    assert await fresh.get("a") == ("a", 2)
    assert (fresh.stats().made, fresh.stats().spared) == (2, 100)


async def test_rests():
    """What took a tenth of a second to make is good for one."""
    maker = Maker(takes_s=0.1)
    fresh = Fresh(maker.make, 0.25, lambda: maker.now, spent=lambda: maker.now)
    await fresh.get("a")
    maker.now += 0.9
    assert await fresh.get("a") == ("a", 1)
    maker.now += 0.2
    assert await fresh.get("a") == ("a", 2)


async def test_fails():
    """A failure is everybody's who waits, and is not kept."""
    maker = Maker()
    fresh = Fresh(maker.make, 0.25, lambda: maker.now, most=2)
    maker.fails = True
    with pytest.raises(RedisAway):
        await fresh.get("a")
    maker.fails = False
    assert await fresh.get("a") == ("a", 1)
    for key in "bcd":
        await fresh.get(key)
    assert fresh.stats().kept == 2


# Who asks.


class Transport:
    def __init__(self, peername) -> None:
        self._said = {"peername": peername}

    def get_extra_info(self, name: str, default=None):
        return self._said.get(name, default)


class Doorman(Callers):
    """Callers of whom one key is known, without a Redis."""

    def __init__(self, *, required: bool, role: Role = Role.OBSERVER) -> None:
        self.required, self.knows_certificates, self._the_role = required, False, role

    def ours(self, presented, certificate=()):
        return next(iter(presented), "")

    def identify(self, key, named):
        from headrace.model import Caller

        if key != "good":
            raise UnknownCaller("no")
        return Caller("eye", role=self._the_role)


LOCAL, FAR = Transport(("127.0.0.1", 5)), Transport(("192.0.2.7", 5))


@pytest.mark.parametrize("transport", [LOCAL, Transport(("::1", 5, 0, 0)), Transport("")])
def test_on_this_machine(transport):
    """Without keys, who is on this machine may look and act."""
    who = asker.ask(Doorman(required=False), {}, transport)
    assert who.may("GET", "/admin/budgets")
    assert who.may("POST", "/admin/api/tickets/x/cancel")


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "good"}])
def test_from_elsewhere(headers):
    """Without keys nobody else may, and no key helps; nor may whom a proxy on this machine brings."""
    with pytest.raises(NotAllowed):
        asker.ask(Doorman(required=False), headers, FAR)
    for name in ("x-forwarded-for", "forwarded", "via"):
        with pytest.raises(NotAllowed):
            asker.ask(Doorman(required=False), {name: "192.0.2.7"}, LOCAL)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "good"},
        {"authorization": "Bearer good"},
        {"authorization": f"Basic {base64.b64encode(b'anybody:good').decode()}"},
    ],
)
@pytest.mark.parametrize("transport", [LOCAL, FAR, Transport("")])
def test_by_key(headers, transport):
    """With keys the key says who it is, wherever it comes from, and its role what it may."""
    who = asker.ask(Doorman(required=True), headers, transport)
    assert (who.by, who.may("GET", "/admin/api/line"), who.may("POST", "/admin/api/callers/x/hold")) == ("eye", True, False)
    who = asker.ask(Doorman(required=True, role=Role.OPERATOR), headers, transport)
    assert who.may("POST", "/admin/api/callers/x/hold")
    who = asker.ask(Doorman(required=True, role=Role.CALLER), headers, transport)
    assert not who.may("GET", "/admin/budgets")


@pytest.mark.parametrize("said", [{}, {"authorization": "Basic !!"}, {"authorization": "Basic Zm9v"}, {"x-api-key": "bad"}])
def test_nobody(said):
    """With keys, who has none is nobody, on this machine, too."""
    with pytest.raises(UnknownCaller):
        asker.ask(Doorman(required=True), said, LOCAL)


def test_rules():
    """The page is for observers, acts are for operators, and what is answered without a key stays as it was."""
    assert roles.of_path("GET", "/admin").least is Role.OBSERVER
    assert roles.of_path("GET", "/admin/api/events").least is Role.OBSERVER
    assert roles.of_path("POST", "/admin/api/callers/ann/hold").least is Role.OPERATOR
    assert roles.of_path("GET", "/metrics") is roles.PUBLIC
