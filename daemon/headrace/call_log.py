"""
A line in the log for a call that has ended: which calls have one, `log.calls` says.

Made of the call's outcome, and so of what is known of it anyway: names, times, counts, and each try with what it waited for;
never a word of what was asked or answered. A bad hour must not fill the log, so but for `"all"`, which asks for just that, the
lines are rationed; the next line says how many were left out.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import structlog

from headrace import observe
from headrace.clock import Clock
from headrace.outcome import LEFT, Outcome
from headrace.owner import name_in
from headrace.rations import Rations
from headrace.trail import HERE, Try

Which = Literal["off", "slow", "errors", "all"]

_AT_ONCE, _EVERY_S = 100, 0.2
_MOST_TRIES = 50  # in a line, the last ones
_is_model = re.compile(r"[A-Za-z0-9._:@/\[\]-]{1,100}").fullmatch

log = structlog.get_logger()


class CallLog:
    """
    Listens to outcomes.

    Args:
        which: calls have a line: the slow ones, with "errors" those, too, that ended in an error, or all.
        slow_s: from how long a call is slow.
    """

    def __init__(self, clock: Clock, which: Which, slow_s: float) -> None:
        self._rations = Rations(clock.now, at_once=_AT_ONCE, every_s=_EVERY_S)
        self.reload(which, slow_s)

    def __repr__(self) -> str:
        return f"<CallLog {self.which} {self._rations!r}>"

    def reload(self, which: Which, slow_s: float) -> None:
        """Go by other settings from now on."""
        self.which, self._slow_s = which, slow_s

    def heed(self, outcome: Outcome) -> None:
        """Write its line, if it is to have one."""
        if not self._is_wanted(outcome):
            return
        left_out = 0 if self.which == "all" else self._rations.take("call")
        if left_out is None:
            observe.LINES_LEFT_OUT.inc()
            return
        log.info(observe.CALL_ENDED, **fields_of(outcome), **({"left_out": left_out} if left_out else {}))

    def _is_wanted(self, outcome: Outcome) -> bool:
        if self.which in ("off", "all"):
            return self.which == "all"
        is_error = self.which == "errors" and outcome.reason not in ("", LEFT)
        return is_error or outcome.took_s >= self._slow_s


def fields_of(outcome: Outcome) -> dict[str, Any]:
    """Return what a call's line says; what there is nothing to say of is not in it."""
    usage = outcome.usage
    said = {
        "id": outcome.id,
        "edge": outcome.edge,
        "endpoint": outcome.endpoint,
        "caller": name_in(outcome.caller),
        "team": outcome.team,
        "model": shown_model(outcome.model),
        "lane": str(outcome.lane),
        "source": outcome.source,
        "reason": outcome.reason,
        "status": outcome.status,
        "limit": outcome.limit,
        "ticket": outcome.ticket,
        "request_id": outcome.request_id,
        "input_tokens": usage.input_tokens,
        "cache_read_tokens": usage.cache_read_input_tokens,
        "cache_write_tokens": usage.cache_creation_input_tokens,
        "output_tokens": usage.output_tokens,
        "waits_ms": {what: _ms(seconds) for what, seconds in outcome.waits},
        "attempts": outcome.attempts or len(outcome.tries),
        "tries": [_try(each, outcome.began) for each in outcome.tries[-_MOST_TRIES:]],
    }
    first = {} if outcome.first_s is None else {"first_ms": _ms(outcome.first_s)}
    return {name: value for name, value in said.items() if value} | first | {"ms": _ms(outcome.took_s)}


def shown_model(model: str) -> str:
    """Return a model's name as it may be shown: whoever asks may write anything there, and it is meant for a name."""
    return model if not model or _is_model(model) else "?"


def _try(made: Try, began: float) -> dict[str, Any]:
    said = {
        "number": made.number,
        "after_ms": _ms(made.began - began),
        "ms": _ms(made.took_s),
        "outcome": made.outcome,
        "status": made.status,
        "waited_ms": _ms(made.waited_s),
        "held_by": made.held_by,
        "request_id": made.request_id,
        "host": "" if made.host == HERE else made.host,
    }
    return {name: value for name, value in said.items() if value or name in ("after_ms", "ms")}


def _ms(seconds: float) -> int:
    return round(max(0.0, seconds) * 1000)
