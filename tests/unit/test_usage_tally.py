"""Adding up: no figure is lost, whatever comes in which order, and none is counted twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.model import Usage
from headrace.outcome import LEFT, Outcome, Spent
from headrace.prices import Prices
from headrace.usage.tally import AT, FIELDS, OTHER, Tally, Who, read, spelled

SONNET = "claude-sonnet-5"
ANSWERED = Usage(10, 5)
COUNTS = st.integers(0, 10**6)
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS, st.just(True), COUNTS)
CALLERS = st.sampled_from(["a", "b", "c", "d"])
MODELS = st.sampled_from([SONNET, "claude-opus-5", "made-up"])
TIMES = st.floats(0, 600)
SPENT = st.builds(Spent, CALLERS, st.just("standard"), MODELS, USAGES, st.booleans(), st.booleans(), TIMES)


def kept(caller="a", usage=ANSWERED, at=60.0, model=SONNET, **more):
    more = {"source": "cache", "cost_class": "kept"} | more
    return Outcome("http", "messages", caller, "standard", model, usage=usage, began=at, **more)


def all_of(tally):
    """Take all that there is, a few cells at a time."""
    tally.settle()
    taken = []
    while cells := tally.take(3):
        assert len({minute for minute, _, _ in cells}) == 1
        taken += cells
    return taken


def sums(cells):
    """Return what the figures of all cells come to, by name; zeros are left out."""
    added = [sum(column) for column in zip(*(figures for _, _, figures in cells), strict=True)]
    return {name: figure for name, figure in zip(FIELDS, added, strict=True) if figure} if added else {}


@given(st.lists(SPENT), st.integers(1, 5), st.integers(1, 3))
def test_what_is_spent_is_counted_once(spents, most_cells, most_minutes):
    """Within whatever bounds, tokens of each class and costs come to what all attempts used, and the bounds hold."""
    prices = Prices()
    tally = Tally(prices, cells=most_cells, minutes=most_minutes)
    for spent in spents:
        tally.spend(spent)
    tally.settle()
    assert tally.stats().minutes <= most_minutes
    assert tally.stats().cells <= most_minutes * (most_cells + 1)

    cells = all_of(tally)

    said = sums(cells)
    usages = [spent.usage for spent in spents]
    assert said.get("output", 0) == sum(usage.output_tokens for usage in usages)
    assert said.get("input", 0) == sum(usage.input_tokens for usage in usages)
    assert said.get("cache_read", 0) == sum(usage.cache_read_input_tokens for usage in usages)
    written = said.get("cache_write_5m", 0) + said.get("cache_write_1h", 0)
    assert written == sum(usage.cache_creation_input_tokens for usage in usages)
    assert said.get("cost", 0) == sum(prices.cost(spent.model, spent.usage) or 0 for spent in spents)
    assert said.get("attempts", 0) == len(spents)
    assert all_of(tally) == []


@given(st.lists(SPENT))
def test_by_whom_and_when(spents):
    """With room for all, each cell has what its caller used of its model in its minute."""
    tally = Tally(Prices())
    for spent in spents:
        tally.spend(spent)
    found = {(minute, who): figures[AT["output"]] for minute, who, figures in all_of(tally)}
    wanted: dict = {}
    for spent in spents:
        key = int(spent.at // 60), Who(spent.caller, "", spent.model, "standard")
        wanted[key] = wanted.get(key, 0) + spent.usage.output_tokens
    assert found == wanted


@given(st.lists(st.tuples(CALLERS, st.integers(0, 3), st.booleans())))
def test_hits_save_what_their_answers_took(hits):
    """However hits of several answers and callers are mixed, and in between taken: what they saved is added up by caller."""
    answers = [Usage(100 * number, number, 7, 1) for number in range(4)]
    tally, taken = Tally(Prices()), []
    for caller, number, takes in hits:
        tally.heed(kept(caller, answers[number]))
        taken += all_of(tally) if takes else []
    taken += all_of(tally)
    for caller in "abcd":
        saved = [answers[number] for name, number, _ in hits if name == caller]
        said = sums([cell for cell in taken if cell[1].caller == caller])
        assert said.get("calls_cache", 0) == len(saved)
        assert said.get("kept_output", 0) == sum(usage.output_tokens for usage in saved)
        assert said.get("kept_input", 0) == sum(usage.input_tokens + 8 for usage in saved)
        assert said.get("kept_cost", 0) == sum(Prices().cost(SONNET, usage) for usage in saved)


def test_ends():
    """Each call is in one class, by how it ended; a call that came to no answer saves nothing."""
    tally = Tally(Prices())
    ends = [
        kept(), kept(source="stale"), kept(source="shared", cost_class="shared"), kept(source="upstream", cost_class="paid"),
        kept(source="", cost_class="none", reason="BUDGET_EXHAUSTED"),
        kept(source="", cost_class="none", reason="OVERLOADED", status=529),
        kept(source="upstream", cost_class="paid", reason="BROKEN", status=502),
        kept(source="", cost_class="none", reason=LEFT),
    ]  # fmt: skip
    for outcome in ends:
        tally.heed(outcome)
    said = sums(all_of(tally))
    assert {name: count for name, count in said.items() if name.startswith("calls_")} == {
        "calls_upstream": 1, "calls_shared": 1, "calls_cache": 1, "calls_stale": 1, "calls_refused": 1, "calls_failed": 2,
        "calls_left": 1,
    }  # fmt: skip
    assert (said["kept_output"], said["shared_output"]) == (10, 5)
    assert "output" not in said


def test_stale_and_fresh_hits_of_one_answer():
    """Hits are counted by their answer, and yet by how old it was."""
    tally, usage = Tally(Prices()), Usage(10, 5)
    for source in ("cache", "stale", "cache"):
        tally.heed(kept(usage=usage, source=source))
    said = sums(all_of(tally))
    assert (said["calls_cache"], said["calls_stale"]) == (2, 1)


def test_beyond_the_bound():
    """What finds no room of its own goes under (other), the first ones keep theirs; names of models are cut."""
    tally = Tally(Prices(), cells=1)
    for caller in "abc":
        tally.spend(Spent(caller, "standard", "x" * 10**6, Usage(0, 1), at=0.0))
    assert [(who.caller, figures[AT["output"]]) for _, who, figures in all_of(tally)] == [("a", 1), (OTHER.caller, 2)]
    tally.spend(Spent("a", "standard", "\ud800" + "x" * 10**6, Usage(0, 1), at=0.0))
    [(_, who, figures)] = all_of(tally)
    assert len(who.model) < 120
    assert figures[AT["unpriced"]] == 1
    assert read(spelled(who)) == who
