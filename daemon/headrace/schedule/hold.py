"""What a call holds: what it was granted, under the id by which it is settled."""

from __future__ import annotations

import msgspec

from headrace.budget.estimate import Estimate
from headrace.budget.want import Want
from headrace.schedule.asking import never


class Hold(msgspec.Struct, frozen=True):
    """
    What a call was granted, under the id by which it is settled; no wants: no limit matches it.

    Args:
        shadows: what it wants of limits that enforce nothing.
        estimate: what it will probably use.
        model_class: whose limits upstream counts it to; "": none of ours.
        granted_at: when it was granted (Unix seconds), or a moment earlier.
        amended: how often it was amended since.
    """

    id: str
    wants: tuple[Want, ...] = ()
    shadows: tuple[Want, ...] = ()
    estimate: Estimate | None = None
    model_class: str = ""
    granted_at: float = 0.0
    amended: int = 0


def granting(wants: tuple[Want, ...]) -> tuple[Want, ...]:
    """Return the wants, or raise `BudgetExhausted` if a bucket can never hold what is wanted of it."""
    for want in wants:
        if want.cost > want.capacity:
            raise never(want)
    return wants
