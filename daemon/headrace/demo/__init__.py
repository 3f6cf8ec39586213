"""
`make demo`: the main job in under a minute, on loopback, with real processes.

`stage.py` starts the simulator, a daemon and a worker, and ends them; `calls.py` is how a service calls the daemon; `steps.py`
is what is shown, each step checking itself; `show.py` is what is seen of it. With `--upstream` the real API is asked instead,
and only what costs next to nothing is shown.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from headrace.demo import calls, show, steps
from headrace.demo.stage import Stage, interrupting
from headrace.errors import ConfigError


def run(upstream: str | None = None) -> int:
    """Show it, and return the exit code: 0 if every step went as expected, 130 after Ctrl-C."""
    key = os.environ.get("ANTHROPIC_API_KEY", "")
    if upstream and not key:
        raise ConfigError(f"ANTHROPIC_API_KEY: is not set, and {upstream} asks for a key; without --upstream none is needed")
    screen = show.Screen()
    chosen = steps.REAL if upstream else steps.SIMULATED
    try:
        outcomes = asyncio.run(_show(Stage(upstream, key, tell=screen.say), chosen, screen))
    except asyncio.CancelledError:
        screen.say("interrupted; every process has been ended")
        return 130
    screen.close(outcomes)
    return 0 if all(outcome.is_ok for outcome in outcomes) else 1


async def _show(stage: Stage, chosen: Sequence[steps.Step], screen: show.Screen) -> list[steps.Outcome]:
    # A task of its own: what interrupts it is not to cut short what waits for it.
    showing = asyncio.create_task(_perform(stage, chosen, screen))
    with interrupting(showing):
        return await showing


async def _perform(stage: Stage, chosen: Sequence[steps.Step], screen: show.Screen) -> list[steps.Outcome]:
    outcomes = []
    async with stage, calls.open_scene(stage.http, stage.grpc, stage.simulator) as scene:
        with screen.progress(len(chosen)) as progress:
            for step in chosen:
                progress.begin(step)
                outcomes.append(await steps.perform(step, scene))
                progress.end(outcomes[-1])
    return outcomes
