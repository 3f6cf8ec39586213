"""
The long form: `make fuzz`, `make fuzz TARGET="bodies.messages codec.answer" N=1000000 SEED=7`.

It prints a line a target: inputs, how many of them the decoder could read, inputs a second, the slowest, and every kind of
trouble with the shortest input that made it. It fails if there is any.
"""

from __future__ import annotations

import argparse
import sys

import structlog
from tests.fuzz.table import TARGETS
from tests.fuzz.target import Findings, Target, mutated, run

_SHOWN = 300


def main() -> int:
    """Fuzz; return 1 if anything was found."""
    options = _options()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # what cannot be read is told, line by line
    total = troubles = 0
    for target in TARGETS:
        if not options.targets or target.name in options.targets:
            found = run(target, mutated(target, options.inputs, options.seed))
            _show(target, found)
            total, troubles = total + found.inputs, troubles + len(found.broken)
    print(f"{total:,} inputs, {troubles} kinds of trouble")
    return int(troubles > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[*(target.name for target in TARGETS), []], help="which; all of them")
    parser.add_argument("-n", "--inputs", type=int, default=1_000_000, help="of each")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _show(target: Target, found: Findings) -> None:
    rate, slowest_ms = found.inputs / max(found.took_s, 1e-9), found.slowest_s * 1000
    print(
        f"{target.name:<24} {found.inputs:>9,} inputs  {100 * found.read / max(1, found.inputs):>3.0f} % read"
        f"  {rate:>7,.0f}/s  slowest {slowest_ms:>5.1f} ms ({len(found.slowest):,} bytes)",
        flush=True,
    )
    for kind, (data, error) in found.broken.items():
        print(f"    {kind}: {error!s:.200}\n        {data[:_SHOWN]!r}{'...' if len(data) > _SHOWN else ''}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
