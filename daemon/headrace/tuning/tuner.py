"""
The tuner: what the client hears and what the schedule settles, put together by model class.

Only what uses a model's tokens with our own key counts: other endpoints have limits of their own, and who brings its own key
has another organisation's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace import observe
from headrace.budget.gate import Verdict
from headrace.budget.ledger import NOTHING_SAID, Said
from headrace.budget.organisation import Own
from headrace.budget.want import Form, Want
from headrace.classes import ModelClasses
from headrace.clock import Clock
from headrace.endpoints import named
from headrace.few import Few
from headrace.link import Link
from headrace.model import Errand
from headrace.tuning.heed import heed
from headrace.tuning.learned import Learner, LearnerStats
from headrace.tuning.organisation import OwnLimits
from headrace.tuning.overload import End, Gates, GatesStats, verdict
from headrace.tuning.words import Words

_MOST_NAMED = 50


@dataclass(frozen=True, slots=True)
class TunerStats:
    """The gates, and what was learnt."""

    gates: GatesStats
    learned: LearnerStats


class Tuner:
    """
    Keeps this process in tune with upstream.

    Args:
        classes: of models.
        learns: whether limits are learnt, since none is configured.
        has_gates: whether an overload of a model class holds back its other calls.
        hosts: how many processes share Redis.
        backoff_s: the first pause of an overload, and the longest.
        on_limits: called when other limits have been learnt, or what bounds those that are configured.
        on_learnt: called with the call from whose answer, after that; the buckets of those limits are still full.
    """

    def __init__(
        self,
        link: Link,
        clock: Clock,
        *,
        classes: ModelClasses | None = None,
        learns: bool = False,
        has_gates: bool = True,
        hosts: Callable[[], int] = lambda: 1,
        backoff_s: tuple[float, float] = (0.5, 30.0),
        on_limits: Callable[[], None] = lambda: None,
        on_learnt: Callable[[Errand], None] = lambda call: None,
    ) -> None:
        self.classes = classes or ModelClasses()
        self.gates = Gates(link, clock, hosts=hosts, backoff_s=backoff_s)
        self.words = Words()
        self.learner = Learner(link, clock, on_limits, is_on=learns)
        self.own_limits = OwnLimits(link, clock, on_limits)
        self._has_gates = has_gates
        self._named = Few(_MOST_NAMED)  # classes in the metrics
        self._clock = clock
        self._on_learnt = on_learnt

    def __repr__(self) -> str:
        return f"<Tuner {self.gates!r} {self.learner!r} {self.own_limits!r}>"

    def stats(self) -> TunerStats:
        """Return its state now."""
        return TunerStats(self.gates.stats(), self.learner.stats())

    def class_of(self, call: Errand) -> str:
        """Return the model class whose limits upstream counts a call to; "": none of ours."""
        return self.classes.of(call.model) if call.model and not call.credential and named(call.endpoint).is_metered else ""

    def hear(self, call: Errand, status: int, raw_headers: Iterable[tuple[bytes, bytes]], sent_at: float) -> None:
        """Take in the head of an answer to what was asked at that moment, whatever its status."""
        observe.UPSTREAM_ANSWERS.inc(self._named.of(self.classes.of(call.model)), str(status))
        if model_class := self.class_of(call):
            word = heed(status, raw_headers, sent_at, self._clock.now())
            if word:
                self.words.hear(model_class, word)
            if (word or status == 200) and self.learner.hear(model_class, word):
                self._on_learnt(call)

    def hear_account(self, own: Mapping[str, Own]) -> None:
        """Take in upstream's own list of limits."""
        self.learner.read(own)
        self.own_limits.read(own)

    def asks_gate(self, model_class: str, wants: Sequence[Want]) -> tuple[Want, ...]:
        """Return the want of a call's gate, if it asks: with others, or since there may be one."""
        asks = self._has_gates and model_class and (wants or self.gates.is_troubled(model_class))
        return (self.gates.want(model_class),) if asks else ()

    def said(self, model_class: str, wants: Sequence[Want], end: End, *, age_s: float) -> Said:
        """Return what a settlement says beside what was used; *age_s* ago the attempt was granted."""
        if not model_class:
            return NOTHING_SAID
        most = self.words.carried(model_class, wants, self._clock.now())
        return Said(most, verdict(end), self.gates.told(model_class, end, age_s))

    def latest(self, model_class: str, wants: Sequence[Want]) -> Said:
        """Return what a settlement says that is made only to tell these buckets upstream's latest word."""
        return Said(self.words.carried(model_class, wants, self._clock.now()))

    def troubled_gate(self, model_class: str, wants: Sequence[Want]) -> tuple[Want, ...]:
        """Return the want of the gate that a call has passed, if its class is still troubled."""
        if not self.gates.is_troubled(model_class):
            return ()
        return tuple(want for want in wants if want.form is Form.GATE)

    def needed_gate(self, model_class: str, said: Said) -> tuple[Want, ...]:
        """Return the want of the gate that the settlement of a call that asked nobody has to shut."""
        return (self.gates.want(model_class),) if self._has_gates and said.verdict < Verdict.UNKNOWN else ()
