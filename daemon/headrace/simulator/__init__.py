"""
A stand-in for the Anthropic API, to rehearse a configuration on and to test against.

    async with await start(Options.instant()) as simulator:
        simulator.faults.add("overloaded", count=2)
        ...  # point a client at simulator.url
        assert simulator.counts.outcomes["answered"] == 1

    options    everything that can be chosen
    server     its life from start to stop; `control` its own endpoints
    api        the door: which endpoint (`routes`), which key, which version; a `call` is what comes through it
    checks     what is refused before anything is said (`turns`: its messages), and `refusals`, how

    conversation   messages, chat, count of tokens
    script         what is said; `tokens` what it costs; `render` and `chat` how it looks; `saying` how it gets onto the wire
    models         the list of models
    batches        Message Batches
    files          the Files API, read by `multipart`
    organization   the Admin API
    answers        whatever else a test orders
    pages          lists in pages; `encodings` of answers

    limits     token buckets and their headers; `classes`, which models share them
    faults     what goes wrong, and for whom; `breaking` how an answer ends early
    journal    what was asked
    command    the command line
"""

from headrace.simulator.answers import Answer
from headrace.simulator.faults import Kind, Rule
from headrace.simulator.journal import Counts, Visit, fingerprint
from headrace.simulator.options import Options
from headrace.simulator.server import Simulator, main, start

__all__ = ["Answer", "Counts", "Kind", "Options", "Rule", "Simulator", "Visit", "fingerprint", "main", "start"]
