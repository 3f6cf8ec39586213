"""What calls have reserved and not settled yet, bucket by bucket: for those who look, and for nobody's decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.budget.want import Want


@dataclass(frozen=True, slots=True)
class Share:
    """So many calls have reserved so much."""

    calls: int = 0
    amount: int = 0


class Reserved:
    """What this process has reserved."""

    def __init__(self) -> None:
        self._by_bucket: dict[str, list[int]] = {}  # calls and amount

    def __repr__(self) -> str:
        return f"<Reserved [{len(self._by_bucket)} buckets]>"

    def stats(self) -> Mapping[str, Share]:
        """Return what is reserved now, by bucket id."""
        return {bucket_id: Share(*sums) for bucket_id, sums in self._by_bucket.items()}

    def add(self, wants: Sequence[Want]) -> None:
        """A call has reserved these."""
        for want in wants:
            sums = self._by_bucket.setdefault(want.bucket_id, [0, 0])
            sums[0] += 1
            sums[1] += want.cost

    def close(self, wants: Sequence[Want]) -> None:
        """It holds them no longer."""
        for want in wants:
            sums = self._by_bucket[want.bucket_id]
            sums[0] -= 1
            sums[1] -= want.cost
            if not sums[0]:
                del self._by_bucket[want.bucket_id]
