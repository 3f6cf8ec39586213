"""BudgetsService: the budgets of all daemons, seen and steered."""

from __future__ import annotations

from typing import Any

from headrace import audit, globs
from headrace.audit import Audit
from headrace.budgets import Board
from headrace.budgets.board import State
from headrace.clock import Clock
from headrace.edge import budget_messages as messages
from headrace.edge.grpc_calls import Asker, Handler, Who, guarded, parse
from headrace.errors import InvalidCall, NotAllowed
from headrace.v1 import budgets_service_pb2 as pb


class BudgetsServicer:
    """One short method per RPC."""

    def __init__(self, board: Board, clock: Clock, who: Who, audit: Audit) -> None:
        self._audit = audit
        self._board = board
        self._clock = clock
        self._who = who

    def __repr__(self) -> str:
        return f"<BudgetsServicer {self._board!r}>"

    @property
    def unary(self) -> dict[str, Handler]:
        """The methods that answer once."""
        return {
            "ListBudgets": self.list, "GetBudget": self.get, "SetLimit": self.set_limit, "DeleteLimit": self.delete_limit,
            "HoldCaller": self.hold, "ReleaseCaller": self.release,
        }  # fmt: skip

    @guarded
    async def list(self, raw: bytes, context: Any) -> bytes:
        """Return the limits with their buckets, as far as whoever asks may see them."""
        asker = self._who.ask(context, "BudgetsService.ListBudgets")
        request = parse(pb.ListBudgetsRequest, raw)
        globs.check(request.limit, "limit")
        state, of = await self._state(request.limit or "*", asker)
        reply = pb.ListBudgetsResponse(daemons=state.daemons, daemons_heard=state.heard)
        for shown in state.shown:
            reply.limits.append(messages.limit(shown, of))
            await self._clock.sleep(0)
        reply.holds.extend(messages.hold(name, held, waiting) for name, (held, waiting) in sorted(state.held.items()))
        return reply.SerializeToString()

    @guarded
    async def get(self, raw: bytes, context: Any) -> bytes:
        """Return one limit likewise."""
        asker = self._who.ask(context, "BudgetsService.GetBudget")
        request = parse(pb.GetBudgetRequest, raw)
        limit = self._board.find(request.limit)
        state, of = await self._state(limit.name, asker)
        if not state.shown:
            raise NotAllowed(f"Limit {limit.name} holds for no call of yours; the role observer sees all of them.")
        reply = pb.GetBudgetResponse(
            limit=messages.limit(state.shown[0], of), daemons=state.daemons, daemons_heard=state.heard
        )  # fmt: skip
        return reply.SerializeToString()

    async def _state(self, glob: str, asker: Asker) -> tuple[State, str]:
        of = asker.caller if asker.is_limited else None
        return await self._board.state(glob, of=of), asker.owner.text if of else ""

    # Changing.

    @guarded
    async def set_limit(self, raw: bytes, context: Any) -> bytes:
        """Lay figures over a limit."""
        by = self._by("SetLimit", context)
        request = parse(pb.SetLimitRequest, raw)
        limit = self._board.find(request.limit)
        await self._board.overrides.set_limit(
            limit, messages.read_figures(request.figures), by=by, reason=request.reason, **messages.read_expiry(request)
        )
        await self._audit.note("limit.set", limit.name, by=by, reason=request.reason, details=_figures(request.figures))
        return pb.SetLimitResponse(limit=self._shown(limit.name)).SerializeToString()

    @guarded
    async def delete_limit(self, raw: bytes, context: Any) -> bytes:
        """Let a limit be as it is configured."""
        by = self._by("DeleteLimit", context)
        request = parse(pb.DeleteLimitRequest, raw)
        audit.check(request.reason)
        if request.limit not in self._board.overrides.overrides:  # of one that went from the configuration it may go, too
            self._board.find(request.limit)
        await self._board.overrides.unset_limit(request.limit, by=by)
        await self._audit.note("limit.unset", request.limit, by=by, reason=request.reason)
        return pb.DeleteLimitResponse(limit=self._shown(request.limit)).SerializeToString()

    @guarded
    async def hold(self, raw: bytes, context: Any) -> bytes:
        """Put a caller on hold."""
        by = self._by("HoldCaller", context)
        request = parse(pb.HoldCallerRequest, raw)
        held = await self._board.overrides.hold(
            request.caller, refuse=request.refuse, by=by, reason=request.reason, **messages.read_expiry(request)
        )
        details = "refuse=true" if request.refuse else ""
        await self._audit.note("caller.held", request.caller, by=by, reason=request.reason, details=details)
        return pb.HoldCallerResponse(hold=messages.hold(request.caller, held, 0)).SerializeToString()

    @guarded
    async def release(self, raw: bytes, context: Any) -> bytes:
        """Let a caller go on."""
        by = self._by("ReleaseCaller", context)
        request = parse(pb.ReleaseCallerRequest, raw)
        audit.check(request.reason)
        if not request.caller:
            raise InvalidCall("caller: is empty; name the caller that is to go on", metadata={"field": "caller"})
        await self._board.overrides.release(request.caller, by=by)
        await self._audit.note("caller.released", request.caller, by=by, reason=request.reason)
        return pb.ReleaseCallerResponse().SerializeToString()

    def _shown(self, name: str) -> pb.Limit | None:
        shown = self._board.shown(name)
        return None if shown is None else messages.limit(shown, "")

    def _by(self, method: str, context: Any) -> str:
        return self._who.ask(context, f"BudgetsService.{method}").caller.name


def _figures(figures: pb.LimitFigures) -> str:
    return " ".join(f"{name}={value:g}" for name, value in messages.read_figures(figures).given().items())
