"""
How good the estimates are, in metrics: what is reserved and not settled yet, and what it fell short by or was too much.

What is in the air is what was reserved less what was closed; it may still turn out to be too little, by about as much as what
was closed did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace import observe
from headrace.budget.costs import USES
from headrace.budget.want import Want


def count_reserved(wants: Sequence[Want]) -> None:
    """Count what a call has reserved."""
    for want in wants:
        if want.kind in USES:
            observe.ESTIMATED.inc(want.limit, want.kind, "reserved", by=want.cost)


def count_amended(wants: Sequence[Want], actual: Mapping[str, int]) -> None:
    """Count what became known while the calls go on: so much less, or more, is in the air."""
    for want in wants:
        more = actual.get(want.bucket_id, want.cost) - want.cost
        if want.kind in USES and more:
            observe.ESTIMATED.inc(want.limit, want.kind, "reserved" if more > 0 else "closed", by=abs(more))
            observe.ESTIMATED.inc(want.limit, want.kind, "under" if more > 0 else "over", by=abs(more))


def count_closed(wants: Sequence[Want], actual: Mapping[str, int]) -> None:
    """Count what was reserved as closed, and by how much it was wrong, as far as is known."""
    for want in wants:
        if want.kind in USES:
            observe.ESTIMATED.inc(want.limit, want.kind, "closed", by=want.cost)
            more = actual.get(want.bucket_id, want.cost) - want.cost
            if more:
                observe.ESTIMATED.inc(want.limit, want.kind, "under" if more > 0 else "over", by=abs(more))
