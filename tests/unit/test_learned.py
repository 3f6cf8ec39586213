"""Limits that nobody configured: what becomes of the buckets when upstream's first word is here."""

from __future__ import annotations

from types import SimpleNamespace

from msgspec.structs import fields, replace

from headrace.budget.limits import Limits
from headrace.budget.want import Form, Want
from headrace.tuning.tuner import Tuner
from schedule_parts import House, levels

LEFT = [
    (f"anthropic-ratelimit-{name}".encode(), value)
    for name, value in (
        ("requests-limit", b"60"), ("requests-remaining", b"12"),
        ("output-tokens-limit", b"60000"), ("output-tokens-remaining", b"5000"),
    )
]  # fmt: skip


def learning() -> House:
    """Return a house that learns from what it hears."""
    house: House
    link = SimpleNamespace(inbox="inbox", on=lambda topic, handler: None, do=lambda *command: None)

    def learnt() -> None:
        house.schedule.reload(Limits(house.schedule.tuner.learner.limits()))

    house = House()
    house.schedule.tuner = Tuner(
        link, house.clock, learns=True, on_limits=learnt, on_learnt=lambda call: house.schedule.tell(call)
    )
    return house


async def test_told_at_once():
    """New buckets hold no more than upstream has left, before anybody draws from them: many others were sent unmetered."""
    house = learning()
    house.schedule.tuner.hear(house.call(), 200, LEFT, house.clock.now())
    requests, tokens = await levels(house)
    assert requests <= 12
    assert tokens <= 5000


async def test_told_once():
    """Later words go with settlements, as ever."""
    house = learning()
    house.schedule.tuner.hear(house.call(), 200, LEFT, house.clock.now())
    before = await levels(house)
    house.schedule.tuner.hear(
        house.call(), 200, [(name, value.replace(b"5000", b"100")) for name, value in LEFT], house.clock.now()
    )
    assert await levels(house) == before


def test_at_another_cost():
    """A want at another cost is the same in all else."""
    want = Want("b", "l", "output_tokens", Form.RATE, 60, 70, 80, "share", 90, True, True, 0.5, True)
    assert want.at(7) == replace(want, cost=7)
    assert all(getattr(want.at(7), field.name) == getattr(want, field.name) for field in fields(want) if field.name != "cost")
