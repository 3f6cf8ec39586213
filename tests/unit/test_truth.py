"""What `make truth` makes of the simulator's log: a measure that is wrong in silence is worse than none."""

from __future__ import annotations

import pytest
from tests.truth import counting
from tests.truth.__main__ import ROWS, TOGETHER
from tests.truth.counting import Arrival
from tests.truth.goals import GOALS, Goal, Verdict

from windows import worst_window


def arrival(at: float, *, status: int = 200, mark: str = "ours", took_s: float = 1.0, tokens: int = 10) -> Arrival:
    spent = tokens if status == 200 else 0
    return Arrival(at, took_s, status, mark, f"{at}", "key", spent, spent)


def test_read() -> None:
    """Mark and name are the first words of the prompt; a prompt of anybody else has them, too, or none."""
    told = {"at_unix": 1.0, "took_s": 0.5, "status": 200, "key": "k", "input_tokens": 3, "output_tokens": 4}
    assert Arrival.of(told | {"text": "ours 0000001 answer in"}) == Arrival(1.0, 0.5, 200, "ours", "0000001", "k", 3, 4)
    assert Arrival.of(told | {"text": "hello"}).name == ""


def test_refused() -> None:
    """Refusals are counted by attempt, and cost nothing."""
    some = [arrival(1), arrival(2, status=429), arrival(3), arrival(4, status=529)]
    assert counting.refused(some) == 0.25
    assert [call.cost("requests") for call in some] == [1, 0, 1, 0]


def test_used() -> None:
    """Use is of what flows in within the span, less the time, and the use, when Redis was away."""
    some = [arrival(at) for at in (0, 1, 2, 7, 10)]
    assert counting.used(some, {"requests": 60, "input_tokens": 60}, (0, 10)) == {"requests": 0.4, "input_tokens": 4.0}
    assert counting.used(some, {"requests": 60}, (0, 10), [(5, 8)]) == {"requests": pytest.approx(3 / 7)}


def test_running() -> None:
    """Who is in the air at a moment: who came by then and has not left; the refused never were."""
    some = [arrival(0.0), arrival(0.5), arrival(0.6, status=429)]
    assert counting.running(some, (0.0, 2.0), step_s=0.5) == [(0.0, 1), (0.5, 2), (1.0, 1), (1.5, 0)]


def test_longest_under() -> None:
    """The longest spell counts, not their sum."""
    levels = [(0.0, 1), (1.0, 9), (2.0, 1), (3.0, 1), (4.0, 9), (5.0, 9)]
    assert counting.longest_under(levels, 5) == 2.0
    assert counting.longest_under(levels, 1) == 0.0


def test_quantile() -> None:
    """Without values there is no good one."""
    assert counting.quantile(range(100), 0.99) == 99
    assert counting.quantile([], 0.99) == float("inf")


def test_windows_over() -> None:
    """All windows that pass the bound are counted, each by its end."""
    grants = [(0, 5), (1_000_000, 3), (2_000_000, 1)]
    assert worst_window(grants, rate_per_minute=60, capacity=5).over == 2
    assert worst_window(grants, rate_per_minute=60, capacity=7).over == 0


def test_not_yet() -> None:
    """A goal that was never reached fails nobody, and says when it could; one that was reached does."""
    aim = Goal("what", 0.02, "%")
    assert aim.judge(0.7, is_short=False) is Verdict.NOT_YET
    assert aim.judge(0.01, is_short=False) is Verdict.RAISE
    assert aim.judge(None, is_short=False) is Verdict.ABSENT
    held = Goal("what", 0.95, at_least=True, reached=0.95, short=0.9)
    assert held.judge(0.94, is_short=False) is Verdict.BROKEN
    assert held.judge(0.94, is_short=True) is Verdict.KEPT
    assert held.judge(None, is_short=False) is Verdict.BROKEN
    assert Goal("what", 0.05, reached=2.1).judge(2.0, is_short=True) is Verdict.HELD
    assert "| 94.0 |" not in held.line("row", 0.94, Verdict.BROKEN)


def test_rows() -> None:
    """Every row has goals, and the short form leaves none out."""
    assert set(GOALS) == set(ROWS) == {name for batch in TOGETHER for name in batch}
