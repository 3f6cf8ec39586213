"""
Metrics by caller, model class, lane, limit and reason: made of outcomes, and of the figures of usage.

What a hit counts for is in the figures of usage, which are made once a second (usage/tally.py), so that it costs a hit nothing
here. Names are few (few.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from headrace import observe
from headrace.few import OTHER, Few
from headrace.outcome import LEFT, Outcome, Tried
from headrace.owner import name_in
from headrace.traces.spans import OPERATIONS, PROVIDER, error_of, input_tokens
from headrace.usage.tally import AT, Who

RESULTS = ("upstream", "shared", "cache", "stale", "refused", "failed", "left")
_DECISIONS = ("granted", "held", "refused", "unknown")  # of limits in the shadow
_KINDS = {"input": "input", "cache_write_5m": "cache_write", "cache_write_1h": "cache_write", "cache_read": "cache_read",
          "output": "output"}  # fmt: skip
_CALLS = tuple((result, AT[f"calls_{result}"]) for result in RESULTS)
_TOKENS = tuple((kind, AT[name]) for name, kind in _KINDS.items())
_MOST_CLASSES, _MOST_TEAMS, _MOST_MODELS = 50, 50, 50


class Meters:
    """
    Counts.

    Args:
        class_of: returns the class of a model.
        max_callers: callers that are named beside those of the configuration.
    """

    def __init__(self, class_of: Callable[[str], str], max_callers: int) -> None:
        self._class_of = class_of
        self._callers, self._classes = Few(max_callers), Few(_MOST_CLASSES)
        self._models: set[str] = set()

    def __repr__(self) -> str:
        return f"<Meters {self._callers!r}>"

    def reload(
        self, callers: Iterable[str], lanes: Iterable[str], limits: Iterable[str], shadows: Iterable[str], max_callers: int
    ) -> None:
        """
        Name these from now on, whatever else there is; *shadows* are the limits that only count.

        What an alert may wait for exists at 0, so that it hears of the first time, too.
        """
        callers, lanes = tuple(callers), tuple(lanes)
        self._callers.reload(callers, max_callers)
        for caller in callers:
            observe.CALLER_ERRORS.start((caller,), observe.REASONS)
            observe.CALLER_CALLS.start((caller,), lanes, RESULTS)
            observe.CALLER_COST.start((caller,))
        for limit in limits:
            observe.LIMIT_REFUSALS.start((limit,), ("BUDGET_EXHAUSTED", "UPSTREAM_OVERLOADED", "DEADLINE_PASSED"))
        observe.SHADOW.start(shadows, _DECISIONS)

    def caller(self, owner: str) -> str:
        """Return the name by which an owner is counted; "" for nobody's."""
        return self._callers.of(name_in(owner))

    def model_class(self, model: str) -> str:
        """Return the name of a model's class by which it is counted."""
        return self._classes.of(self._class_of(model))

    def heed(self, outcome: Outcome) -> None:
        """Take in what came of a call that was answered by no kept answer."""
        caller = self.caller(outcome.caller)
        if outcome.reason and outcome.reason != LEFT:
            observe.CALLER_ERRORS.inc(caller, outcome.reason)
            if outcome.limit and not outcome.status:
                observe.LIMIT_REFUSALS.inc(outcome.limit, outcome.reason)
        for held_by, seconds in outcome.waits:
            observe.WAIT_TIME.observe(seconds, held_by, outcome.lane, trace=outcome.trace)
            observe.CALLER_WAITED.inc(caller, held_by, by=round(seconds * 1000))
        if not outcome.endpoint:
            return
        model_class = self.model_class(outcome.model)
        observe.CALL_TIME.observe(outcome.took_s, model_class, outcome.lane, result_of(outcome), trace=outcome.trace)
        if outcome.first_s is not None:
            observe.FIRST_TIME.observe(outcome.first_s, model_class, outcome.lane, trace=outcome.trace)

    def tried(self, tried: Tried) -> None:
        """Take in a try at upstream, by the names of OpenTelemetry's convention."""
        call, usage = tried.call, tried.usage
        if (operation := OPERATIONS.get(call.endpoint)) is None:
            return
        error = error_of(tried)
        named = operation, PROVIDER, self._model(call.model, is_answered=not error)
        observe.GEN_AI_TIME.observe(tried.made.took_s, *named, error, trace=call.trace)
        if tried.first_s is not None:
            observe.GEN_AI_FIRST.observe(tried.first_s, *named, trace=call.trace)
            if not error and usage.output_tokens > 1:
                per_token_s = (tried.made.took_s - tried.first_s) / (usage.output_tokens - 1)
                observe.GEN_AI_PER_TOKEN.observe(max(0.0, per_token_s), *named, trace=call.trace)
        if tried.gaps is not None:
            observe.GEN_AI_CHUNK.add_all(tried.gaps, *named)
        if usage.known:
            observe.GEN_AI_TOKENS.observe(input_tokens(usage), *named, "input")
            observe.GEN_AI_TOKENS.observe(usage.output_tokens, *named, "output")

    def _model(self, model: str, *, is_answered: bool) -> str:
        # The convention wants the very name. Whoever asks may write anything there, so it has to be one that upstream answered.
        if is_answered and len(self._models) < _MOST_MODELS:
            self._models.add(model)
        return model if model in self._models else OTHER

    def used(self, who: Who, figures: Sequence[int]) -> None:
        """Take in what somebody used in a second."""
        caller, model_class = self.caller(who.caller), self.model_class(who.model)
        for result, at in _CALLS:
            if count := figures[at]:
                observe.CALLER_CALLS.inc(caller, who.lane, result, by=count)
        for kind, at in _TOKENS:
            if count := figures[at]:
                observe.CALLER_TOKENS.inc(caller, model_class, kind, by=count)
        if cost := figures[AT["cost"]]:
            observe.CALLER_COST.inc(caller, by=cost)


def result_of(outcome: Outcome) -> str:
    """Return how a call ended, as usage has it, too."""
    if outcome.reason:
        return "left" if outcome.reason == LEFT else "failed" if outcome.status else "refused"
    return outcome.source or "left"
