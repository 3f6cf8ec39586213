"""Who shares a flight: by whose call it goes on, who is woken, and what each is told."""

from dataclasses import replace

import pytest

from headrace.errors import BrokenStream, BudgetExhausted, UpstreamError
from headrace.flight.flight import Flight, Landing, Member
from headrace.flight.succession import pass_on
from headrace.model import Answer, Event, Form
from scripted import CALL

ANSWER = Answer(Form.JSON, b"{}", created=1.0)


def members(count, **options):
    flight = Flight("k")
    made = [Member(flight, CALL, is_live=False, **options) for _ in range(count)]
    for member in made:
        flight.enter(member)
    return flight, made


def is_woken(member):
    return member._has_news


def test_lead_passes_to_one():
    """A refusal is told to the leader alone; the next leads, and nobody else is woken."""
    flight, (first, second, third) = members(3)
    flight.refuse(first, BudgetExhausted("spent"))
    assert isinstance(first.error(), BudgetExhausted)
    assert flight.lead() is second
    assert [is_woken(member) for member in (first, second, third)] == [True, False, False]


def test_last_refusal_is_raised():
    """With nobody left to lead, the refusal ends the flight."""
    flight, (only,) = members(1)
    no = BudgetExhausted("spent")
    with pytest.raises(BudgetExhausted) as caught:
        flight.refuse(only, no)
    assert caught.value is not no


def test_leader_that_left():
    """The flight goes by the call of one who left until the next decision; then the eldest of those who are there leads."""
    flight, (first, second) = members(2)
    flight.leave(first)
    assert flight.leader is first
    assert flight.lead() is second
    flight.leave(second)
    assert flight.lead() is second, "without members, it is whoever led last"


def test_unary_members_sleep():
    """Events wake those who want them as they come; all others are woken by the landing."""
    flight = Flight("k")
    live, unary = (Member(flight, CALL, is_live=is_live) for is_live in (True, False))
    for member in (live, unary):
        flight.enter(member)
    flight.begin("one")
    flight.append(Event("content_block_delta", b"{}", b"1"), is_content=True)
    assert (is_woken(live), is_woken(unary)) == (True, False)
    flight.land(Landing(ANSWER))
    assert is_woken(unary)


def test_own_errors():
    """Each member gets an error of its own, that says the same: a traceback and its frames are nobody else's."""
    flight, made = members(3)
    flight.land(Landing(error=UpstreamError("gone", status=404, body=b"{}", headers=(("a", "b"),), retry_after_s=1.0)))
    errors = [member.error() for member in made]
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert (error.status, error.body, error.message, error.retry_after_s) == (404, b"{}", "gone", 1.0)
        assert error.__traceback__ is None


def test_one_source_only():
    """Once callers have had some of one attempt, no other attempt may go on; before that, it takes the place of the first."""
    flight = Flight("k")
    flight.begin("one")
    flight.append(Event("message_start", b"{}", b"1"), is_content=False)
    flight.begin("two")
    assert flight.events == []
    flight.append(Event("content_block_delta", b"{}", b"2"), is_content=True)
    flight.begin("two")
    with pytest.raises(BrokenStream):
        flight.begin("three")
    assert [event.raw for event in flight.events] == [b"2"]


def test_said_by_somebody():
    """Nobody appends without saying whose events they are."""
    with pytest.raises(RuntimeError):
        Flight("k").append(Event("message_start", b"{}", b"1"), is_content=False)


def test_passed_on():
    """The ticket of a leader that was refused is not told of to the next one."""
    flight = Flight("k")
    members = [Member(flight, replace(CALL, scope=""), is_live=False) for _ in range(2)]
    for member in members:
        flight.enter(member)
    flight.ticket = "t-1"
    assert members[0].ticket == "t-1"
    flight.is_ticket_anothers = True
    assert members[0].ticket == ""
    flight.is_ticket_anothers = False
    pass_on(flight, members[0], BudgetExhausted("spent", retry_after_s=0.0), 0.0)
    assert flight.lead().ticket == ""
