"""
One attack, as a process of its own:

    python -m tests.hostile.attack NAME TARGET

TARGET is a `Target` as JSON. It says "attacking" once it begins, goes on until it is told to end, and says then what it did.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Mapping

from tests.hostile import callers, http2_floods, http_floods, neighbours, planting
from tests.hostile.target import Attack, Target

ATTACKS: Mapping[str, Attack] = {
    name: attack for part in (http_floods, http2_floods, callers, neighbours, planting) for name, attack in part.ATTACKS.items()
}


async def main(name: str, target: Target) -> None:
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # else it tells of each write to a connection that is closed
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await ATTACKS[name](target)
    print(", ".join(f"{count:,} {what}" for what, count in target.tally.items()), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Target(**json.loads(sys.argv[2]))))
