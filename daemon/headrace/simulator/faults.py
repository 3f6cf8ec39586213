"""
Faults on demand: rules that say which calls go wrong, and how.

A rule names a kind, and may narrow down whom it meets (endpoint, model, words in the prompt, streaming or not), how often
(`count`, or a `probability`), and details. Rules are tried in the order in which they came. Probabilities of rules that match
the same call add up, since one die is cast a call: 0.3 and 0.2 make every second call fail, exactly three to two.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from enum import StrEnum
from fnmatch import fnmatchcase

import msgspec

from headrace.simulator.checks import Ask
from headrace.simulator.options import Options
from headrace.simulator.refusals import Refused, seconds


class Kind(StrEnum):
    """What goes wrong."""

    RATE_LIMIT = "rate_limit"  # 429 with retry-after
    OVERLOADED = "overloaded"  # 529
    API_ERROR = "api_error"  # 500
    BAD_GATEWAY = "bad_gateway"  # 502
    UNAVAILABLE = "unavailable"  # 503
    GATEWAY_TIMEOUT = "gateway_timeout"  # 504
    REQUEST_TIMEOUT = "request_timeout"  # 408
    SPEND_LIMIT = "spend_limit"  # 429 that no waiting clears
    GARBAGE = "garbage"  # a body that is not JSON, status 200 or `status`
    SLOW = "slow"  # as always, but `delay_s` later
    DRIP = "drip"  # as always, but a few bytes at a time, over `delay_s`
    HANG = "hang"  # never answers; with after_deltas, falls silent in mid-stream
    RESET = "reset"  # the TCP connection is reset; with after_deltas, after the headers
    HALF_JSON = "half_json"  # half the body, then the connection closes
    HALF_STREAM = "half_stream"  # the connection closes in mid-stream
    STREAM_ERROR = "stream_error"  # 200, then an error event


_MESSAGES = "/v1/messages"
_STREAMS_ONLY = frozenset((Kind.HALF_STREAM, Kind.STREAM_ERROR))
_ERRORS = {
    Kind.RATE_LIMIT: (429, "rate_limit_error", "This request would exceed your organization's rate limit (injected)."),
    Kind.OVERLOADED: (529, "overloaded_error", "Overloaded"),
    Kind.API_ERROR: (500, "api_error", "Internal server error"),
    Kind.BAD_GATEWAY: (502, "api_error", "Bad gateway"),
    Kind.UNAVAILABLE: (503, "api_error", "Service unavailable"),
    Kind.GATEWAY_TIMEOUT: (504, "timeout_error", "Request timed out"),
    Kind.REQUEST_TIMEOUT: (408, "timeout_error", "Request timeout"),
    Kind.SPEND_LIMIT: (429, "rate_limit_error", "You have reached your spend limit."),
}


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """
    Which calls meet a fault.

    Args:
        count: after this many the rule is used up; None is never.
        above: only while so many calls of the model class are in the air: an upstream that is overloaded, not one that is out.
        probability: of a call that matches.
        model: a glob; text: words the prompt must contain; stream: true, false, or both.
        retry_after_s: sent with an error, fixed or from and to; a 429 without one takes the simulator's range.
        after_deltas: how many content deltas come first; for `hang` and `reset`, None is before the headers.
        delay_s: of `slow` and `drip`.
        status: of `garbage`.
        error_type: of `stream_error`.
        path: a glob of the path, such as "/v1/files*"; empty: only `POST /v1/messages`. method: a glob, too.
        early: outside of messages and chat, an error comes before the body is read, as a gateway may send one.
        clean: `half_stream` ends as if it were complete, only without its last events.
    """

    kind: Kind
    count: int | None = None
    probability: float = 1.0
    above: int | None = None
    model: str = "*"
    text: str = ""
    stream: bool | None = None
    retry_after_s: float | tuple[float, float] | None = None
    after_deltas: int | None = None
    delay_s: float = 5.0
    status: int = 200
    error_type: str = "overloaded_error"
    clean: bool = False
    path: str = ""
    method: str = "*"
    early: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is {self.probability}; it should be from 0 to 1")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count is {self.count}; it should be 1 or more, or absent")
        if (self.above or 0) < 0:
            raise ValueError(f"above is {self.above}; it should be 0 or more, or absent")
        if (self.after_deltas or 0) < 0 or self.delay_s < 0 or not 200 <= self.status <= 599:
            raise ValueError("after_deltas and delay_s should be 0 or more, status from 200 to 599")

    def reaches(self, method: str, path: str) -> bool:
        """Whether it is meant for this endpoint."""
        if self.path:
            return fnmatchcase(path, self.path) and fnmatchcase(method, self.method)
        return path == _MESSAGES and fnmatchcase(method, self.method)

    def matches(self, ask: Ask | None, running: int = 0) -> bool:
        """Whether it meets such a call, with *running* in the air; *ask* is None where a call has neither model nor prompt."""
        if ask is None:
            is_any = self.stream is None and not self.text and self.model == "*" and self.above is None
            return is_any and self.kind is not Kind.STREAM_ERROR
        if running < (self.above or 0) or self.stream not in (None, ask.stream):
            return False
        if self.kind is Kind.HALF_JSON and ask.stream:
            return False
        if self.kind in _STREAMS_ONLY and not ask.stream:
            return False
        return fnmatchcase(ask.model, self.model) and self.text in ask.prompt


def refusal(rule: Rule, retry_after_s: float | None) -> Refused | None:
    """Return the error of a rule that is one; None for those that tamper with the answer."""
    if rule.kind not in _ERRORS:
        return None
    status, error_type, message = _ERRORS[rule.kind]
    details = {"error_code": "enforced_spend_limit_reached"} if rule.kind is Kind.SPEND_LIMIT else None
    headers = {} if retry_after_s is None else {"retry-after": seconds(retry_after_s)}
    return Refused(status, error_type, message, outcome=rule.kind.value, details=details, headers=headers)


class Faults:
    """The rules in force, and how many calls each may still meet."""

    def __init__(self, options: Options, dice: random.Random) -> None:
        self._options = options
        self._dice = dice
        self._rules: list[Rule] = []
        self._left: list[int | None] = []
        self.reset()

    def __repr__(self) -> str:
        return f"<Faults [{len(self._rules)} rules]>"

    def add(self, kind: str | Rule, **details: object) -> None:
        """Add a rule, either whole or by its parts: `add("overloaded", count=2)`."""
        rule = kind if isinstance(kind, Rule) else msgspec.convert({"kind": kind, **details}, Rule)
        self._rules.append(rule)
        self._left.append(rule.count)

    def clear(self) -> None:
        """Let everything go well from here on, the rates of the options included."""
        self._rules, self._left = [], []

    def reset(self) -> None:
        """Return to the rates of the options."""
        self.clear()
        for rule in _standing(self._options):
            self.add(rule)

    def listed(self) -> list[dict[str, object]]:
        """Return the rules in force; `left` is how many more calls each will meet."""
        return [msgspec.to_builtins(rule) | {"left": left} for rule, left in zip(self._rules, self._left, strict=True)]

    def strike(self, ask: Ask | None, method: str = "POST", path: str = _MESSAGES, running: int = 0) -> Rule | None:
        """Cast the die for a call: the rule that it meets, if any; *running* calls of its model class are in the air."""
        if path != _MESSAGES and not any(rule.path for rule in self._rules):
            return None  # no die, so that other endpoints do not change what messages meet
        die = self._dice.random() if self._rules else 1.0
        for index, rule in enumerate(self._rules):
            if not rule.reaches(method, path) or not rule.matches(ask, running):
                continue
            if die < rule.probability:
                self._use_up(index)
                return rule
            die -= rule.probability
        return None

    def retry_after_s(self, rule: Rule) -> float | None:
        """Return the `retry-after` that this error gets, if it gets one."""
        wanted = rule.retry_after_s
        if wanted is None:
            if rule.kind is not Kind.RATE_LIMIT:
                return None
            wanted = self._options.retry_after_s
        low, high = wanted if isinstance(wanted, tuple) else (wanted, wanted)
        whole = low == int(low) and high == int(high)
        return round(self._dice.uniform(low, high), 0 if whole else 3)

    def _use_up(self, index: int) -> None:
        left = self._left[index]
        if left == 1:
            del self._rules[index], self._left[index]
        elif left is not None:
            self._left[index] = left - 1


def _standing(options: Options) -> Iterable[Rule]:
    rates = {
        Kind.RATE_LIMIT: options.rate_429,
        Kind.OVERLOADED: options.rate_529,
        Kind.API_ERROR: options.rate_500,
        Kind.HANG: options.rate_hang,
        Kind.RESET: options.rate_reset,
        Kind.HALF_STREAM: options.rate_half_stream,
        Kind.STREAM_ERROR: options.rate_stream_error,
    }
    return [Rule(kind=kind, probability=rate) for kind, rate in rates.items() if rate]
