"""Budgets and who waits for them, as rows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from headrace.admin.bins import LIMITED, REFUSED, UNKNOWN, Bin, Mark
from headrace.admin.looks import Look
from headrace.admin.recent import percent
from headrace.admin.rows import BudgetRow, WaitingRow
from headrace.budget.limit import Limit
from headrace.budgets.board import Budget, Shown
from headrace.few import OTHER
from headrace.owner import name_in

MOST_ROWS = 200
MOST_WAITING = 200
_MOST_HISTORIES = 60

ClassOf = Callable[[str], str]


def budget_rows(look: Look, class_of: ClassOf) -> list[BudgetRow]:
    """Return a row for each bucket, limit by limit; of too many those that are used most."""
    found = [(shown, budget) for shown in look.state.shown for budget in shown.budgets]
    if len(found) > MOST_ROWS:
        kept = sorted(found, key=lambda pair: -_used(pair[1]))[:MOST_ROWS]
        found = [pair for pair in found if pair in kept]
    with_history = {id(budget) for _, budget in sorted(found, key=lambda pair: -_used(pair[1]))[:_MOST_HISTORIES]}
    return [_row(shown, budget, look, class_of, has_history=id(budget) in with_history) for shown, budget in found]


def idle_limits(look: Look) -> list[str]:
    """Return the limits from which no call has drawn yet."""
    return [shown.limit.name for shown in look.state.shown if not shown.budgets]


def _used(budget: Budget) -> float:
    capacity = budget.seen.capacity
    return 1 - (budget.level.left - budget.level.debt) / capacity if capacity else 1.0


def _row(shown: Shown, budget: Budget, look: Look, class_of: ClassOf, *, has_history: bool) -> BudgetRow:
    seen, level = budget.seen, budget.level
    marks = _Marks(shown.limit, budget.whose, class_of)
    return BudgetRow(
        limit=shown.limit.name,
        of=dict(budget.whose),
        kind=seen.kind,
        form=seen.form.name.lower(),
        rate_per_minute=seen.rate_per_minute,
        capacity=seen.capacity,
        left=level.left,
        debt=level.debt,
        reserved=seen.reserved,
        reserved_calls=seen.reserved_calls,
        used=round(_used(budget), 4),
        waiting=sum(budget.flows.values()),
        oldest=min((waits.since for waits in budget.waiting), default=None),
        full_at=level.full_at,
        is_shadow=shown.limit.shadow,
        source="learned" if shown.configured is None else "configured",
        note=_note(shown, budget),
        history=_history(look.history, budget) if has_history else [],
        refused=marks.of(REFUSED, look.history),
        limited=marks.of(LIMITED, look.history),
    )


def _note(shown: Shown, budget: Budget) -> str:
    said = []
    if shown.override is not None:
        figures = ", ".join(f"{name} {value:,}" for name, value in shown.override.figures.given().items())
        said.append(
            f"{figures}, laid over by {shown.override.by}" + (f": {shown.override.reason}" if shown.override.reason else "")
        )
    if budget.lowered_since is not None:
        said.append("held at the organisation's own rate")
    return "; ".join(said)


def _history(bins: Sequence[Bin | None], budget: Budget) -> list[int]:
    shares = [UNKNOWN if each is None else each.used.get(budget.seen.id, UNKNOWN) for each in bins]
    # What Redis says now is better than what anybody saw of it a moment ago.
    shares[-1] = percent(budget.seen.capacity - budget.level.left + budget.level.debt, budget.seen.capacity)
    return shares


class _Marks:
    """Which marks belong to a bucket: those of its limit, or of upstream, for calls that draw from it."""

    def __init__(self, limit: Limit, whose: Mapping[str, str], class_of: ClassOf) -> None:
        self._limit = limit
        self._caller = whose.get("caller")
        model_class = whose.get("class") or (class_of(whose["model"]) if "model" in whose else None)
        self._class = model_class

    def of(self, kind: str, bins: Sequence[Bin | None]) -> list[int]:
        """Return how many there were of a kind, bin by bin; [] of none."""
        counts = [0 if each is None else sum(mark.count for mark in each.marks if self._fits(kind, mark)) for each in bins]
        return counts if any(counts) else []

    def _fits(self, kind: str, mark: Mark) -> bool:
        if mark.kind != kind or (kind == REFUSED and mark.limit != self._limit.name):
            return False
        match = self._limit.match
        return (
            _is(self._caller, mark.caller)
            and _is(self._class, mark.model_class)
            and _matches(match.caller, mark.caller)
            and _matches(match.model_class, mark.model_class)
        )


def _is(wanted: str | None, said: str) -> bool:
    return wanted is None or said in (wanted, OTHER, "")


def _matches(glob: str, said: str) -> bool:
    return glob == "*" or said in (OTHER, "") or fnmatchcase(said, glob)


def waiting_rows(look: Look) -> list[WaitingRow]:
    """Return who waits, those first who are expected to go first; whoever is not told one by one is in a row of its flow."""
    rows = [*_at_limits(look), *_on_hold(look), *_at_slots(look)]
    return sorted(rows, key=lambda row: (row.count > 1, row.due is None, row.due or 0.0, row.since or 0.0))


def _at_limits(look: Look) -> Iterator[WaitingRow]:
    room = MOST_WAITING
    for shown in look.state.shown:
        for budget in shown.budgets:
            told: dict[tuple[str, str], int] = {}
            for waits in list(budget.waiting)[:room]:
                told[waits.lane, waits.caller] = told.get((waits.lane, waits.caller), 0) + 1
                yield WaitingRow(
                    caller=name_in(waits.caller),
                    lane=waits.lane,
                    held_by=shown.limit.name,
                    kind=budget.seen.kind,
                    of=dict(budget.whose),
                    cost=waits.cost,
                    since=waits.since,
                    due=waits.due,
                    latest=waits.latest,
                    daemon=waits.daemon,
                )
            room -= sum(told.values())
            for (lane, caller), count in budget.flows.items():
                if (more := count - told.get((lane, caller), 0)) > 0:
                    yield WaitingRow(
                        caller=name_in(caller),
                        lane=lane,
                        held_by=shown.limit.name,
                        kind=budget.seen.kind,
                        of=dict(budget.whose),
                        count=more,
                    )


def _on_hold(look: Look) -> Iterator[WaitingRow]:
    for name, (held, count) in look.state.held.items():
        if count:
            yield WaitingRow(caller=name, lane="", held_by="hold", since=held.since, due=held.until, count=count)


def _at_slots(look: Look) -> Iterator[WaitingRow]:
    for each in look.news:
        if each.slots_waiting:
            yield WaitingRow(caller="", lane="", held_by="slots", daemon=each.daemon, count=each.slots_waiting)
