"""What processes say of themselves, whom a name means, and who may be an operator without a key."""

from __future__ import annotations

import msgspec
import pytest

from headrace import audit
from headrace.errors import HostNotFound, InvalidCall
from headrace.hosts import Drain, Fact, State
from headrace.hosts.fact import configs, decode, encode, named, unknown

WEB = [Fact(instance=f"web-{n}-{n}0-0{n}ff", host=f"web-{n}", config="c") for n in (1, 2)]
DB = [Fact(instance="db-7-aa", host="db"), Fact(instance="db-8-bb", host="db", kind="worker", config="d")]
ALL = [*WEB, *DB]


@pytest.mark.parametrize(
    ("name", "found"),
    [("db", DB), ("db-7-aa", DB[:1]), ("db-8", DB[1:]), ("web-*", WEB), ("web-1", WEB[:1]), ("w*2", WEB[1:]), ("db-?-*", DB)],
)
def test_named(name: str, found: list[Fact]) -> None:
    """A process, the beginning of its name, a host with all that runs there, and patterns."""
    assert named(ALL, name) == found


@pytest.mark.parametrize("name", ["", "mail", "web-3"])
def test_not_there(name: str) -> None:
    """Who is not there is told who is."""
    with pytest.raises(HostNotFound, match="db-7-aa"):
        named(ALL, name)


def test_fact() -> None:
    """What is said comes back as it was said; and an older version's process is known by its name."""
    said = Fact(
        instance="a-b-7-00", host="a-b", state=State.DRAINED, drain=Drain(5.0, "uid:0", "disk"), redis_ms=0.4, addresses=("x",)
    )
    assert decode(encode(said)) == said
    assert unknown("a-b-7-00") == Fact(instance="a-b-7-00", host="a-b")
    assert unknown("odd").host == "odd"


@pytest.mark.parametrize("wrong", [{"at": 1e300}, {"redis_ms": -1.0}, {"running": -1}, {"drain": Drain(-5.0)}])
def test_wrong(wrong: dict) -> None:
    """What no process can say of itself is no fact."""
    with pytest.raises(ValueError, match="no "):
        decode(encode(msgspec.structs.replace(WEB[0], **wrong)))


def test_configs() -> None:
    """Those that are in force; who has not said it has none."""
    assert configs(ALL) == {"c", "d"}


def test_reason() -> None:
    """Why something is done, with a bound."""
    with pytest.raises(InvalidCall, match="201 characters"):
        audit.check("x" * 201)
