"""What an error reply means: the same for the link and for RQ's connections."""

import pytest
from redis import exceptions
from redis._parsers.base import BaseParser

from headrace import replies
from headrace.errors import RedisAway, RedisRefused
from headrace.refusals import Refusals, Refused
from headrace.replies import Meaning

NOT_HERE = ("READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "UNBLOCKED")
NOT_NOW = ("OOM", "MISCONF", "NOREPLICAS", "TRYAGAIN", "BUSY")
REFUSED = ("NOPERM", "CROSSSLOT", "WRONGTYPE", "NOAUTH", "WRONGPASS", "MOVED", "ASK", "DENIED", "ERR", "WHATEVER")


def raw(text):
    """As the link's own connection has it."""
    return exceptions.ResponseError(text)


def parsed(text):
    """As redis-py has it."""
    return BaseParser.parse_error(text)


def in_a_pipeline(text):
    error = parsed(text)
    error.args = (f"Command # 2 (HSET rq:job:x -OOM secret) of pipeline caused error: {error.args[0]}",)
    return error


def at_the_door(text):
    """As redis-py has it over a unix socket."""
    error = exceptions.ConnectionError(text)
    error.__cause__ = parsed(text)
    return error


@pytest.mark.parametrize("wrap", [raw, parsed, in_a_pipeline, at_the_door])
@pytest.mark.parametrize(
    ("said", "meaning"),
    [(code, Meaning.NOT_HERE) for code in NOT_HERE]
    + [(code, Meaning.NOT_NOW) for code in NOT_NOW]
    + [(code, Meaning.REFUSED) for code in REFUSED],
)
def test_meaning(wrap, said, meaning):
    """A reply means the same, whichever way it came."""
    error = wrap(f"{said} 12182 secret:6379" if said in ("MOVED", "ASK") else f"{said} something of secret")
    assert (replies.code(error), replies.meaning(error)) == (said, meaning)
    assert "secret" not in str(replies.ours(error, "SET"))
    assert isinstance(replies.ours(error), RedisRefused if meaning is Meaning.REFUSED else RedisAway)
    assert said in str(replies.ours(error))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("EXECABORT Transaction discarded because of previous errors.", "EXECABORT"),
        ("ERR Error running script (call to f_1): @user_script:5: @user_script: 5: -READONLY You can't write", "READONLY"),
        ("READONLY You can't write against a read only replica. script: 1, on @user_script:1.", "READONLY"),
        ("ERR unknown command 'X', with args beginning with: ': -OOM '", "ERR"),
        ("no code at all", "ERR"),
    ],
)
def test_code(text, code):
    """The code is found behind whatever stands before it, and not in what was quoted."""
    assert replies.code(raw(text)) == replies.code(parsed(text)) == code


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectionError("gone"),
        exceptions.TimeoutError("slow"),
        exceptions.InvalidResponse("no Redis"),
        TimeoutError(),
        ConnectionResetError(),
        RedisAway("closed"),
        parsed("ERR max number of clients reached"),
    ],
)
def test_gone(error):
    """No reply is a Redis that is away."""
    assert replies.is_away(error)
    assert type(replies.ours(error)) is RedisAway
    assert replies.ours(error) is not error


def test_ours():
    """What is no word of Redis is a fault of ours."""
    assert replies.meaning(KeyError("x")) is Meaning.OURS
    assert replies.ours(KeyError("x")) is None


def test_refusals():
    """A refusal is news when it begins and when it is over; one key that holds a foreign value concerns only its call."""
    now = [0.0]
    refusals = Refusals(lambda: now[0])
    for moment in (0, 10, 20):
        now[0] = moment
        refusals.note("EVALSHA", raw("NOPERM secret"))
        refusals.note("HSET", raw("WRONGTYPE secret"))
    now[0] = 30
    assert refusals.now() == (Refused("EVALSHA", "NOPERM"),)
    assert repr(refusals) == "<Refusals [EVALSHA: NOPERM, HSET: WRONGTYPE]>"
    assert refusals.stats().refused == (Refused("EVALSHA", "NOPERM"), Refused("HSET", "WRONGTYPE"))
    now[0] = 36
    assert refusals.now() == ()
    assert repr(refusals) == "<Refusals [none]>"
