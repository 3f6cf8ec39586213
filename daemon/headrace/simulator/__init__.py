"""
A stand-in for the Anthropic API, to rehearse a configuration on and to test against.

    async with await start(Options.instant()) as simulator:
        simulator.faults.add("overloaded", count=2)
        ...  # point a client at simulator.url
        assert simulator.counts.outcomes["answered"] == 1

    options    everything that can be chosen
    server     its life from start to stop; `control` its own endpoints
    api        the door: routes, keys, versions
    checks     what is refused before anything is said, and `refusals`, how
    script     what is said; `tokens` what it costs; `render` how it looks; `saying` how it gets onto the wire
    limits     token buckets and their headers
    faults     what goes wrong, and for whom
    journal    what was asked
    command    the command line
"""

from headrace.simulator.faults import Kind, Rule
from headrace.simulator.journal import Counts, Visit, fingerprint
from headrace.simulator.options import Options
from headrace.simulator.server import Simulator, main, start

__all__ = ["Counts", "Kind", "Options", "Rule", "Simulator", "Visit", "fingerprint", "main", "start"]
