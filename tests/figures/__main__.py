"""
Prints the figures of a daemon that is asked much at once.

    python -m tests.figures [--callers N] [refused] [followed] [healthz] [borrowing]
    python -m tests.figures thousand        # of a thousand simulated ones: draws docs/thousand.png
"""

from __future__ import annotations

import argparse
import asyncio

from tests.figures import borrowing, measures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=2_000)
    parser.add_argument("which", nargs="*", default=["refused", "followed", "healthz", "borrowing"])
    chosen = parser.parse_args()
    if "thousand" in chosen.which:
        from tests.figures import thousand

        thousand.main()
    if "refused" in chosen.which:
        tell(f"{chosen.callers} equal calls, kept", asyncio.run(measures.hits(chosen.callers)))
        tell(f"{chosen.callers} equal calls over budget", asyncio.run(measures.refused(chosen.callers)))
    if "followed" in chosen.which:
        none = asyncio.run(measures.followed(0))
        tell("a stream of 1,000 events alone", none)
        tell(f"{chosen.callers} who want it whole", asyncio.run(measures.followed(chosen.callers)))
    if "healthz" in chosen.which:
        for path, word in (("/v1/messages", "water"), ("/v1/messages", "null"), ("/v1/chat/completions", "water")):
            at_rest_s, busy_s = asyncio.run(measures.healthz_s(path, word=word))
            print(
                f"/healthz worst: {at_rest_s * 1e3:.0f} ms at rest, {busy_s * 1e3:.0f} ms while 29 MB arrive at {path} ({word})"
            )
    if "borrowing" in chosen.which:
        for borrows in (False, True):
            spared = asyncio.run(borrowing.steady(2_000, 5.0, borrows=borrows))
            print(
                f"{spared.calls_a_second:.0f} calls a second {'with' if borrows else 'without'} borrowing: "
                f"{spared.commands:.3f} commands and {spared.cpu_us:.0f} us of CPU a call",
                flush=True,
            )


def tell(what: str, cost: measures.Cost) -> None:
    print(f"{what}: {cost.cpu_s:.2f} s of CPU, answers {dict(cost.statuses)}, upstream asked {cost.asked} times", flush=True)


if __name__ == "__main__":
    main()
