"""
Rehearsing a configuration: what it would do to some traffic, by simulation, on the arithmetic that the daemon goes by.

    traffic.py   the calls, read from a file
    plan.py      what is rehearsed of a configuration
    world.py     the simulation: what happens, in order; read this first
    lines.py     the buckets and the lines before them
    queues.py    the calls of one flow, of which the most urgent stands in the lines
    daemons.py   what each daemon has for itself
    lending.py   what daemons hold of the buckets in advance
    tally.py     what came of it, as it goes on
    findings.py  what came of it, in the end
    report.py    the same for a terminal
    picture.py   the same as a PNG
    command.py   `headrace rehearse`
"""
