"""
How this process stands, as it says to whoever asks: probes and systemd, other hosts, the live page, and `/metrics`.

It looks at the parts, and moves none of them.
"""

from __future__ import annotations

from headrace import built, observe
from headrace.admin.hosts import host_row
from headrace.admin.reporter import Reporter
from headrace.admin.rows import HostRow
from headrace.condition import Condition, condition
from headrace.making import Made
from headrace.operated import Operated, Stand


class Standing:
    """
    Says how the parts stand.

    Args:
        kind: "daemon" or "worker".
    """

    def __init__(self, made: Made, kind: str) -> None:
        self._made, settings = made, made.settings
        self.reporter = Reporter(made.link, made.clock, made.recent, self._about)
        self.operated = Operated(
            made.link, made.clock, kind=kind, flow=made.flow, pursuits=made.pursuits, ringer=made.ringer,
            schedule=made.schedule, callers=made.callers, board=made.board, census=made.census, tickets=made.tickets,
            trails=made.trails, outcomes=made.outcomes, seal=made.seal, stand=self._stand,
            delay_s=lambda: settings.drain.delay, patience_s=lambda: settings.retry.max_age,
            slow_s=settings.log.slow, most=settings.log.explain,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Standing {self.condition()}>"

    def condition(self) -> Condition:
        """Return how it stands."""
        made = self._made
        return condition(
            made.configured,
            wrong=(
                (made.is_leaving, "draining"),
                (bool(out := self.operated.out_of_service) and not made.is_leaving, out),
                (bool(shut := made.callers.trouble), f"no caller's key is taken: {shut}"),
                (bool(lacks := made.check.fatal), f"Redis does not do: {'; '.join(lacks)}"),
                (bool(dying := made.background.failing), f"work in the background keeps dying: {', '.join(dying)}"),
            ),
            without_redis=(
                (bool(why := made.own_redis()), why),
                (bool(trouble := made.link.trouble), trouble),
                (not made.worker.is_healthy, f"the retry worker does not take jobs: {made.worker.why}"),
            ),
        )

    def details(self) -> list[str]:
        """Return what is amiss though this daemon can be asked, a line each."""
        return [*self.condition().degraded, *self._troubles()]

    def _troubles(self) -> tuple[str, ...]:
        return tuple(trouble.text for trouble in self._made.upstream.troubles.stats().now)

    def _about(self) -> tuple[HostRow, int]:
        """Return where this process stands, as the live page has it, and how many wait for a slot."""
        slots = self._made.schedule.slots.stats()
        return host_row(self.operated.register.own, flights=len(self._made.flights), slots=slots), slots.waiting

    def _stand(self) -> Stand:
        made = self._made
        worker = "" if made.worker.is_healthy else made.worker.why
        return Stand(self.condition(), self._troubles(), worker, made.config, made.is_leaving)

    def measure(self) -> None:
        """Have the gauges read what is so at present."""
        made = self._made
        made.crowd.measure()
        made.basin.measure()
        made.schedule.slots.measure()
        made.borrowing.measure()
        observe.BUILD_INFO.set({(built.version(), built.python()): 1.0})
        made.limit_gauges.measure()
        made.upstream.troubles.measure()
        observe.ATTEMPTS_RUNNING.read = lambda: made.pursuits.stats().running
        observe.RETRIES_WAITING.read = lambda: made.retries.stats().waiting
        observe.LEARNED_CLASSES.read = lambda: len(made.tuner.learner.stats().known)
        observe.IN_FLIGHT.read = lambda: len(made.flights)
        observe.REDIS_UP.read = lambda: float(not made.link.trouble)
        observe.REDIS_ROUND_TRIP.read = lambda: self.operated.register.round_trip_s
        observe.REDIS_LISTENING.read = lambda: float(made.link.is_listening)
