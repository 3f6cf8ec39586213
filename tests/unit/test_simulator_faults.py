"""Which calls meet which fault, and what is remembered of calls."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from multidict import CIMultiDict

from headrace.simulator.checks import Ask
from headrace.simulator.faults import Faults, Kind, Rule, refusal
from headrace.simulator.journal import Journal, shown
from headrace.simulator.options import Options
from headrace.simulator.refusals import seconds


def faults(**options: Any) -> Faults:
    return Faults(Options(**options), random.Random(7))


def ask(model: str = "claude-a", prompt: str = "Hello", *, stream: bool = False) -> Ask:
    return Ask(model=model, max_tokens=9, stream=stream, prompt=prompt, input_tokens=1, body={})


def struck(some: Faults, call: Ask) -> str:
    rule = some.strike(call)
    return rule.kind.value if rule else ""


def test_no_rules() -> None:
    """Without rules all goes well."""
    assert struck(faults(), ask()) == ""


def test_count() -> None:
    """A rule with a count is used up after that many, and then gone."""
    some = faults()
    some.add("overloaded", count=2)
    assert some.listed() == [{"kind": "overloaded", "count": 2, "left": 2}]
    assert [struck(some, ask()) for _ in range(3)] == ["overloaded", "overloaded", ""]
    assert some.listed() == []


def test_above() -> None:
    """An upstream that is overloaded refuses what is above its strength, of one model class, and not its other calls."""
    some = faults()
    some.add("overloaded", model="claude-opus-4*", above=2)
    met = [some.strike(ask("claude-opus-4-1"), running=running) for running in range(4)]
    assert [rule is not None for rule in met] == [False, False, True, True]
    assert some.strike(ask("claude-haiku-4-5"), running=9) is None
    assert some.strike(None, "GET", "/v1/models") is None
    with pytest.raises(msgspec.ValidationError, match="above is -1"):
        some.add("overloaded", above=-1)


def test_arrivals() -> None:
    """What counting needs of each call is told in their order, and nothing of its headers."""
    journal = Journal(2)
    for number in range(3):
        visit = journal.open("/v1/messages")
        visit.input_tokens, visit.headers = number, {"x": "y"}
    assert [arrival["input_tokens"] for arrival in journal.arrivals()] == [1, 2]
    assert set(journal.arrivals()[0]) == {
        "at_unix", "took_s", "status", "outcome", "model", "text", "key", "input_tokens", "output_tokens",
    }  # fmt: skip


def test_rates_add_up() -> None:
    """A storm of 30 % and 20 % leaves half of the calls alone, and its parts keep their shares."""
    some = faults(rate_429=0.3, rate_529=0.2)
    seen = Counter(struck(some, ask()) for _ in range(10_000))
    assert seen["rate_limit"] == pytest.approx(3_000, abs=150)
    assert seen["overloaded"] == pytest.approx(2_000, abs=150)


def test_same_seed_same_faults() -> None:
    """The same seed gives the same faults to the same calls."""
    one, two = faults(rate_429=0.5), faults(rate_429=0.5)
    assert [struck(one, ask()) for _ in range(100)] == [struck(two, ask()) for _ in range(100)]


@pytest.mark.parametrize(
    ("details", "met"),
    [
        ({"model": "claude-*"}, True),
        ({"model": "sim-*"}, False),
        ({"text": "ell"}, True),
        ({"text": "bye"}, False),
        ({"stream": False}, True),
        ({"stream": True}, False),
    ],
)
def test_matching(details: dict[str, Any], met: bool) -> None:
    """A rule meets only the calls it names."""
    some = faults()
    some.add("api_error", **details)
    assert bool(struck(some, ask())) == met


def test_forms() -> None:
    """What can only happen to a stream does not happen to a JSON answer, and the other way round."""
    some = faults()
    some.add("stream_error")
    some.add("half_json")
    assert struck(some, ask(stream=True)) == "stream_error"
    assert struck(some, ask(stream=False)) == "half_json"


def test_clear_and_reset() -> None:
    """Clearing stops the options' rates too; a reset brings them back, and only them."""
    some = faults(rate_500=1.0)
    some.add("hang")
    some.clear()
    assert struck(some, ask()) == ""
    some.reset()
    assert repr(some) == "<Faults [1 rules]>"
    assert struck(some, ask()) == "api_error"


@pytest.mark.parametrize(
    "details",
    [{"kind": "flood"}, {"kind": "hang", "count": 0}, {"kind": "hang", "probability": 2}, {"kind": "hang", "chance": 1}],
)
def test_bad_rule(details: dict[str, Any]) -> None:
    """A rule that cannot be meant is refused when it is given."""
    with pytest.raises(msgspec.ValidationError):
        faults().add(**details)


def test_retry_after() -> None:
    """A 429 takes its retry-after from the rule, else from the options; others have one only if their rule says so."""
    some = faults(retry_after_s=(2, 4))
    assert some.retry_after_s(Rule(kind=Kind.RATE_LIMIT)) in (2, 3, 4)
    assert some.retry_after_s(Rule(kind=Kind.RATE_LIMIT, retry_after_s=0.25)) == 0.25
    assert 0.1 <= (some.retry_after_s(Rule(kind=Kind.OVERLOADED, retry_after_s=(0.1, 0.2))) or 0) <= 0.2
    assert some.retry_after_s(Rule(kind=Kind.OVERLOADED)) is None
    assert some.retry_after_s(Rule(kind=Kind.SPEND_LIMIT)) is None
    assert [seconds(value) for value in (1, 2.0, 0.25, 10)] == ["1", "2", "0.25", "10"]


def test_refusals() -> None:
    """Kinds that are errors have a status; the spend limit names its code."""
    statuses = [error.status for kind in Kind if (error := refusal(Rule(kind=kind), None))]
    assert statuses == [429, 529, 500, 502, 503, 504, 408, 429]
    spend = refusal(Rule(kind=Kind.SPEND_LIMIT), None)
    assert spend
    assert spend.error()["details"] == {"error_code": "enforced_spend_limit_reached"}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"rate_429": 0.7, "rate_529": 0.7}, "rate_"),
        ({"burst_s": 0}, "burst_s"),
        ({"retry_after_s": (3, 1)}, "retry_after_s"),
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"jitter": 1.5}, "jitter"),
    ],
)
def test_bad_options(options: dict[str, Any], name: str) -> None:
    """Options that contradict themselves are refused by name."""
    with pytest.raises(ValueError, match=name):
        Options(**options)


def test_journal_is_bounded() -> None:
    """The journal keeps the newest calls and counts all."""
    journal = Journal(2)
    for number in range(3):
        visit = journal.open("/v1/messages")
        journal.identify(visit, b"body %d" % number)
        journal.describe(visit, "claude-a", False, f"prompt {number} " + "x" * 100)
        visit.outcome = "answered"
        journal.close(visit)
    assert repr(journal) == "<Journal [2 of 3 calls kept]>"
    assert [visit["text"][:8] for visit in journal.listed()] == ["prompt 1", "prompt 2"]
    assert [visit["number"] for visit in journal.listed(newest=1)] == [3]
    assert journal.listed(newest=0) == []
    assert [visit["number"] for visit in journal.listed(text="prompt 1")] == [2]
    assert journal.counts.outcomes["answered"] == 3
    assert len(journal.counts.fingerprints.items()) == 2


def test_most_running() -> None:
    """It remembers how many calls were in the air at once; a reset starts from those that still are."""
    journal = Journal(9)
    first, second = journal.open("/"), journal.open("/")
    journal.close(first)
    assert (journal.counts.running, journal.counts.most_running) == (1, 2)
    journal.reset()
    assert (journal.counts.total, journal.counts.running, journal.counts.most_running) == (0, 1, 1)
    journal.close(second)
    assert journal.counts.running == 0


def test_paths() -> None:
    """A rule without a path is for messages; one with a path for those it fits, of any or one method."""
    some = faults()
    some.add("overloaded")
    assert some.strike(None, "GET", "/v1/models") is None
    some.add("api_error", path="/v1/files*", method="POST")
    assert some.strike(None, "GET", "/v1/files") is None
    assert some.strike(None, "POST", "/v1/messages/batches") is None
    met = some.strike(None, "POST", "/v1/files/x")
    assert met is not None
    assert met.kind is Kind.API_ERROR
    assert struck(some, ask()) == "overloaded"


@pytest.mark.parametrize("details", [{"text": "x"}, {"model": "claude-*"}, {"stream": False}])
def test_without_a_prompt(details: dict[str, Any]) -> None:
    """A rule that names words, a model or a form meets no call that has none."""
    some = faults()
    some.add("api_error", path="*", **details)
    assert some.strike(None, "GET", "/v1/models") is None
    assert struck(some, ask(prompt="x")) == "api_error"


def test_other_endpoints_cast_no_die() -> None:
    """What messages meet does not depend on what else is asked, unless a rule is for that, too."""
    one, two = faults(rate_429=0.5), faults(rate_429=0.5)
    seen = []
    for _ in range(50):
        two.strike(None, "GET", "/v1/models")
        seen.append(struck(two, ask()))
    assert seen == [struck(one, ask()) for _ in range(50)]
    assert len(set(seen)) == 2


def test_journal_headers() -> None:
    """Headers are kept under lower-case names, repeated ones together, and no key among them."""
    headers = CIMultiDict({"X-Api-Key": "s1", "Authorization": "Bearer s2", "Cookie": "s3", "Proxy-Authorization": "s4"})
    headers.add("X-Twice", "1")
    headers.add("x-twice", "2")
    said = shown(headers)
    assert said.pop("x-twice") == "1, 2"
    assert said == dict.fromkeys(("x-api-key", "authorization", "cookie", "proxy-authorization"), "***")
