"""Records of the ledger whose fields say nonsense: a bucket or a gate of which nothing is known holds up nobody."""

from __future__ import annotations

import pytest

from headrace import keys
from headrace.budget.ledger import Granted
from headrace.budget.redis import RedisLedger
from headrace.budget.want import Form, Want
from headrace.rank import Flow
from ledger_parts import BUDGET, REQUESTS

RUBBISH = (b"nan", b"inf", b"-inf", b"1e400", b"x", b"", b"-9e99", b"9" * 40, b"{}")
FIELDS = {
    Form.RATE: ("level", "at", "lent", "lapse", "foreign", "kept", "heard", "first", "headrace:inbox:a"),
    Form.WINDOW: ("used", "lent", "lapse", "headrace:inbox:a"),
    Form.GATE: ("until", "window", "aim", "cut", "tight", "strikes", "spent", "ask", "h:a"),
}

WANTS = {Form.RATE: REQUESTS, Form.WINDOW: BUDGET, Form.GATE: Want("gate:m", "", "overload", Form.GATE, 0, 1, 1)}


@pytest.mark.parametrize("form", FIELDS)
@pytest.mark.parametrize("value", RUBBISH)
async def test_fields(link, form, value):
    """Whichever field says it, alone or with all of them, a call is granted, and settled."""
    ledger = RedisLedger(link)
    want = WANTS[form]
    bucket = want.bucket_id
    for number, fields in enumerate([*((field,) for field in FIELDS[form]), FIELDS[form]]):
        await link.do("DEL", keys.bucket(bucket))
        for field in fields:
            await link.do("HSET", keys.bucket(bucket), field, value)
        hold = f"h{number}"
        said = await ledger.reserve(hold, [want], waiter="", flow=Flow("a"))
        assert isinstance(said, Granted), (fields, said)
        await ledger.settle(hold, [want], {})


@pytest.mark.parametrize("value", RUBBISH)
async def test_hold(link, value):
    """A reservation of which nonsense is remembered is made anew."""
    ledger = RedisLedger(link)
    want = WANTS[Form.RATE]
    await link.do("SET", keys.hold("h"), value)
    said = await ledger.reserve("h", [want], waiter="", flow=Flow("a"))
    assert isinstance(said, Granted)
